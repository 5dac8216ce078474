import { sql } from 'kysely';
import { Secret, TOTP } from 'otpauth';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { enableDue } from '../../../src/domain/users/intervention.ts';
import { openStage, PASSWORD, query, type Stage } from '../../domain/users/stage.ts';

let stage: Stage;
let admin: { id: string; email: string; token: string };
beforeAll(async () => {
  stage = await openStage();
  admin = await stage.admin();
});
afterAll(() => stage.close());

const act = (path: string, method = 'POST', token: string | undefined = admin.token) =>
  stage.ask(path, { method, token });
const tokenOf = async (email: string): Promise<string> => (await stage.signIn(email)).body.data.access_token;
/** Turns a second factor on for whoever has the token; gives its codes, each of another step. */
async function enrol(id: string, token: string): Promise<() => Promise<string>> {
  const { secret } = (await act('/auth/mfa/setup', 'POST', token)).body.data;
  const code = async () => {
    await query(stage, sql`update users set totp_last_step = 0 where id = ${id}`);
    return new TOTP({ secret: Secret.fromBase32(secret) }).generate();
  };
  expect((await stage.ask('/auth/mfa/enable', { json: { code: await code() }, token })).status).toBe(200);
  return code;
}
const audited = async (id: string, action: string) =>
  (await stage.emitted(id)).filter(({ target, type }) => target === 'audit' && type === action).map(({ data }) => data);

test.each(['/users', '/admin/users'])('%s/{id}/unlock lifts the lock of an address', async (base) => {
  const { id, email } = await stage.user();
  for (let i = 0; i < 5; i += 1) await stage.signIn(email, 'wrong');
  expect((await stage.signIn(email)).status).toBe(429);
  expect(await act(`${base}/${id}/unlock`)).toMatchObject({ status: 200, body: { data: { user_id: id } } });
  expect((await stage.signIn(email)).status).toBe(200);
  expect(await audited(id, 'user.unlocked')).toMatchObject([
    { metadata: { previous_failures: 5, failures: 0, previous_locked: true, locked: false } },
  ]);
});

test('force-reset takes the password away, ends every session and mails a link', async () => {
  const { id, email } = await stage.user();
  const token = await tokenOf(email);
  expect(await act(`/admin/users/${id}/force-reset`)).toMatchObject({ status: 200, body: { data: { revoked: 1 } } });
  expect((await stage.ask('/users/me', { token })).status).toBe(401);
  expect((await stage.signIn(email)).status).toBe(401);
  const [mail] = await stage.mails(email);
  expect(mail?.template).toBe('reset-password');
  const json = { token: mail?.token, password: 'a louder harbour at dusk' };
  expect((await stage.ask('/auth/reset-password', { json })).status).toBe(200);
  expect((await stage.signIn(email, json.password)).status).toBe(200);
  expect(await audited(id, 'user.reset_forced')).toMatchObject([
    { metadata: { previous_password_set: true, password_set: false } },
  ]);
  await query(stage, sql`update users set is_active = false where id = ${id}`);
  expect((await act(`/admin/users/${id}/force-reset`)).status).toBe(409);
});

test('sessions are ended all at once', async () => {
  const { id, email } = await stage.user();
  const tokens = [await tokenOf(email), await tokenOf(email)];
  expect(await act(`/admin/users/${id}/sessions`, 'DELETE')).toMatchObject({ body: { data: { revoked: 2 } } });
  for (const token of tokens) expect((await stage.ask('/users/me', { token })).status).toBe(401);
  const revoked = (await stage.emitted(id)).filter((e) => e.target === 'audit' && e.type === 'session.revoked');
  expect(revoked[0]?.data).toMatchObject({ actor: { type: 'user', id: admin.id }, subject: id });
});

describe('the second factor of somebody who lost it', () => {
  const reset = (id: string, json: object = { password: PASSWORD }, token = admin.token) =>
    stage.ask(`/admin/users/${id}/mfa/disable`, { json, token });
  const lost = async () => {
    const user = await stage.user();
    const token = await tokenOf(user.email);
    await enrol(user.id, token);
    return { ...user, token };
  };

  test('is turned off by an administrator: sessions end, the owner is told, the log says what was', async () => {
    const { id, email, token } = await lost();
    expect(await stage.signIn(email)).toMatchObject({
      status: 401,
      body: { error: { details: { mfa_required: true } } },
    });
    expect(await reset(id)).toMatchObject({ status: 200, body: { data: { revoked: 1 } } });
    expect((await stage.ask('/users/me', { token })).status).toBe(401);
    expect((await stage.mails(email))[0]?.template).toBe('second-factor-reset');
    expect((await stage.signIn(email)).status).toBe(200);
    const [row] = await query(
      stage,
      sql<object>`select totp_secret, totp_enabled_at, recovery_codes from users where id = ${id}`,
    );
    expect(row).toEqual({ totp_secret: null, totp_enabled_at: null, recovery_codes: [] });
    expect(await audited(id, 'user.second_factor_reset')).toMatchObject([
      {
        actor: { type: 'user', id: admin.id },
        metadata: { previous_second_factor: true, second_factor: false, previous_recovery_codes: 10 },
      },
    ]);
    expect(await reset(id)).toMatchObject({ status: 409 });
  });

  test('stays on when the administrator does not prove who it is, with a code too where there is one', async () => {
    const { id, email } = await lost();
    const other = await stage.user();
    await query(stage, sql`update users set role = 'admin' where id = ${other.id}`);
    const token = await tokenOf(other.email);
    const wrong = { status: 400, body: { error: { field: 'password' } } };
    expect(await reset(id, { password: 'not the password' }, token)).toMatchObject(wrong);
    expect(await reset(id, {}, token)).toMatchObject(wrong);
    expect(await reset(id, { password: PASSWORD, x: 1 }, token)).toMatchObject({ status: 400 });
    expect(await audited(other.id, 'user.second_factor_reset_refused')).toHaveLength(1);
    const code = await enrol(other.id, token);
    expect(await reset(id, { password: PASSWORD }, token)).toMatchObject({
      status: 400,
      body: { error: { field: 'code', details: { mfa_required: true } } },
    });
    expect(await stage.signIn(email)).toMatchObject({ status: 401 });
    expect((await reset(id, { password: PASSWORD, code: await code() }, token)).status).toBe(200);
    expect((await stage.signIn(email)).status).toBe(200);
    // Their own is turned off with a code of it, or by another administrator.
    expect((await reset(other.id.toUpperCase(), { password: PASSWORD, code: await code() }, token)).status).toBe(409);
    expect((await reset(other.id)).status).toBe(200);
  });

  test('of nobody is 404, without one 409', async () => {
    expect((await reset(newId())).status).toBe(404);
    expect((await reset((await stage.user()).id)).status).toBe(409);
    const { id, email } = await stage.user();
    expect((await reset(id, { password: PASSWORD }, await tokenOf(email))).status).toBe(403);
  });
});

describe('restoring', () => {
  const removed = async () => {
    const user = await stage.user();
    await act(`/users/${user.id}`, 'DELETE');
    return user;
  };

  test('brings an account back with its password, not its sessions', async () => {
    const { id, email } = await stage.user();
    const token = await tokenOf(email);
    await act(`/users/${id}`, 'DELETE');
    expect(await act(`/admin/users/${id}/restore`)).toMatchObject({
      status: 200,
      body: { data: { user_id: id, email } },
    });
    expect((await stage.ask('/users/me', { token })).status).toBe(401);
    expect((await stage.signIn(email)).status).toBe(200);
    const events = (await stage.emitted(id)).filter(({ target }) => target === 'events');
    expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 2));
    expect(events.map(({ type }) => type)).toContain('user.restored');
    expect((await act(`/admin/users/${id}/restore`)).status).toBe(409);
  });

  test('is refused when the address was taken, also by two at once', async () => {
    const { id, email } = await removed();
    await stage.user(email.toUpperCase());
    expect(await act(`/admin/users/${id}/restore`)).toMatchObject({ status: 409, body: { error: { field: 'email' } } });

    const first = await removed();
    const second = await removed();
    await query(stage, sql`update users set email = ${first.email} where id = ${second.id}`);
    const answers = await Promise.all([first, second].map((user) => act(`/admin/users/${user.id}/restore`)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 409]);
  });

  test('is refused when the grace is over', async () => {
    const { id } = await removed();
    await query(stage, sql`update users set deleted_at = now() - interval '30 days' where id = ${id}`);
    expect((await act(`/admin/users/${id}/restore`)).status).toBe(404);
  });
});

describe('disabling for a time', () => {
  const soon = () => new Date(Date.now() + 3_600_000).toISOString();
  const disable = (id: string, more: object = {}) =>
    stage.ask(`/admin/users/${id}`, {
      method: 'PUT',
      json: { is_active: false, disabled_reason: 'a chargeback', disabled_until: soon(), ...more },
      token: admin.token,
    });
  const due = (id: string) => query(stage, sql`update users set disabled_until = now() where id = ${id}`);

  test('shows why and until when to administrators alone', async () => {
    const { id, email } = await stage.user();
    const until = soon();
    expect(await disable(id, { disabled_until: until })).toMatchObject({
      status: 200,
      body: { data: { is_active: false, disabled_reason: 'a chargeback', disabled_until: until } },
    });
    expect((await act(`/users/${id}`, 'GET')).body.data).toMatchObject({ disabled_until: until });
    const refused = await stage.signIn(email);
    expect(refused).toMatchObject({ status: 403, body: { error: { details: { until } } } });
    expect(JSON.stringify(refused.body)).not.toContain('chargeback');
    expect((await stage.signIn(email, 'wrong')).status).toBe(401);
    const told = (await stage.emitted(id)).find(({ type, target }) => target === 'events' && type === 'user.disabled');
    expect(told?.data).toMatchObject({ until });
    await stage.ask(`/users/${id}`, { method: 'PUT', json: { is_active: true }, token: admin.token });
    const after = (await act(`/users/${id}`, 'GET')).body.data;
    expect(after.is_active).toBe(true);
    expect(after).not.toHaveProperty('disabled_reason');
    expect(after).not.toHaveProperty('disabled_until');
  });

  test('ends at the sign-in that finds the time over', async () => {
    const { id, email } = await stage.user();
    await disable(id);
    await due(id);
    expect((await stage.signIn(email, 'wrong')).status).toBe(401);
    expect((await act(`/users/${id}`, 'GET')).body.data.is_active).toBe(false);
    expect((await stage.signIn(email)).status).toBe(200);
    const audited = (await stage.emitted(id)).find(({ type, target }) => target === 'audit' && type === 'user.enabled');
    expect(audited?.data.actor).toEqual({ type: 'system', id: null });
    const events = (await stage.emitted(id)).filter(({ target }) => target === 'events');
    expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 2));
  });

  test('ends by the clock', async () => {
    const [over, running, forGood] = [await stage.user(), await stage.user(), await stage.user()];
    await disable(over.id);
    await disable(running.id);
    await disable(forGood.id, { disabled_until: null });
    await due(over.id);
    const round = () => enableDue(stage.em(), stage.harness.messaging.transact, 10);
    expect(await round()).toBe(1);
    expect(await round()).toBe(0);
    expect((await stage.signIn(over.email)).status).toBe(200);
    expect((await stage.signIn(running.email)).status).toBe(403);
    expect((await stage.signIn(forGood.email)).status).toBe(403);
  });

  test.each([
    [{ disabled_until: '2020-01-01T00:00:00Z' }, 'disabled_until'],
    [{ disabled_until: 'tomorrow' }, 'disabled_until'],
    [{ disabled_reason: 'x'.repeat(501) }, 'disabled_reason'],
    [{ disabled_reason: '' }, 'disabled_reason'],
    [{ is_active: true }, 'disabled_reason'],
    [{ is_active: undefined }, 'disabled_reason'],
  ])('refuses %j', async (more, field) => {
    const { id } = await stage.user();
    expect(await disable(id, more)).toMatchObject({ status: 400, body: { error: { field } } });
  });

  test('is nothing that users do to themselves', async () => {
    const { id, email } = await stage.user();
    const token = await tokenOf(email);
    const json = { full_name: 'X', disabled_reason: null };
    expect(await stage.ask(`/users/${id}`, { method: 'PUT', json, token })).toMatchObject({ status: 403 });
  });
});

test('all of it is closed to strangers and users, and knows no account that is not there', async () => {
  const { id, email } = await stage.user();
  const token = await tokenOf(email);
  for (const [path, method] of [
    ['/users/:id/unlock', 'POST'],
    ['/admin/users/:id/unlock', 'POST'],
    ['/admin/users/:id/force-reset', 'POST'],
    ['/admin/users/:id/sessions', 'DELETE'],
    ['/admin/users/:id/restore', 'POST'],
  ] as const) {
    const at = (which: string) => path.replace(':id', which);
    expect((await stage.ask(at(id), { method })).status).toBe(401);
    expect((await act(at(id), method, token)).status).toBe(403);
    expect((await act(at(newId()), method)).status).toBe(404);
    expect((await act(at('nonsense'), method)).status).toBe(400);
  }
  expect((await stage.signIn(email)).status).toBe(200);
});

describe('entity tags', () => {
  test('answer 304 for what the client has, and 412 for a change of something else', async () => {
    const { id, email } = await stage.user();
    const token = await tokenOf(email);
    for (const path of ['/users/me', `/users/${id}`]) {
      const first = await stage.ask(path, { token });
      const tag = first.headers.get('etag') ?? '';
      expect(tag).toMatch(/^"[^"]+"$/);
      const again = (value: string) => stage.ask(path, { token, headers: { 'if-none-match': value } });
      for (const known of [tag, `W/${tag}`, `"x", ${tag}`, '*']) {
        const answer = await again(known);
        expect([answer.status, answer.body, answer.headers.get('etag')]).toEqual([304, undefined, tag]);
      }
      for (const other of ['"x"', `${id}`, '']) expect((await again(other)).status).toBe(200);

      const put = (match: string, name: string) =>
        stage.ask(path, { method: 'PUT', json: { full_name: name }, token, headers: { 'if-match': match } });
      const changed = await put(tag, `First ${path}`);
      expect(changed.status).toBe(200);
      const next = changed.headers.get('etag') ?? '';
      expect(next).not.toBe(tag);
      for (const stale of [tag, `W/${next}`, '"x"', 'nonsense', next.replace(id, newId())]) {
        expect(await put(stale, 'Second')).toMatchObject({
          status: 412,
          body: { error: { code: 'PRECONDITION_FAILED' } },
        });
      }
      expect((await put(`${tag}, ${next}`, `Third ${path}`)).status).toBe(200);
      expect((await put('*', `Fourth ${path}`)).status).toBe(200);
    }
  });

  test('stay the same only while the resource does', async () => {
    const { id, email } = await stage.user();
    const token = await tokenOf(email);
    const read = async () => {
      const { headers, body } = await stage.ask(`/users/${id}`, { token: admin.token });
      return { tag: headers.get('etag'), data: body.data };
    };
    let before = await read();
    const changes: [string, () => Promise<unknown>][] = [
      ['nothing', async () => undefined],
      ['a second factor', () => enrol(id, token)],
      [
        'its reset',
        () => stage.ask(`/admin/users/${id}/mfa/disable`, { json: { password: PASSWORD }, token: admin.token }),
      ],
      ['a forced reset', () => act(`/admin/users/${id}/force-reset`)],
      ['an unlock', () => act(`/users/${id}/unlock`)],
      ['a role', () => stage.ask(`/users/${id}`, { method: 'PUT', json: { role: 'operator' }, token: admin.token })],
      [
        'a picture',
        () =>
          stage.ask(`/users/${id}`, {
            method: 'PUT',
            json: { avatar_url: 'https://x.example/a.png' },
            token: admin.token,
          }),
      ],
      [
        'a reason',
        () =>
          stage.ask(`/users/${id}`, {
            method: 'PUT',
            json: { is_active: false, disabled_reason: 'r' },
            token: admin.token,
          }),
      ],
    ];
    for (const [what, change] of changes) {
      await change();
      const after = await read();
      if (after.tag === before.tag) expect(after.data, what).toEqual(before.data);
      before = after;
    }
    expect(before.data).toMatchObject({ role: 'operator', is_active: false, disabled_reason: 'r' });
  });

  test('let one of two changes at once through', async () => {
    const { email } = await stage.user();
    const token = await tokenOf(email);
    const tag = (await stage.ask('/users/me', { token })).headers.get('etag') ?? '';
    const headers = { 'if-match': tag };
    const answers = await Promise.all(
      ['One', 'Two', 'Three'].map((full_name) =>
        stage.ask('/users/me', { method: 'PUT', json: { full_name }, token, headers }),
      ),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 412, 412]);
  });
});

test('no answer about an account has more than the resource', async () => {
  const { id, email } = await stage.user();
  const token = await tokenOf(email);
  const put = await stage.ask('/users/me', { method: 'PUT', json: { full_name: 'X Y' }, token });
  const unlocked = await act(`/users/${id}/unlock`);
  const read = await act(`/admin/users/${id}`, 'GET');
  const keys = ['avatar_url', 'created_at', 'email', 'full_name', 'is_active', 'is_verified', 'kyc_status', 'role'];
  for (const { body } of [put, unlocked, read])
    expect(Object.keys(body.data).sort()).toEqual([...keys, 'updated_at', 'user_id']);
  expect(JSON.stringify([put.body, unlocked.body, read.body])).not.toContain(PASSWORD);
});
