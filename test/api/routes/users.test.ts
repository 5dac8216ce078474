import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openStage, PASSWORD, query, type Stage } from '../../domain/users/stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

const signedIn = async () => {
  const user = await stage.user();
  const token: string = (await stage.signIn(user.email)).body.data.access_token;
  return { ...user, token };
};

describe('your account', () => {
  test('is read as the user resource', async () => {
    const { id, email, token } = await signedIn();
    const { status, body } = await stage.ask('/users/me', { token });
    expect(status).toBe(200);
    expect(body.data).toEqual({
      user_id: id,
      email,
      full_name: 'Some Body',
      avatar_url: null,
      role: 'user',
      is_verified: true,
      is_active: true,
      kyc_status: 'unverified',
      created_at: expect.stringMatching(/Z$/),
      updated_at: expect.stringMatching(/Z$/),
    });
  });

  test('is changed field by field, and tells only of what changed', async () => {
    const { id, token } = await signedIn();
    const put = (json: object) => stage.ask('/users/me', { method: 'PUT', json, token });
    expect(await put({ full_name: '  Zoë 浅 🐚 ' })).toMatchObject({
      status: 200,
      body: { data: { full_name: 'Zoë 浅 🐚' } },
    });
    const avatar_url = 'https://cdn.example.com/zoe.png';
    expect(await put({ avatar_url })).toMatchObject({ body: { data: { full_name: 'Zoë 浅 🐚', avatar_url } } });
    expect(await put({ avatar_url })).toMatchObject({ status: 200, body: { data: { avatar_url } } });
    expect(await put({ avatar_url: null })).toMatchObject({ body: { data: { avatar_url: null } } });
    const updates = (await stage.emitted(id)).filter(
      ({ target, type }) => target === 'events' && type === 'user.updated',
    );
    expect(updates.map(({ data, sequence }) => [data.changed, sequence])).toEqual([
      [['full_name'], 3],
      [['avatar_url'], 4],
      [['avatar_url'], 5],
    ]);
  });

  test.each([
    [{}, undefined],
    [{ full_name: null }, 'full_name'],
    [{ full_name: 7 }, 'full_name'],
    [{ full_name: '' }, 'full_name'],
    [{ full_name: 'x'.repeat(201) }, 'full_name'],
    [{ full_name: 'a\u0000b' }, 'full_name'],
    [{ full_name: 'a\tb' }, 'full_name'],
    [{ full_name: 'a\udc00b' }, 'full_name'],
    [{ avatar_url: 7 }, 'avatar_url'],
    [{ avatar_url: 'nonsense' }, 'avatar_url'],
    [{ avatar_url: 'javascript:alert(1)' }, 'avatar_url'],
    [{ avatar_url: 'https://user:pass@example.com/' }, 'avatar_url'],
    [{ avatar_url: `https://example.com/${'x'.repeat(500)}` }, 'avatar_url'],
    [{ role: 'admin' }, 'role'],
    [{ is_verified: true }, 'is_verified'],
    [{ email: 'other@example.com' }, 'email'],
    [{ full_name: 'Good', password: 'x' }, 'password'],
  ])('is not changed by bad input (case %#)', async (json, field) => {
    const { token } = await signedIn();
    const before = (await stage.ask('/users/me', { token })).body.data;
    const answer = await stage.ask('/users/me', { method: 'PUT', json, token });
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR' } } });
    expect(answer.body.error.field).toBe(field);
    expect((await stage.ask('/users/me', { token })).body.data).toEqual(before);
  });

  test('takes nothing but JSON of a sensible size', async () => {
    const { token } = await signedIn();
    const put = (raw: string, type: string) =>
      stage.ask('/users/me', { method: 'PUT', raw, token, headers: { 'content-type': type } });
    expect((await put('{"full_name":', 'application/json')).status).toBe(400);
    expect((await put('{"full_name":"X"}', 'text/plain')).status).toBe(415);
    expect((await put(JSON.stringify({ full_name: 'x'.repeat(70_000) }), 'application/json')).status).toBe(413);
  });

  test('needs somebody signed in', async () => {
    for (const method of ['GET', 'PUT', 'DELETE']) {
      const answer = await stage.ask('/users/me', {
        method,
        ...(method === 'PUT' ? { json: { full_name: 'X' } } : {}),
      });
      expect(answer).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHORIZED' } } });
    }
  });
});

describe('deleting your account', () => {
  test('ends every session and link now, keeps the row, and frees the address', async () => {
    const { id, email, token } = await signedIn();
    const elsewhere = (await stage.signIn(email)).body.data;
    await stage.ask('/auth/forgot-password', { json: { email } });
    const [mail] = await stage.mails(email);
    expect(await stage.ask('/users/me', { method: 'DELETE', token })).toMatchObject({
      status: 200,
      body: { data: { user_id: id } },
    });

    expect((await stage.ask('/users/me', { token })).status).toBe(401);
    expect((await stage.ask('/users/me', { token: elsewhere.access_token })).status).toBe(401);
    const json = { refresh_token: elsewhere.refresh_token };
    expect((await stage.ask('/auth/refresh', { json })).status).toBe(401);
    const reset = { token: mail?.token, password: 'a louder harbour at dusk' };
    expect((await stage.ask('/auth/reset-password', { json: reset })).status).toBe(400);
    expect((await stage.signIn(email)).status).toBe(401);

    const [row] = await query(
      stage,
      sql<{ gone: boolean }>`select deleted_at is not null as gone from users where id = ${id}`,
    );
    expect(row).toEqual({ gone: true });
    const events = (await stage.emitted(id)).filter(({ target }) => target === 'events');
    expect(events.map(({ type }) => type)).toEqual([
      'session.created',
      'session.created',
      'session.revoked',
      'session.revoked',
      'user.deleted',
    ]);
    expect(events.map(({ sequence }) => sequence)).toEqual([2, 3, 4, 5, 6]);

    const again = { email, password: PASSWORD, full_name: 'New Owner', terms_accepted: true };
    const registered = await stage.ask('/auth/register', { json: again });
    expect(registered.status).toBe(201);
    expect(registered.body.data.user_id).not.toBe(id);
  });
});
