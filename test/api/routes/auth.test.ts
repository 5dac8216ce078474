import { type CryptoKey, createLocalJWKSet, decodeProtectedHeader, generateKeyPair, jwtVerify, SignJWT } from 'jose';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PasswordHasher } from '../../../src/domain/users/password.ts';
import { freshEmail, openStage, PASSWORD, query, type Stage } from '../../domain/users/stage.ts';
import { eventually } from '../../harness.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

const registration = (more: object = {}) => ({
  email: freshEmail(),
  password: PASSWORD,
  full_name: 'Ada Lovelace',
  terms_accepted: true,
  ...more,
});
const userCount = async () => Number((await query(stage, sql<{ n: string }>`select count(*) as n from users`))[0]?.n);

describe('registering', () => {
  test('creates the account, tells of it and mails a link that verifies it once', async () => {
    const body = registration({ full_name: 'Åsa 浅 🐚' });
    const answer = await stage.ask('/auth/register', { json: body });
    expect(answer).toMatchObject({
      status: 201,
      body: { status: 'success', data: { email: body.email, full_name: 'Åsa 浅 🐚', is_verified: false } },
    });
    const { user_id, created_at } = answer.body.data;
    expect(Object.keys(answer.body.data).sort()).toEqual([
      'created_at',
      'email',
      'full_name',
      'is_verified',
      'user_id',
    ]);

    const emitted = await stage.emitted(user_id);
    expect(emitted.find(({ target }) => target === 'events')).toMatchObject({
      type: 'user.created',
      subject: user_id,
      sequence: 1,
      data: { user_id, email: body.email, full_name: 'Åsa 浅 🐚', created_at },
    });
    expect(emitted.map(({ type }) => type)).toContain('user.registered');

    expect(await stage.signIn(body.email)).toMatchObject({ status: 403, body: { error: { code: 'FORBIDDEN' } } });
    const [mail] = await stage.mails(body.email);
    expect(mail).toMatchObject({ template: 'verify-email' });
    expect(mail?.link?.startsWith(`${stage.harness.config.publicUrl}/verify-email?token=`)).toBe(true);
    const token = mail?.token;
    expect(await stage.ask('/auth/verify-email', { json: { token } })).toMatchObject({
      status: 200,
      body: { data: { user_id, email: body.email, is_verified: true } },
    });
    expect(await stage.ask('/auth/verify-email', { json: { token } })).toMatchObject({
      status: 400,
      body: { error: { code: 'VALIDATION_ERROR', field: 'token' } },
    });
    expect((await stage.signIn(body.email)).status).toBe(200);
    expect((await stage.emitted(user_id)).filter(({ type }) => type === 'user.verified')).toHaveLength(2);
  });

  test('refuses an address in use, whatever its case', async () => {
    const body = registration();
    expect((await stage.ask('/auth/register', { json: body })).status).toBe(201);
    const before = await userCount();
    expect(await stage.ask('/auth/register', { json: { ...body, email: body.email.toUpperCase() } })).toMatchObject({
      status: 409,
      body: { error: { code: 'CONFLICT', field: 'email' } },
    });
    expect(await userCount()).toBe(before);
  });

  test('of ten at once with one address one wins', async () => {
    const body = registration();
    const answers = await Promise.all(Array.from({ length: 10 }, () => stage.ask('/auth/register', { json: body })));
    const statuses = answers.map(({ status }) => status).sort();
    expect(statuses).toEqual([201, ...Array(9).fill(409)]);
    expect(await stage.mails(body.email)).toHaveLength(1);
  });

  test('does the work of one idempotency key once', async () => {
    const body = registration();
    const headers = { 'idempotency-key': body.email };
    const first = await stage.ask('/auth/register', { json: body, headers });
    expect(await stage.ask('/auth/register', { json: body, headers })).toMatchObject({
      status: 201,
      body: { data: first.body.data },
    });
    expect(await stage.ask('/auth/register', { json: { ...body, full_name: 'Another' }, headers })).toMatchObject({
      status: 422,
    });
  });

  test('never stores or logs the password, and publishes it sealed', async () => {
    const password = 'an unmistakable secret phrase';
    await stage.ask('/auth/register', { json: registration({ password }) });
    const { logged } = stage.harness;
    expect(logged.join('').includes(password)).toBe(false);
    const [row] = await query(
      stage,
      sql<{ n: string }>`
      select (select count(*) from users where users::text like ${`%${password}%`})
        + (select count(*) from outbox where body like ${`%${password}%`})
        + (select count(*) from operations where operations::text like ${`%${password}%`}) as n`,
    );
    expect(row?.n).toBe('0');
  });
});

describe('bad input', () => {
  const good = { email: 'x@example.com', password: PASSWORD, full_name: 'X', terms_accepted: true };
  const { email: _e, ...noEmail } = good;
  const { password: _p, ...noPassword } = good;
  const { full_name: _f, ...noName } = good;
  const { terms_accepted: _t, ...noTerms } = good;

  test.each([
    ['/auth/register', 'email', noEmail],
    ['/auth/register', 'password', noPassword],
    ['/auth/register', 'full_name', noName],
    ['/auth/register', 'terms_accepted', noTerms],
    ['/auth/register', 'email', { ...good, email: 7 }],
    ['/auth/register', 'email', { ...good, email: 'nobody' }],
    ['/auth/register', 'email', { ...good, email: 'жук@example.com' }],
    ['/auth/register', 'email', { ...good, email: `${'a'.repeat(300)}@example.com` }],
    ['/auth/register', 'email', { ...good, email: 'a\u0000b@example.com' }],
    ['/auth/register', 'password', { ...good, password: 'short' }],
    ['/auth/register', 'password', { ...good, password: ['a', 'b'] }],
    ['/auth/register', 'password', { ...good, password: 'x'.repeat(129) }],
    ['/auth/register', 'password', { ...good, password: 'x'.repeat(60_000) }],
    ['/auth/register', 'password', { ...good, password: 'password1' }],
    ['/auth/register', 'password', { ...good, password: 'harbour\u0000dawn' }],
    ['/auth/register', 'password', { ...good, password: 'harbour\ud800dawn' }],
    ['/auth/register', 'full_name', { ...good, full_name: '' }],
    ['/auth/register', 'full_name', { ...good, full_name: '   ' }],
    ['/auth/register', 'full_name', { ...good, full_name: 'x'.repeat(201) }],
    ['/auth/register', 'full_name', { ...good, full_name: 'two\nlines' }],
    ['/auth/register', 'full_name', { ...good, full_name: null }],
    ['/auth/register', 'terms_accepted', { ...good, terms_accepted: false }],
    ['/auth/register', 'terms_accepted', { ...good, terms_accepted: 'true' }],
    ['/auth/register', 'role', { ...good, role: 'admin' }],
    ['/auth/verify-email', 'token', {}],
    ['/auth/verify-email', 'token', { token: 7 }],
    ['/auth/verify-email', 'token', { token: '' }],
    ['/auth/verify-email', 'token', { token: 'never issued' }],
    ['/auth/verify-email', 'token', { token: 'ключ 🐚' }],
    ['/auth/verify-email', 'token', { token: 'x'.repeat(5000) }],
    ['/auth/verify-email', 'token', { token: 'a\u0000' }],
    ['/auth/verify-email', 'extra', { token: 'a', extra: 1 }],
    ['/auth/resend-verification', 'email', {}],
    ['/auth/resend-verification', 'email', { email: {} }],
    ['/auth/resend-verification', 'email', { email: 'x'.repeat(500) }],
    ['/auth/resend-verification', 'name', { email: 'x@example.com', name: 'X' }],
    ['/auth/login', 'email', { password: PASSWORD }],
    ['/auth/login', 'password', { email: 'x@example.com' }],
    ['/auth/login', 'password', { email: 'x@example.com', password: 1 }],
    ['/auth/login', 'password', { email: 'x@example.com', password: 'x'.repeat(2000) }],
    ['/auth/login', 'password', { email: 'x@example.com', password: 'a\u0000' }],
    ['/auth/login', 'remember', { email: 'x@example.com', password: PASSWORD, remember: true }],
    ['/auth/refresh', 'refresh_token', {}],
    ['/auth/refresh', 'refresh_token', { refresh_token: null }],
    ['/auth/refresh', 'refresh_token', { refresh_token: 'x'.repeat(300) }],
    ['/auth/refresh', 'user', { refresh_token: 'x', user: 1 }],
    ['/auth/forgot-password', 'email', {}],
    ['/auth/forgot-password', 'email', { email: ['x@example.com'] }],
    ['/auth/forgot-password', 'url', { email: 'x@example.com', url: 'https://evil.example' }],
    ['/auth/reset-password', 'token', { password: PASSWORD }],
    ['/auth/reset-password', 'password', { token: 'x' }],
    ['/auth/reset-password', 'password', { token: 'x', password: 'short' }],
    ['/auth/reset-password', 'password', { token: 'x', password: 'password1' }],
    ['/auth/reset-password', 'token', { token: 'never issued', password: PASSWORD }],
    ['/auth/reset-password', 'email', { token: 'x', password: PASSWORD, email: 'x@example.com' }],
  ])('%s names %s (case %#)', async (path, field, json) => {
    const before = await userCount();
    const answer = await stage.ask(path, { json });
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR', field } } });
    expect(await userCount()).toBe(before);
  });

  test.each([
    '/auth/register',
    '/auth/verify-email',
    '/auth/resend-verification',
    '/auth/login',
    '/auth/refresh',
    '/auth/forgot-password',
    '/auth/reset-password',
  ])('%s takes nothing but JSON of a sensible size', async (path) => {
    const post = (raw: string, type = 'application/json') =>
      stage.ask(path, { raw, headers: { 'content-type': type } });
    expect((await post('{"email": ')).status).toBe(400);
    expect((await post('[]')).status).toBe(400);
    expect((await post('null')).status).toBe(400);
    expect((await post('email=x', 'application/x-www-form-urlencoded')).status).toBe(415);
    expect((await post(JSON.stringify({ email: 'x'.repeat(70_000) }))).status).toBe(413);
    expect((await stage.ask(path, { method: 'POST' })).status).toBeGreaterThanOrEqual(400);
    expect((await stage.ask(path, { method: 'POST' })).status).toBeLessThan(500);
  });
});

describe('signing in', () => {
  test('gives an access token of RFC 9068 that others can check with the key set', async () => {
    const { id, email } = await stage.user();
    const answer = await stage.signIn(email.toUpperCase());
    expect(answer).toMatchObject({ status: 200, body: { data: { token_type: 'Bearer', expires_in: 900 } } });
    const { access_token, refresh_token } = answer.body.data;
    expect(refresh_token).toMatch(/^wbr_/);

    const { body: keySet } = await stage.ask('/.well-known/jwks.json');
    expect(Object.keys(keySet)).toEqual(['keys']);
    expect(keySet.keys[0]).not.toHaveProperty('d');
    const header = decodeProtectedHeader(access_token);
    expect(header).toEqual({ alg: 'Ed25519', typ: 'at+jwt', kid: keySet.keys[0].kid });
    const { issuer, audience } = stage.harness.config.jwt;
    const { payload } = await jwtVerify(access_token, createLocalJWKSet(keySet), { issuer, audience, typ: 'at+jwt' });
    expect(payload).toMatchObject({ sub: id, role: 'user', sid: expect.any(String), jti: expect.any(String) });
    expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(900);

    expect(await stage.ask('/users/me', { token: access_token })).toMatchObject({
      status: 200,
      body: { data: { user_id: id, email } },
    });
    const emitted = await stage.emitted(id);
    expect(
      emitted
        .filter(({ type }) => type === 'session.created')
        .map(({ target }) => target)
        .sort(),
    ).toEqual(['audit', 'events']);
  });

  test('answers alike for a wrong password and an unknown address', async () => {
    const { id, email } = await stage.user();
    const wrong = await stage.signIn(email, 'not the password');
    const unknown = await stage.signIn(freshEmail());
    expect(wrong.status).toBe(401);
    expect(unknown.status).toBe(401);
    expect(unknown.body.error).toEqual(wrong.body.error);
    const audits = (await stage.emitted()).filter(({ type }) => type === 'session.refused');
    expect(audits.find(({ data }) => data.subject === id)?.data).toMatchObject({
      outcome: 'failure',
      metadata: { why: 'wrong_password' },
    });
    const stranger = audits.find(({ data }) => data.metadata.why === 'unknown_address');
    expect(stranger?.data.metadata.identifier_hmac).toMatch(/^[0-9a-f]{32}$/);
    expect(JSON.stringify(stranger)).not.toContain('@');
  });

  test('tells of a disabled account only to whoever knows the password', async () => {
    const { id, email } = await stage.user();
    await query(stage, sql`update users set is_active = false where id = ${id}`);
    expect((await stage.signIn(email, 'not the password')).status).toBe(401);
    expect((await stage.signIn(email)).status).toBe(403);
  });

  test('hashes again when the settings have changed', async () => {
    const { id, email } = await stage.user();
    const old = await new PasswordHasher({ memoryKib: 2048, time: 2, parallelism: 1 }).hash(PASSWORD);
    await query(stage, sql`update users set password_hash = ${old} where id = ${id}`);
    expect((await stage.signIn(email)).status).toBe(200);
    const [row] = await query(stage, sql<{ password_hash: string }>`select password_hash from users where id = ${id}`);
    expect(row?.password_hash).toContain('m=1024');
    expect((await stage.signIn(email)).status).toBe(200);
  });
});

describe('tokens that do not count', () => {
  const forged = async (claims: object, header: object, key?: CryptoKey) => {
    const { kid, key: own } = await stage.identity.signingKeys.current();
    const { issuer, audience } = stage.harness.config.jwt;
    const now = Math.floor(Date.now() / 1000);
    return new SignJWT({ iss: issuer, aud: audience, iat: now, exp: now + 900, jti: 'x', ...claims })
      .setProtectedHeader({ alg: 'Ed25519', typ: 'at+jwt', kid, ...header })
      .sign(key ?? own);
  };

  test('are those of another key, type, issuer, audience or time', async () => {
    const { email } = await stage.user();
    const token = (await stage.signIn(email)).body.data.access_token;
    const [, payload] = token.split('.');
    const { sub, sid } = JSON.parse(Buffer.from(payload, 'base64url').toString());
    const stranger = await generateKeyPair('Ed25519');
    const me = (t: string) => stage.ask('/users/me', { token: t });

    expect((await me(await forged({ sub, sid }, {}))).status).toBe(200);
    const bad = [
      await forged({ sub, sid }, {}, stranger.privateKey),
      await forged({ sub, sid }, { typ: 'JWT' }),
      await forged({ sub, sid }, { kid: 'unknown' }),
      await forged({ sub, sid, iss: 'https://elsewhere.example' }, {}),
      await forged({ sub, sid, aud: 'others' }, {}),
      await forged({ sub, sid, exp: Math.floor(Date.now() / 1000) - 1 }, {}),
      await forged({ sub: sid, sid }, {}),
      await forged({ sub }, {}),
      `${Buffer.from('{"alg":"none","typ":"at+jwt"}').toString('base64url')}.${payload}.`,
      'garbage',
    ];
    for (const t of bad) expect(await me(t)).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHORIZED' } } });
    expect((await stage.ask('/users/me')).status).toBe(401);
  });
});

describe('a token', () => {
  test('does not count after its time, even when it counted before', async () => {
    const { id, email } = await stage.user();
    await stage.signIn(email);
    const [session] = await query(stage, sql<{ id: string }>`select id from sessions where user_id = ${id}`);
    const { kid, key } = await stage.identity.signingKeys.current();
    const { issuer, audience } = stage.harness.config.jwt;
    const now = Math.floor(Date.now() / 1000);
    const token = await new SignJWT({
      iss: issuer,
      aud: audience,
      iat: now,
      exp: now + 2,
      jti: 'x',
      sub: id,
      sid: session?.id,
    })
      .setProtectedHeader({ alg: 'Ed25519', typ: 'at+jwt', kid })
      .sign(key);
    const status = async () => (await stage.ask('/users/me', { token })).status;
    expect(await status()).toBe(200);
    await eventually(async () => (await status()) === 401, 'the token has expired');
    expect(Date.now() / 1000).toBeGreaterThanOrEqual(now + 2);
  });

  test.each([
    ['a disabled account', sql`is_active = false`],
    ['a deleted account', sql`deleted_at = now()`],
  ])('of %s does not count, even while its session is open', async (_, change) => {
    const { id, email } = await stage.user();
    const { access_token, refresh_token } = (await stage.signIn(email)).body.data;
    expect((await stage.ask('/users/me', { token: access_token })).status).toBe(200);
    await query(stage, sql`update users set ${change} where id = ${id}`);
    expect((await stage.ask('/users/me', { token: access_token })).status).toBe(401);
    expect((await stage.ask('/auth/refresh', { json: { refresh_token } })).status).toBe(401);
  });
});

describe('refreshing', () => {
  const refresh = (refresh_token: string) => stage.ask('/auth/refresh', { json: { refresh_token } });
  const openSession = async () => {
    const user = await stage.user();
    const { refresh_token, access_token } = (await stage.signIn(user.email)).body.data;
    return { ...user, refresh_token, access_token };
  };

  test('rotates, and two tabs at once get the same successor', async () => {
    const { refresh_token } = await openSession();
    const answers = await Promise.all(Array.from({ length: 6 }, () => refresh(refresh_token)));
    expect(answers.map(({ status }) => status)).toEqual(Array(6).fill(200));
    const successors = new Set(answers.map(({ body }) => body.data.refresh_token));
    expect(successors.size).toBe(1);
    const [next] = [...successors];
    expect(next).not.toBe(refresh_token);
    expect((await refresh(next)).status).toBe(200);
  });

  test('ends the session, tells and mails when a token older than the last is used', async () => {
    const { id, email, refresh_token, access_token } = await openSession();
    const second = (await refresh(refresh_token)).body.data.refresh_token;
    const third = (await refresh(second)).body.data.refresh_token;
    expect((await refresh(refresh_token)).status).toBe(401);
    expect((await refresh(third)).status).toBe(401);
    expect((await stage.ask('/users/me', { token: access_token })).status).toBe(401);
    const events = (await stage.emitted(id)).filter(({ target }) => target === 'events').slice(-2);
    expect(events.map(({ type, sequence }) => [type, sequence])).toEqual([
      ['session.revoked', 3],
      ['session.reuse_detected', 4],
    ]);
    expect((await stage.mails(email)).map(({ template }) => template)).toEqual(['session-reuse']);
  });

  test('takes the token just replaced for 30 seconds only', async () => {
    const { id, refresh_token } = await openSession();
    const second = (await refresh(refresh_token)).body.data.refresh_token;
    await query(stage, sql`update sessions set rotated_at = now() - interval '25 seconds' where user_id = ${id}`);
    expect((await refresh(refresh_token)).body.data.refresh_token).toBe(second);
    await query(stage, sql`update sessions set rotated_at = now() - interval '31 seconds' where user_id = ${id}`);
    expect((await refresh(refresh_token)).status).toBe(401);
    expect((await refresh(second)).status).toBe(401);
  });

  test.each(['expires_at', 'idle_expires_at'])('ends with %s', async (column) => {
    const { id, refresh_token } = await openSession();
    await query(stage, sql`update sessions set ${sql.ref(column)} = now() where user_id = ${id}`);
    expect((await refresh(refresh_token)).status).toBe(401);
  });

  test('lets a session last 30 days and idle 7, and never longer by refreshing', async () => {
    const { id, refresh_token } = await openSession();
    await query(stage, sql`update sessions set expires_at = now() + interval '2 days' where user_id = ${id}`);
    await refresh(refresh_token);
    const [row] = await query(
      stage,
      sql<{ same: boolean; idle: boolean }>`
        select idle_expires_at = expires_at as same, expires_at < now() + interval '2 days' as idle
        from sessions where user_id = ${id}`,
    );
    expect(row).toEqual({ same: true, idle: true });
  });

  test('takes no access token, and a refresh token opens nothing else', async () => {
    const { access_token, refresh_token } = (await stage.signIn((await stage.user()).email)).body.data;
    expect((await stage.ask('/users/me', { token: refresh_token })).status).toBe(401);
    expect((await stage.ask('/auth/logout', { method: 'POST', token: refresh_token })).status).toBe(401);
    for (const json of [{ refresh_token: access_token }, { refresh_token: access_token.slice(0, 47) }])
      expect([400, 401]).toContain((await stage.ask('/auth/refresh', { json })).status);
    expect((await stage.ask('/users/me', { token: access_token })).status).toBe(200);
    expect((await stage.ask('/auth/refresh', { json: { refresh_token } })).status).toBe(200);
  });

  test('does not take what is no refresh token', async () => {
    for (const text of ['nothing', `wbr_${'A'.repeat(43)}`, 'wbr_🐚']) expect((await refresh(text)).status).toBe(401);
  });
});

describe('sessions', () => {
  test('are listed and ended one by one, and their access tokens stop at once', async () => {
    const { email } = await stage.user();
    const first = (await stage.signIn(email)).body.data.access_token;
    const second = (await stage.signIn(email)).body.data.access_token;
    const { body } = await stage.ask('/auth/sessions', { token: second });
    expect(body.data.map(({ current }: { current: boolean }) => current)).toEqual([true, false]);
    expect(body.pagination).toMatchObject({ page: 1, total_items: 2 });
    const other = body.data[1].id;

    expect((await stage.ask('/users/me', { token: first })).status).toBe(200);
    expect((await stage.ask(`/auth/sessions/${other}`, { method: 'DELETE', token: second })).status).toBe(200);
    expect((await stage.ask('/users/me', { token: first })).status).toBe(401);
    expect((await stage.ask(`/auth/sessions/${other}`, { method: 'DELETE', token: second })).status).toBe(404);
    expect((await stage.ask('/auth/sessions/nonsense', { method: 'DELETE', token: second })).status).toBe(400);

    for (const raw of ['{"all":true}', '[]', '"x"', '{'])
      expect((await stage.ask('/auth/logout', { method: 'POST', raw, token: second })).status).toBe(400);
    expect((await stage.ask('/users/me', { token: second })).status).toBe(200);
    expect((await stage.ask('/auth/logout', { method: 'POST', raw: '{}', token: second })).status).toBe(200);
    expect((await stage.ask('/users/me', { token: second })).status).toBe(401);
  });

  test('of somebody else cannot be ended', async () => {
    const victim = await stage.user();
    const token = (await stage.signIn(victim.email)).body.data.access_token;
    const [session] = (await stage.ask('/auth/sessions', { token })).body.data;
    const attacker = (await stage.signIn((await stage.user()).email)).body.data.access_token;
    const answer = await stage.ask(`/auth/sessions/${session.id}`, { method: 'DELETE', token: attacker });
    expect(answer.status).toBe(404);
    expect((await stage.ask('/users/me', { token })).status).toBe(200);
  });

  test('end all at once', async () => {
    const { email } = await stage.user();
    const tokens = [];
    for (let i = 0; i < 3; i += 1) tokens.push((await stage.signIn(email)).body.data.access_token);
    expect(await stage.ask('/auth/sessions', { method: 'DELETE', token: tokens[0] })).toMatchObject({
      status: 200,
      body: { data: { revoked: 3 } },
    });
    for (const token of tokens) expect((await stage.ask('/users/me', { token })).status).toBe(401);
  });
});

describe('passwords', () => {
  const forgot = (email: string) => stage.ask('/auth/forgot-password', { json: { email } });
  const reset = (token: string | undefined, password: string) =>
    stage.ask('/auth/reset-password', { json: { token, password } });

  test('are reset by mail, once, and every session ends', async () => {
    const { id, email } = await stage.user();
    const old = (await stage.signIn(email)).body.data;
    const known = await forgot(email);
    const unknownEmail = freshEmail();
    const unknown = await forgot(unknownEmail);
    expect(known).toMatchObject({ status: 202, body: { data: { email } } });
    expect(unknown).toMatchObject({ status: 202, body: { data: { email: unknownEmail } } });
    expect(await stage.mails(unknownEmail)).toEqual([]);
    const [mail] = await stage.mails(email);
    expect(mail?.subject.toLowerCase()).toContain('reset');

    expect((await reset(mail?.token, 'password1')).status).toBe(400);
    expect((await reset(mail?.token, 'a louder harbour at dusk')).status).toBe(200);
    expect(await reset(mail?.token, 'another harbour at noon')).toMatchObject({
      status: 400,
      body: { error: { code: 'VALIDATION_ERROR', field: 'token' } },
    });
    expect((await stage.ask('/users/me', { token: old.access_token })).status).toBe(401);
    expect((await stage.signIn(email)).status).toBe(401);
    expect((await stage.signIn(email, 'a louder harbour at dusk')).status).toBe(200);
    expect((await stage.mails(email))[0]?.template).toBe('password-changed');
    expect((await stage.emitted(id)).map(({ type }) => type)).toContain('user.password_changed');
  });

  test('are asked for in the same time, whether or not there is an account', async () => {
    const { email } = await stage.user();
    const timed = async (run: () => Promise<unknown>) => {
      const began = performance.now();
      await run();
      return performance.now() - began;
    };
    for (const path of ['/auth/forgot-password', '/auth/resend-verification']) {
      for (const address of [email, freshEmail()]) {
        expect(await timed(() => stage.ask(path, { json: { email: address } }))).toBeGreaterThanOrEqual(99);
      }
    }
  });

  test('are not reset with an expired link, nor with one for another purpose', async () => {
    const { id, email } = await stage.user();
    await forgot(email);
    const [mail] = await stage.mails(email);
    expect((await stage.ask('/auth/verify-email', { json: { token: mail?.token } })).status).toBe(400);
    await query(stage, sql`update user_tokens set expires_at = now() where user_id = ${id}`);
    expect(await reset(mail?.token, 'a louder harbour at dusk')).toMatchObject({
      status: 400,
      body: { error: { field: 'token' } },
    });
  });

  test('are reset by one of two who use a link at once', async () => {
    const { email } = await stage.user();
    await forgot(email);
    const [mail] = await stage.mails(email);
    const answers = await Promise.all([1, 2, 3].map((n) => reset(mail?.token, `harbour number ${n} at dusk`)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 400, 400]);
  });

  test('are changed by who knows the old one; the other sessions end', async () => {
    const { email } = await stage.user();
    const here = (await stage.signIn(email)).body.data.access_token;
    const there = (await stage.signIn(email)).body.data.access_token;
    const change = (json: object) => stage.ask('/auth/change-password', { json, token: here });
    const next = 'a louder harbour at dusk';
    for (const [field, json] of [
      ['current_password', { new_password: next }],
      ['new_password', { current_password: PASSWORD }],
      ['new_password', { current_password: PASSWORD, new_password: 'short' }],
      ['new_password', { current_password: PASSWORD, new_password: 'password1' }],
      ['user_id', { current_password: PASSWORD, new_password: next, user_id: 1 }],
      ['current_password', { current_password: 'not the password', new_password: next }],
    ] as const) {
      expect(await change(json)).toMatchObject({ status: 400, body: { error: { field } } });
    }
    expect((await change({ current_password: PASSWORD, new_password: next })).status).toBe(200);
    expect((await stage.ask('/users/me', { token: here })).status).toBe(200);
    expect((await stage.ask('/users/me', { token: there })).status).toBe(401);
    expect((await stage.signIn(email, next)).status).toBe(200);
    expect((await stage.mails(email)).map(({ template }) => template)).toEqual(['password-changed']);
    expect((await stage.ask('/auth/change-password', { json: {} })).status).toBe(401);
  });
});

describe('the verification mail', () => {
  const resend = (email: string) => stage.ask('/auth/resend-verification', { json: { email } });

  test('comes again for who waits for it, and the answer is the same for everybody', async () => {
    const { email } = registration();
    await stage.ask('/auth/register', { json: registration({ email }) });
    const verified = await stage.user();
    const unknown = freshEmail();
    for (const address of [email, verified.email, unknown]) {
      expect(await resend(address)).toMatchObject({ status: 202, body: { data: { email: address } } });
    }
    expect(await stage.mails(email)).toHaveLength(2);
    expect(await stage.mails(verified.email)).toEqual([]);
    expect(await stage.mails(unknown)).toEqual([]);
    const [newest, first] = await stage.mails(email);
    expect(newest?.token).not.toBe(first?.token);
    expect((await stage.ask('/auth/verify-email', { json: { token: first?.token } })).status).toBe(200);
    expect((await stage.ask('/auth/verify-email', { json: { token: newest?.token } })).status).toBe(400);
  });

  test('has a link that is good for 24 hours', async () => {
    const body = registration();
    const { user_id } = (await stage.ask('/auth/register', { json: body })).body.data;
    const [mail] = await stage.mails(body.email);
    const [row] = await query(
      stage,
      sql<{ hours: string }>`
        select extract(epoch from expires_at - created_at) / 3600 as hours from user_tokens where user_id = ${user_id}`,
    );
    expect(Number(row?.hours)).toBe(24);
    await query(stage, sql`update user_tokens set expires_at = now() where user_id = ${user_id}`);
    expect(await stage.ask('/auth/verify-email', { json: { token: mail?.token } })).toMatchObject({
      status: 400,
      body: { error: { field: 'token' } },
    });
    expect((await stage.signIn(body.email)).status).toBe(403);
  });

  test('comes at most ten times in ten minutes', async () => {
    const body = registration();
    await stage.ask('/auth/register', { json: body });
    for (let i = 0; i < 12; i += 1) expect((await resend(body.email)).status).toBe(202);
    expect(await stage.mails(body.email)).toHaveLength(10);
  });
});

describe('everything at once', () => {
  test('ends without a fault and without an open session of a deleted account', async () => {
    const { id, email } = await stage.user();
    const { access_token, refresh_token } = (await stage.signIn(email)).body.data;
    await stage.ask('/auth/forgot-password', { json: { email } });
    const [mail] = await stage.mails(email);
    const next = 'a louder harbour at dusk';
    const token = access_token;
    const change = { current_password: PASSWORD, new_password: next };
    const asks = [
      () => stage.ask('/auth/refresh', { json: { refresh_token } }),
      () => stage.signIn(email),
      () => stage.ask('/auth/change-password', { json: change, token }),
      () => stage.ask('/users/me', { method: 'PUT', json: { full_name: 'Busy Body' }, token }),
      () => stage.ask('/auth/forgot-password', { json: { email } }),
      () => stage.ask('/auth/reset-password', { json: { token: mail?.token, password: next } }),
      () => stage.signIn(email, next),
      () => stage.ask('/auth/sessions', { method: 'DELETE', token }),
      () => stage.ask('/users/me', { method: 'DELETE', token }),
    ];
    const answers = await Promise.all([...asks, ...asks.toReversed()].map((run) => run()));
    for (const { status } of answers) expect(status).toBeLessThan(500);
    const open = await query(
      stage,
      sql`select 1 from sessions s join users u on u.id = s.user_id
        where u.id = ${id} and u.deleted_at is not null and s.revoked_at is null`,
    );
    expect(open).toEqual([]);
    const numbers = (await stage.emitted(id)).filter(({ target }) => target === 'events').map((e) => e.sequence);
    expect(numbers).toEqual(numbers.map((_, index) => index + 2));
  });
});

describe('rate limits', () => {
  test('count sign-ups and sign-ins in groups of their own', async () => {
    const limited = await openStage({ RATE_LIMITS: 'register=2/60,login=3/60,user=100/60' });
    try {
      const statuses = async (times: number, run: () => Promise<{ status: number }>) => {
        const seen = [];
        for (let i = 0; i < times; i += 1) seen.push((await run()).status);
        return seen;
      };
      const email = freshEmail();
      expect(await statuses(3, () => limited.ask('/auth/register', { json: {} }))).toEqual([400, 400, 429]);
      expect(await statuses(4, () => limited.signIn(email))).toEqual([401, 401, 401, 429]);
      expect(await statuses(4, () => limited.ask('/auth/forgot-password', { json: {} }))).toEqual([400, 400, 400, 400]);
      const answer = await limited.signIn(email);
      expect(answer.headers.get('x-ratelimit-limit')).toBe('3');
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    } finally {
      await limited.close();
    }
  });
});
