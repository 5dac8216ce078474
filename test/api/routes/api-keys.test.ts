import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import type { ApiRouter } from '../../../src/api/router.ts';
import { apiKeyRoutes } from '../../../src/api/routes/api-keys.ts';
import { eventRoutes } from '../../../src/api/routes/events.ts';
import type { ApiKeyResource } from '../../../src/domain/api-keys/api-keys.ts';
import { ApiKeyVerifier } from '../../../src/domain/api-keys/verifier.ts';
import { EventTypeDirectory } from '../../../src/domain/events/type-directory.ts';
import { newId } from '../../../src/domain/ids.ts';
import { Purge } from '../../../src/queues/purge.ts';
import { createHarness, type Harness } from '../../harness.ts';

const ADMIN = newId();
let h: Harness;
let app: ApiRouter;

beforeAll(async () => {
  h = await createHarness({ RATE_LIMITS: 'user=3/60,admin=1000/60' });
  const apiKeys = new ApiKeyVerifier(h);
  const eventTypes = new EventTypeDirectory(h.database);
  const deps = { ...h, transact: h.messaging.transact, apiKeys, eventTypes };
  app = createApp(
    {
      config: h.config,
      log: h.log,
      redis: h.messaging.redis,
      authenticate: async (role) => ({ userId: ADMIN, sessionId: ADMIN, role }),
      authenticateKey: apiKeys.authenticate,
    },
    { api: [apiKeyRoutes(deps), eventRoutes(deps)] },
  );
});
afterAll(() => h.close());

type Created = ApiKeyResource & { key: string };

interface Body<T> {
  status: number;
  headers: Headers;
  data: T;
  error: { code: string; message: string; field?: string };
  pagination: { total_items: number; has_next: boolean };
}

async function call<T = Created>(
  method: string,
  path: string,
  { token = 'admin', body }: { token?: string; body?: unknown } = {},
): Promise<Body<T>> {
  const answer = await app.request(`/api/v1${path}`, {
    method,
    headers: {
      ...(token ? { authorization: `Bearer ${token}` } : {}),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { ...((await answer.json()) as Body<T>), status: answer.status, headers: answer.headers };
}

const create = async (body: object = {}, query = '') =>
  (await call('POST', `/api-keys${query}`, { body: { name: 'Billing', scopes: ['events:read'], ...body } })).data;
const stored = async () => {
  const { rows } = await sql`
    select (select count(*) from api_keys) as keys, (select count(*) from outbox) as outbox,
      (select count(*) from api_keys where revoked_at is not null) as revoked`.execute(
    h.database.em.fork().getKysely(),
  );
  return rows[0];
};

describe('a key', () => {
  it('is made, shown once, listed, used and revoked', async () => {
    const body = {
      name: ' Billing ünit ',
      scopes: ['events:read', 'webhooks:write', 'events:read'],
      tenant: 'acme',
      expires_at: '2999-01-01T00:00:00+01:00',
    };
    const made = await call('POST', '/api-keys', { body });
    expect(made.status).toBe(201);
    const { key, ...shown } = made.data;
    expect(shown).toEqual({
      id: expect.any(String),
      name: 'Billing ünit',
      tenant: 'acme',
      scopes: ['events:read', 'webhooks:write'],
      prefix: key.slice(0, 9),
      expires_at: '2998-12-31T23:00:00.000Z',
      last_used_at: null,
      created_at: expect.stringMatching(/Z$/),
    });
    expect(key).toMatch(/^wb_[0-9A-Za-z]{6}_[0-9A-Za-z]{49}$/);
    expect(made.headers.get('cache-control')).toBe('no-store');
    expect(await call('GET', `/api-keys/${shown.id}`)).toMatchObject({ status: 200, data: shown });
    const listed = await call<ApiKeyResource[]>('GET', '/api-keys?tenant=acme');
    expect([listed.data, listed.pagination.total_items]).toEqual([[shown], 1]);

    expect((await call('GET', '/events', { token: key })).status).toBe(200);
    const revoked = await call('DELETE', `/api-keys/${shown.id}`);
    expect(revoked).toMatchObject({ status: 200, data: { id: shown.id, revoked_at: expect.stringMatching(/Z$/) } });
    const refused = await call('GET', '/events', { token: key });
    expect([refused.status, refused.error.message]).toEqual([
      401,
      'the API key is not valid, has expired or was revoked',
    ]);
    expect(refused.headers.get('www-authenticate')).toBe('Bearer');
    for (const method of ['GET', 'DELETE']) expect((await call(method, `/api-keys/${shown.id}`)).status).toBe(404);
    expect((await call<ApiKeyResource[]>('GET', '/api-keys?tenant=acme')).data).toEqual([]);
  });

  it('belongs to the tenant that the body or the query names, else to `default`', async () => {
    expect((await create()).tenant).toBe('default');
    const named = await create({}, '?tenant=acme.eu');
    expect(named.tenant).toBe('acme.eu');
    expect((await create({ tenant: 'acme.eu' }, '?tenant=acme.eu')).tenant).toBe('acme.eu');
    for (const method of ['GET', 'DELETE'])
      expect((await call(method, `/api-keys/${named.id}?tenant=other`)).status).toBe(404);
    expect((await call('DELETE', `/api-keys/${named.id}?tenant=acme.eu`)).status).toBe(200);
  });

  it('is listed page by page, in the order that is asked for', async () => {
    for (const name of ['c', 'a', 'b']) await create({ name, tenant: 'paged' });
    const names = async (query: string) =>
      (await call<ApiKeyResource[]>('GET', `/api-keys?tenant=paged&${query}`)).data.map((key) => key.name);
    expect(await names('')).toEqual(['b', 'a', 'c']);
    expect(await names('sort=name&order=asc&limit=2')).toEqual(['a', 'b']);
    expect(await names('sort=name&order=asc&limit=2&page=2')).toEqual(['c']);
    expect(await names('sort=last_used_at')).toHaveLength(3);
    const all = await call<ApiKeyResource[]>('GET', '/api-keys?limit=100');
    expect(new Set(all.data.map((key) => key.tenant)).size).toBeGreaterThan(1);
    expect(JSON.stringify(all.data)).not.toMatch(/"key"|hash/);
  });

  it('leaves its making and its end in the audit log, without the key', async () => {
    const { id, key } = await create({ name: 'Audited', tenant: 'audited' });
    await call('DELETE', `/api-keys/${id}`);
    const { rows } = await sql<{
      body: string;
    }>`select body from outbox where body like ${`%${id}%`} order by id`.execute(h.database.em.fork().getKysely());
    const records = rows.map(({ body }) => JSON.parse(body).data ?? JSON.parse(body));
    expect(records.map((record) => record.action)).toEqual(['api_key.created', 'api_key.revoked']);
    expect(records[0]).toMatchObject({
      actor: { type: 'user', id: ADMIN },
      targets: [{ type: 'api_key', id }],
      metadata: { name: 'Audited', tenant: 'audited', scopes: 'events:read' },
    });
    expect(JSON.stringify(rows)).not.toContain(key.slice(10));
    expect(h.logged.join('')).not.toContain(key.slice(10));
  });

  it('has a rate limit of its own', async () => {
    const [one, other] = [await create(), await create()];
    const statuses: number[] = [];
    for (let n = 0; n < 4; n += 1) statuses.push((await call('GET', '/events', { token: one.key })).status);
    expect(statuses).toEqual([200, 200, 200, 429]);
    const free = await call('GET', '/events', { token: other.key });
    expect([free.status, free.headers.get('x-ratelimit-limit')]).toEqual([200, '3']);
  });
});

describe('what is refused', () => {
  const good = { name: 'n', scopes: ['events:read'] };

  it.each([
    ['nothing', {}, 'name'],
    ['an empty name', { ...good, name: ' ' }, 'name'],
    ['a long name', { ...good, name: 'n'.repeat(101) }, 'name'],
    ['a name with U+0000', { ...good, name: 'a\u0000b' }, 'name'],
    ['no scopes', { name: 'n' }, 'scopes'],
    ['an empty list of scopes', { ...good, scopes: [] }, 'scopes'],
    ['an unknown scope', { ...good, scopes: ['events:read', 'admin'] }, 'scopes[1]'],
    ['a scope that is no text', { ...good, scopes: [null] }, 'scopes[0]'],
    ['scopes that are text', { ...good, scopes: 'events:read' }, 'scopes'],
    ['too many scopes', { ...good, scopes: Array(1000).fill('events:read') }, 'scopes'],
    ['an empty tenant', { ...good, tenant: '' }, 'tenant'],
    ['a tenant of 65', { ...good, tenant: 't'.repeat(65) }, 'tenant'],
    ['a tenant with a slash', { ...good, tenant: 'a/b' }, 'tenant'],
    ['a time that is none', { ...good, expires_at: 'tomorrow' }, 'expires_at'],
    ['a time that has passed', { ...good, expires_at: '2020-01-01T00:00:00Z' }, 'expires_at'],
    ['a year that PostgreSQL lacks', { ...good, expires_at: '0000-01-01T00:00:00Z' }, 'expires_at'],
    ['a key of its own', { ...good, key: 'wb_mine' }, 'key'],
    ['a list', [], undefined],
  ])('%s, with the field named and nothing left behind', async (_what, body, field) => {
    const before = await stored();
    const { status, error } = await call('POST', '/api-keys', { body });
    expect([status, error.code, error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
    expect(await stored()).toEqual(before);
  });

  it.each([
    ['POST', '/api-keys?tenant=other', { ...good, tenant: 'mine' }, 'tenant'],
    ['POST', '/api-keys?tenant=', good, 'tenant'],
    ['GET', '/api-keys?tenant=%20', undefined, 'tenant'],
    ['GET', '/api-keys?sort=key_hash', undefined, 'sort'],
    ['GET', '/api-keys?page=0', undefined, 'page'],
    ['GET', '/api-keys/nope', undefined, 'id'],
    ['DELETE', '/api-keys/nope', undefined, 'id'],
    ['POST', '/api-keys', '{"name":', undefined],
  ])('%s %s', async (method, path, body, field) => {
    const { status, error } = await call(method, path, { body });
    expect([status, error.code, error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
  });

  it('an unknown key: 404', async () => {
    for (const method of ['GET', 'DELETE']) expect((await call(method, `/api-keys/${newId()}`)).status).toBe(404);
  });

  it('anybody but an admin, keys included', async () => {
    const { id, key } = await create({ scopes: ['webhooks:write', 'ops:write', 'audit:read', 'users:read'] });
    for (const [method, path] of [
      ['POST', '/api-keys'],
      ['GET', '/api-keys'],
      ['GET', `/api-keys/${id}`],
      ['DELETE', `/api-keys/${id}`],
    ] as const) {
      const body = method === 'POST' ? good : undefined;
      expect((await call(method, path, { token: '', body })).status).toBe(401);
      for (const token of ['user', 'operator', 'reviewer', key])
        expect((await call(method, path, { token, body })).status).toBe(403);
    }
    expect((await call('GET', `/api-keys/${id}`)).status).toBe(200);
  });

  it('a key that expires while it is in use: 401', async () => {
    const { key } = await create({ expires_at: new Date(Date.now() + 500).toISOString() });
    expect((await call('GET', '/events', { token: key })).status).toBe(200);
    await expect.poll(async () => (await call('GET', '/events', { token: key })).status, { timeout: 3000 }).toBe(401);
  });
});

it('leaves the database 90 days after it was revoked or has expired', async () => {
  const make = async (ends: string) => {
    const { data } = await call('POST', '/api-keys', { body: { name: 'old', scopes: ['events:read'] } });
    await sql`update api_keys set ${sql.raw(ends)} where id = ${data.id}`.execute(h.database.em.fork().getKysely());
    return data.id;
  };
  const gone = [
    await make(`revoked_at = now() - interval '91 days'`),
    await make(`expires_at = now() - interval '91 days'`),
  ];
  const kept = [
    await make(`revoked_at = now() - interval '89 days'`),
    await make(`expires_at = now() - interval '89 days'`),
    await make(`created_at = now() - interval '9 years'`),
  ];
  await new Purge(h.database, h.config.retention, h.log).round();
  const { rows } = await sql<{ id: string }>`
    select id from api_keys where id = any(${[...gone, ...kept]}::uuid[])`.execute(h.database.em.fork().getKysely());
  expect(rows.map(({ id }) => id).toSorted()).toEqual(kept.toSorted());
});
