import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { freshEmail, openStage, query, type Stage } from '../../domain/users/stage.ts';

let stage: Stage;
let admin: { id: string; email: string; token: string };
beforeAll(async () => {
  stage = await openStage();
  admin = await stage.admin();
});
afterAll(() => stage.close());

const tokenOf = async (email: string): Promise<string> => (await stage.signIn(email)).body.data.access_token;

describe.each(['/users', '/admin/users'])('%s', (base) => {
  const create = (json: unknown, token: string | undefined = admin.token) => stage.ask(base, { json, token });

  test('creates an account whose owner chooses the password', async () => {
    const email = freshEmail();
    const created = await create({ email, full_name: 'Grace Hopper', role: 'operator' });
    expect(created).toMatchObject({
      status: 201,
      body: { data: { email, full_name: 'Grace Hopper', role: 'operator', is_verified: false, is_active: true } },
    });
    const { user_id } = created.body.data;
    expect((await stage.emitted(user_id)).find(({ target }) => target === 'events')).toMatchObject({
      type: 'user.created',
      data: { user_id, email },
    });
    expect((await stage.signIn(email, '')).status).toBe(400);
    expect((await stage.signIn(email, 'anything at all')).status).toBe(401);
    const [mail] = await stage.mails(email);
    expect(mail?.template).toBe('set-password');
    const password = 'a louder harbour at dusk';
    expect((await stage.ask('/auth/reset-password', { json: { token: mail?.token, password } })).status).toBe(200);
    const token = (await stage.signIn(email, password)).body.data.access_token;
    expect((await stage.ask('/users/me', { token })).body.data).toMatchObject({ is_verified: true, role: 'operator' });
    expect(await create({ email, full_name: 'Again' })).toMatchObject({
      status: 409,
      body: { error: { code: 'CONFLICT', field: 'email' } },
    });
  });

  test.each([
    [{ full_name: 'X' }, 'email'],
    [{ email: 'x@example.com' }, 'full_name'],
    [{ email: 'x', full_name: 'X' }, 'email'],
    [{ email: `${'x'.repeat(300)}@example.com`, full_name: 'X' }, 'email'],
    [{ email: 'x@example.com', full_name: 5 }, 'full_name'],
    [{ email: 'x@example.com', full_name: 'a\u0000' }, 'full_name'],
    [{ email: 'x@example.com', full_name: 'X', role: 'root' }, 'role'],
    [{ email: 'x@example.com', full_name: 'X', password: 'chosen by the admin' }, 'password'],
  ])('creates nothing from bad input (case %#)', async (json, field) => {
    expect(await create(json)).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR', field } } });
    expect(await stage.mails('x@example.com')).toEqual([]);
  });

  test('takes nothing but JSON', async () => {
    const { token } = admin;
    const post = (raw: string, type: string) => stage.ask(base, { raw, token, headers: { 'content-type': type } });
    expect((await post('{', 'application/json')).status).toBe(400);
    expect((await post('{}', 'text/plain')).status).toBe(415);
    expect((await post(JSON.stringify({ email: 'x'.repeat(70_000) }), 'application/json')).status).toBe(413);
  });

  test('lists with filters, order and pages', async () => {
    const tag = newId().slice(-8);
    for (const [n, name] of ['Cora', 'Anna', 'Bert'].entries()) {
      const { id } = await stage.user(`${tag}-${n}@example.com`);
      await query(
        stage,
        sql`update users set full_name = ${`${name} 100%_${tag}`}, is_active = ${n !== 2} where id = ${id}`,
      );
    }
    const list = async (more: string) =>
      (await stage.ask(`${base}?search=${tag}&${more}`, { token: admin.token })).body;
    const names = async (more: string) =>
      (await list(more)).data.map(({ full_name }: { full_name: string }) => full_name.split(' ')[0]);
    expect(await names('sort=full_name&order=asc')).toEqual(['Anna', 'Bert', 'Cora']);
    expect(await names('sort=email&order=desc')).toEqual(['Bert', 'Anna', 'Cora']);
    expect(await names('')).toEqual(['Bert', 'Anna', 'Cora']);
    expect(await names('is_active=false')).toEqual(['Bert']);
    expect(await names('is_active=true&sort=updated_at&order=asc')).toEqual(['Cora', 'Anna']);
    expect(await names('is_verified=false')).toEqual([]);
    expect(await names('kyc_status=verified')).toEqual([]);
    expect(await names('role=admin')).toEqual([]);
    expect(await names('created_before=2020-01-01T00:00:00Z')).toEqual([]);
    expect(await names('created_after=2020-01-01T00:00:00%2B23:00')).toHaveLength(3);
    expect(await names('created_after=0000-01-01T00:00:00Z')).toHaveLength(3);
    const second = await list('limit=2&page=2&sort=full_name&order=asc');
    expect(second.data).toHaveLength(1);
    expect(second.pagination).toEqual({
      page: 2,
      limit: 2,
      total_items: 3,
      total_pages: 2,
      has_next: false,
      has_prev: true,
    });
    const literal = await stage.ask(`${base}?search=100%25_${tag}`, { token: admin.token });
    expect(literal.body.data).toHaveLength(3);
    const wildcard = await stage.ask(`${base}?search=1%25%25_${tag}`, { token: admin.token });
    expect(wildcard.body.data).toHaveLength(0);
  });

  test.each([
    ['limit=0', 'limit'],
    ['limit=101', 'limit'],
    ['limit=ten', 'limit'],
    ['page=0', 'page'],
    ['page=99999999999', 'page'],
    ['sort=password_hash', 'sort'],
    ['order=up', 'order'],
    ['is_active=yes', 'is_active'],
    ['kyc_status=maybe', 'kyc_status'],
    ['role=root', 'role'],
    ['created_after=yesterday', 'created_after'],
    [`search=${'x'.repeat(300)}`, 'search'],
    ['search=%00', 'search'],
  ])('refuses the query %s', async (search, field) => {
    const answer = await stage.ask(`${base}?${search}`, { token: admin.token });
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR', field } } });
  });

  test('disables and enables', async () => {
    const { id, email } = await stage.user();
    const token = await tokenOf(email);
    const put = (json: unknown) => stage.ask(`${base}/${id}`, { method: 'PUT', json, token: admin.token });
    expect(await put({ is_active: false })).toMatchObject({ status: 200, body: { data: { is_active: false } } });
    expect((await stage.ask('/users/me', { token })).status).toBe(401);
    expect((await stage.signIn(email)).status).toBe(403);
    await put({ is_active: false });
    await put({ is_active: true });
    expect((await stage.signIn(email)).status).toBe(200);
    const events = (await stage.emitted(id)).filter(({ target }) => target === 'events');
    expect(events.map(({ type }) => type)).toEqual([
      'session.created',
      'user.updated',
      'user.disabled',
      'session.revoked',
      'user.updated',
      'user.enabled',
      'session.created',
    ]);
    expect(events.map(({ sequence }) => sequence)).toEqual([2, 3, 4, 5, 6, 7, 8]);
  });

  test('changes a role at once', async () => {
    const { id, email } = await stage.user();
    const token = await tokenOf(email);
    expect((await stage.ask(base, { token })).status).toBe(403);
    await stage.ask(`${base}/${id}`, { method: 'PUT', json: { role: 'admin' }, token: admin.token });
    expect((await stage.ask(base, { token })).status).toBe(200);
  });

  test('refuses bad changes', async () => {
    const { id } = await stage.user();
    const put = (json: unknown, path = id) => stage.ask(`${base}/${path}`, { method: 'PUT', json, token: admin.token });
    for (const [field, json] of [
      [undefined, {}],
      ['role', { role: 'root' }],
      ['is_active', { is_active: 'no' }],
      ['full_name', { full_name: '' }],
      ['avatar_url', { avatar_url: 'ftp://example.com/x' }],
      ['email', { email: 'x@example.com' }],
      ['is_verified', { is_verified: true }],
    ] as const) {
      const answer = await put(json);
      expect(answer.status).toBe(400);
      expect(answer.body.error.field).toBe(field);
    }
    expect(await put({ full_name: 'X' }, 'nonsense')).toMatchObject({ status: 400, body: { error: { field: 'id' } } });
    expect((await put({ full_name: 'X' }, newId())).status).toBe(404);
  });

  test('reads and deletes', async () => {
    const { id, email } = await stage.user();
    const { token } = admin;
    expect((await stage.ask(`${base}/${id}`, { token })).body.data).toMatchObject({ user_id: id, email });
    expect(await stage.ask(`${base}/${id}`, { method: 'DELETE', token })).toMatchObject({
      status: 200,
      body: { data: { user_id: id, deleted_at: expect.any(String) } },
    });
    for (const method of ['GET', 'DELETE']) {
      expect((await stage.ask(`${base}/${id}`, { method, token })).status).toBe(404);
    }
    expect((await stage.signIn(email)).status).toBe(401);
  });

  test('is closed to strangers and users', async () => {
    const { id } = await stage.user();
    const token = await tokenOf((await stage.user()).email);
    const asks = [
      { path: base },
      { path: base, json: { email: freshEmail(), full_name: 'X' } },
      { path: `${base}/${id}` },
      { path: `${base}/${id}`, method: 'PUT', json: { full_name: 'X' } },
      { path: `${base}/${id}`, method: 'DELETE' },
      { path: `${base}/${newId()}` },
    ];
    for (const { path, ...ask } of asks) {
      expect((await stage.ask(path, ask)).status).toBe(401);
      expect((await stage.ask(path, { ...ask, token })).status).toBe(403);
    }
    expect((await stage.ask(`${base}/${id}`, { token: admin.token })).status).toBe(200);
  });
});

describe('your own id', () => {
  test('is yours under /users, but not the role, and not under /admin', async () => {
    const { id, email } = await stage.user();
    const token = await tokenOf(email);
    const put = (json: unknown) => stage.ask(`/users/${id}`, { method: 'PUT', json, token });
    expect((await stage.ask(`/users/${id}`, { token })).status).toBe(200);
    expect((await stage.ask(`/admin/users/${id}`, { token })).status).toBe(403);
    expect((await put({ full_name: 'Mine' })).body.data.full_name).toBe('Mine');
    expect(await put({ role: 'admin' })).toMatchObject({ status: 403, body: { error: { field: 'role' } } });
    expect(await put({ is_active: false })).toMatchObject({ status: 403, body: { error: { field: 'is_active' } } });
    expect((await stage.ask(`/users/${id}`, { method: 'DELETE', token })).status).toBe(200);
    expect((await stage.ask('/users/me', { token })).status).toBe(401);
  });
});

test('the last administrator stays', async () => {
  await query(stage, sql`update users set role = 'user' where role = 'admin' and id <> ${admin.id}`);
  const put = (json: unknown) => stage.ask(`/users/${admin.id}`, { method: 'PUT', json, token: admin.token });
  expect((await put({ role: 'user' })).status).toBe(409);
  expect((await put({ is_active: false })).status).toBe(409);
  expect((await stage.ask('/users/me', { method: 'DELETE', token: admin.token })).status).toBe(409);
  expect((await put({ full_name: 'Still Here' })).status).toBe(200);
  await stage.admin();
  expect((await put({ role: 'user' })).status).toBe(200);
});
