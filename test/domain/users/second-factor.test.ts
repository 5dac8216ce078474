import { decodeJwt } from 'jose';
import { sql } from 'kysely';
import { Secret, TOTP } from 'otpauth';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { accountKey } from '../../../src/domain/sessions/signin-locks.ts';
import { stepOf } from '../../../src/domain/users/one-time-codes.ts';
import { openStage, PASSWORD, query, type Stage } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

/** The code of the step that is `steps` from now. */
const codeOf = (secret: string, steps = 0) =>
  new TOTP({ secret: Secret.fromBase32(secret) }).generate({ timestamp: Date.now() + steps * 30_000 });

/** Whatever step was taken last is forgotten, so that a test need not wait for the next one. */
const nextStep = (id: string) => query(stage, sql`update users set totp_last_step = 0 where id = ${id}`);

const login = (email: string, code?: string) =>
  stage.ask('/auth/login', { json: { email, password: PASSWORD, ...(code === undefined ? {} : { code }) } });

async function withFactor() {
  const user = await stage.user();
  const token: string = (await stage.signIn(user.email)).body.data.access_token;
  const { secret } = (await stage.ask('/auth/mfa/setup', { method: 'POST', token })).body.data;
  const enabled = await stage.ask('/auth/mfa/enable', { json: { code: codeOf(secret) }, token });
  expect(enabled.status).toBe(200);
  const codes: string[] = enabled.body.data.recovery_codes;
  await nextStep(user.id);
  return { ...user, token, secret, codes };
}

test('codes are those of RFC 6238, appendix B, cut to six digits', () => {
  const { keyring } = stage.harness;
  const sealed = keyring.encrypt('totp', Buffer.from('12345678901234567890'), 'somebody');
  for (const [seconds, code] of [
    [59, '287082'],
    [1111111109, '081804'],
    [1234567890, '005924'],
    [20000000000, '353130'],
  ] as const) {
    const step = Math.floor(seconds / 30);
    expect(stepOf(keyring, 'somebody', sealed, code, seconds * 1000)).toBe(step);
    expect(stepOf(keyring, 'somebody', sealed, code, (seconds + 30) * 1000)).toBe(step);
    expect(stepOf(keyring, 'somebody', sealed, code, (seconds + 90) * 1000)).toBeUndefined();
  }
  expect(() => stepOf(keyring, 'another', sealed, '287082', 59_000)).toThrow('cannot be opened');
});

describe('turning it on', () => {
  test('takes a code of the secret, gives ten recovery codes once, ends the other sessions and tells the owner', async () => {
    const { id, email } = await stage.user();
    const token = (await stage.signIn(email)).body.data.access_token;
    const other = (await stage.signIn(email)).body.data.access_token;
    const enable = (code: string) => stage.ask('/auth/mfa/enable', { json: { code }, token });
    expect((await enable('123456')).status).toBe(409);

    const made = await stage.ask('/auth/mfa/setup', { method: 'POST', token });
    expect(made.status).toBe(200);
    const { secret, otpauth_url } = made.body.data;
    const url = new URL(otpauth_url);
    expect([url.protocol, url.searchParams.get('secret'), url.searchParams.get('issuer')]).toEqual([
      'otpauth:',
      secret,
      'Waybill',
    ]);
    expect((await login(email)).status).toBe(200);

    const wrong = codeOf(secret) === '000000' ? '000001' : '000000';
    expect(await enable(wrong)).toMatchObject({ status: 400, body: { error: { field: 'code' } } });
    const enabled = await enable(codeOf(secret));
    const codes: string[] = enabled.body.data.recovery_codes;
    expect(new Set(codes).size).toBe(10);
    for (const code of codes) expect(code).toMatch(/^[a-z2-9]{6}(-[a-z2-9]{6}){3}$/);
    expect((await stage.ask('/users/me', { token })).status).toBe(200);
    expect((await stage.ask('/users/me', { token: other })).status).toBe(401);
    expect((await stage.mails(email))[0]?.template).toBe('second-factor-on');
    expect((await enable(codeOf(secret, 1))).status).toBe(409);
    expect((await stage.ask('/auth/mfa/setup', { method: 'POST', token })).status).toBe(409);

    const [row] = await query(stage, sql<{ text: string }>`select users::text as text from users where id = ${id}`);
    expect(row?.text).not.toContain(secret);
    for (const code of codes) expect(row?.text).not.toContain(code.replaceAll('-', ''));
  });

  test.each([{}, { code: 1 }, { code: 'abcdef' }, { code: '1234567' }, { code: '123456', x: 1 }])(
    'refuses %j',
    async (json) => {
      const token = (await stage.signIn((await stage.user()).email)).body.data.access_token;
      expect((await stage.ask('/auth/mfa/enable', { json, token })).status).toBe(400);
      expect((await stage.ask('/auth/mfa/enable', { json })).status).toBe(401);
    },
  );
});

describe('signing in', () => {
  test('asks for a code, and says in the token how it was done', async () => {
    const { email, secret } = await withFactor();
    expect(await login(email)).toMatchObject({
      status: 401,
      body: { error: { code: 'UNAUTHORIZED', details: { mfa_required: true } } },
    });
    const answer = await login(email, codeOf(secret));
    expect(answer.status).toBe(200);
    const { access_token, refresh_token } = answer.body.data;
    expect(decodeJwt(access_token).amr).toEqual(['pwd', 'otp', 'mfa']);
    const refreshed = await stage.ask('/auth/refresh', { json: { refresh_token } });
    expect(decodeJwt(refreshed.body.data.access_token).amr).toEqual(['pwd', 'otp', 'mfa']);
    expect(decodeJwt((await stage.signIn((await stage.user()).email)).body.data.access_token).amr).toEqual(['pwd']);
  });

  test('does not say that there is one to whoever does not know the password', async () => {
    const { email, secret } = await withFactor();
    const json = { email, password: 'not the password', code: codeOf(secret) };
    const answer = await stage.ask('/auth/login', { json });
    expect(answer.status).toBe(401);
    expect(answer.body.error).not.toHaveProperty('details');
    expect((await login(email, codeOf(secret))).status).toBe(200);
  });

  test('takes each step once, also by two at once', async () => {
    const { email, secret } = await withFactor();
    const code = codeOf(secret);
    const answers = await Promise.all([login(email, code), login(email, code), login(email, code)]);
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 401, 401]);
    expect((await login(email, code)).status).toBe(401);
    expect((await login(email, codeOf(secret, -1))).status).toBe(401);
    expect((await login(email, codeOf(secret, 1))).status).toBe(200);
  });

  test('takes each recovery code once, however it is written', async () => {
    const { email, codes } = await withFactor();
    const [first = '', second = ''] = codes;
    const answer = await login(email, first);
    expect(decodeJwt(answer.body.data.access_token).amr).toEqual(['pwd', 'mfa']);
    expect((await login(email, first)).status).toBe(401);
    expect((await login(email, second.replaceAll('-', '').toUpperCase())).status).toBe(200);
  });

  test('counts wrong codes towards the lock; asking for a code neither counts nor sets it back', async () => {
    const { id, email, secret } = await withFactor();
    const wrong = codeOf(secret, 40);
    for (let i = 0; i < 5; i += 1) {
      expect((await login(email)).status).toBe(401);
      expect((await login(email, wrong)).status).toBe(401);
    }
    expect((await login(email, codeOf(secret))).status).toBe(429);
    expect((await login(email)).status).toBe(429);
    await query(
      stage,
      sql`update signin_locks set locked_until = now() where key = ${accountKey(stage.harness.keyring, email)}`,
    );
    expect((await login(email, codeOf(secret))).status).toBe(200);
    const refused = (await stage.emitted(id)).filter(({ type }) => type === 'session.refused');
    expect(refused.map(({ data }) => data.metadata.why)).toEqual(Array(5).fill('wrong_code'));
  });
});

describe('step-up', () => {
  const next = 'a louder harbour at dusk';

  test('a change of the password needs a code', async () => {
    const { token, secret } = await withFactor();
    const change = (more: object) =>
      stage.ask('/auth/change-password', {
        json: { current_password: PASSWORD, new_password: next, ...more },
        token,
      });
    expect(await change({})).toMatchObject({
      status: 400,
      body: { error: { field: 'code', details: { mfa_required: true } } },
    });
    expect(await change({ code: codeOf(secret, 40) })).toMatchObject({
      status: 400,
      body: { error: { field: 'code' } },
    });
    expect((await change({ code: codeOf(secret) })).status).toBe(200);
  });

  test('so does a change of the address, and turning the factor off', async () => {
    const { id, email, token, secret, codes } = await withFactor();
    const ask = (path: string, json: object) => stage.ask(path, { json: { password: PASSWORD, ...json }, token });
    const address = { email: `new.${email}` };
    expect(await ask('/auth/change-email', address)).toMatchObject({ status: 400, body: { error: { field: 'code' } } });
    expect((await ask('/auth/change-email', { ...address, code: codes[3] })).status).toBe(202);

    expect(await ask('/auth/mfa/disable', {})).toMatchObject({ status: 400, body: { error: { field: 'code' } } });
    expect(await ask('/auth/mfa/disable', { code: codes[3] })).toMatchObject({ status: 400 });
    expect(await ask('/auth/mfa/disable', { code: codeOf(secret), password: 'wrong' })).toMatchObject({
      status: 400,
      body: { error: { field: 'password' } },
    });
    await nextStep(id);
    expect((await ask('/auth/mfa/disable', { code: codeOf(secret) })).status).toBe(200);
    expect((await stage.mails(email))[0]?.template).toBe('second-factor-off');
    expect((await login(email)).status).toBe(200);
    expect((await ask('/auth/mfa/disable', { code: codeOf(secret) })).status).toBe(409);
    const [row] = await query(
      stage,
      sql<{ n: number }>`select cardinality(recovery_codes) as n from users where id = ${id} and totp_secret is null`,
    );
    expect(row).toEqual({ n: 0 });
  });
});

test('a reset of the password leaves the second factor on', async () => {
  const { email, secret } = await withFactor();
  await stage.ask('/auth/forgot-password', { json: { email } });
  const [mail] = await stage.mails(email);
  const password = 'a louder harbour at dusk';
  expect((await stage.ask('/auth/reset-password', { json: { token: mail?.token, password } })).status).toBe(200);
  expect((await stage.signIn(email, password)).status).toBe(401);
  expect((await stage.ask('/auth/login', { json: { email, password, code: codeOf(secret) } })).status).toBe(200);
});
