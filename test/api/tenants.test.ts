import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PERMISSIONS } from '../../src/api/permissions.ts';
import type { ApiRouter } from '../../src/api/router.ts';
import { composeApi } from '../../src/cli/http.ts';
import { createMemory } from '../../src/cli/memory.ts';
import { createApiKey } from '../../src/domain/api-keys/api-keys.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { createIdentity } from '../../src/domain/sessions/identity.ts';
import { createHarness, type Harness } from '../harness.ts';

/** Two tenants with the same rights; everything here belongs to `one`, and `two` goes through every door. */
let h: Harness;
let app: ApiRouter;
const key = { one: '', two: '' };
const own = { endpoint: '', delivery: newId(), event: 'shared-id', type: 'order.secret', key: '' };
const ORDER = { description: 'SECRET', schema: { type: 'object' } };

const run = (query: ReturnType<typeof sql>) => query.execute(h.database.em.fork().getKysely());

beforeAll(async () => {
  h = await createHarness();
  const operationIds = new OperationIds(h.keyring.for('operation-id').current().key);
  const identity = createIdentity(h);
  const authenticate = async () => ({ userId: newId(), sessionId: newId(), role: 'admin' as const });
  const runtime = { ...h, identity, operationIds };
  app = composeApi(runtime, { stopping: false }, [], { ...createMemory(runtime), authenticate });
  for (const tenant of ['one', 'two'] as const) {
    const input = {
      name: 'SECRET',
      tenant,
      scopes: ['events:read', 'events:write', 'webhooks:read', 'webhooks:write'],
    } as const;
    const context = { requestId: 'r', correlationId: 'r', actor: SYSTEM };
    const made = await h.messaging.transact(context, (unit) => createApiKey(unit, input));
    key[tenant] = made.key;
    if (tenant === 'one') own.key = made.id;
  }
  const endpoint = await call('POST', '/webhooks/endpoints', key.one, { url: 'https://secret.example/hook' });
  own.endpoint = endpoint.body.data.id;
  expect((await call('POST', '/webhooks/event-types', key.one, { name: own.type, ...ORDER })).status).toBe(201);
  await run(sql`insert into events (tenant, id, type, source, payload, time)
    values ('one', ${own.event}, ${own.type}, 'client', '{"data":{"note":"SECRET"}}', now())`);
  await run(sql`insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason)
    values (${own.delivery}, 'one', ${own.endpoint}, ${own.event}, ${own.type}, 'failed', 'SECRET')`);
});
afterAll(() => h.close());

interface Answer {
  status: number;
  text: string;
  body: { data: { id: string } & Record<string, unknown>; error?: { code: string; field?: string } };
}

async function call(method: string, path: string, token: string, body?: unknown): Promise<Answer> {
  const answer = await app.request(`/api/v1${path}`, {
    method,
    // An event that is not there would be waited for.
    headers: {
      authorization: `Bearer ${token}`,
      prefer: 'wait=0',
      ...(body ? { 'content-type': 'application/json' } : {}),
    },
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
  const text = await answer.text();
  return { status: answer.status, text, body: JSON.parse(text) };
}

/** What a route needs to get as far as looking for the thing. A new route with a body is to be named here. */
const BODIES: Record<string, unknown> = {
  'PATCH /webhooks/endpoints/{id}': { description: 'taken over' },
  'PUT /webhooks/event-types/{name}': ORDER,
  'POST /webhooks/endpoints/{id}/recover': { since: '2026-11-20T10:00:00Z' },
  'PUT /webhooks/endpoints/{id}': { url: 'https://example.com' },
};

const idFor = (route: string): string => {
  if (route.includes('/webhooks/endpoints/')) return own.endpoint;
  if (route.includes('/webhooks/deliveries/')) return own.delivery;
  if (route.includes('/webhooks/event-types/')) return own.type;
  return route.includes('/api-keys/') ? own.key : own.event;
};

const routes = PERMISSIONS.filter(({ scope }) => scope?.startsWith('events:') || scope?.startsWith('webhooks:')).map(
  ({ route }) => route.replace('/api/v1', ''),
);
const ofOne = routes.filter((route) => route.includes('{'));
const lists = routes.filter((route) => route.startsWith('GET ') && !route.includes('{'));
const pathOf = (route: string) => (route.split(' ')[1] ?? '').replace(/\{\w+\}/, () => idFor(route));
const methodOf = (route: string) => route.split(' ')[0] ?? '';

const state = async () =>
  (
    await sql`select (select json_agg(e order by id) from webhook_endpoints e) as endpoints, (select count(*) from webhook_secrets) as secrets,
      (select json_agg(d order by id) from webhook_deliveries d) as deliveries, (select json_agg(t) from event_types t) as types,
      (select count(*) from outbox) as outbox, (select json_agg(k.revoked_at) from api_keys k) as keys`.execute(
      h.database.em.fork().getKysely(),
    )
  ).rows[0];

describe.each(ofOne)('%s', (route) => {
  it('does not know what is another tenant’s, for a key or for an admin who looks there', async () => {
    const before = await state();
    for (const [token, query] of [
      [key.two, ''],
      [key.two, '?tenant=two'],
      ['admin', '?tenant=two'],
      ['admin', ''],
    ] as const) {
      const { status, text } = await call(methodOf(route), pathOf(route) + query, token, BODIES[route]);
      expect([token === 'admin' ? 'admin' : 'key', query, status]).toEqual([
        token === 'admin' ? 'admin' : 'key',
        query,
        404,
      ]);
      expect(text).not.toMatch(/secret/i);
    }
    const named = await call(methodOf(route), `${pathOf(route)}?tenant=one`, key.two, BODIES[route]);
    expect([named.status, named.body.error?.field]).toEqual([403, 'tenant']);
    expect(await state()).toEqual(before);
  });
});

describe.each(lists)('%s', (route) => {
  it('shows nothing of another tenant’s', async () => {
    for (const [token, query] of [
      [key.two, ''],
      ['admin', '?tenant=two'],
      ['admin', ''],
    ] as const) {
      const { status, text } = await call('GET', pathOf(route) + query, token);
      expect(status).toBe(200);
      expect(text).not.toMatch(/secret|shared-id/i);
    }
    expect((await call('GET', `${pathOf(route)}?tenant=one`, key.two)).status).toBe(403);
    for (const [token, query] of [
      [key.one, ''],
      [key.one, '?tenant=one'],
      ['admin', '?tenant=one'],
    ] as const)
      expect((await call('GET', pathOf(route) + query, token)).text).toMatch(/secret|shared-id/i);
  });
});

it('the owner finds all of it', async () => {
  for (const route of ofOne.filter((route) => route.startsWith('GET ')))
    expect([route, (await call('GET', pathOf(route), key.one)).status]).toEqual([route, 200]);
});

it('what is made belongs to the tenant of its key, also when it has the name or the id of another’s', async () => {
  const endpoint = await call('POST', '/webhooks/endpoints', key.two, { url: 'https://two.example/hook' });
  expect((await call('GET', `/webhooks/endpoints/${endpoint.body.data.id}`, key.one)).status).toBe(404);
  expect((await call('POST', '/webhooks/event-types', key.two, { name: own.type, ...ORDER })).status).toBe(201);
  await run(sql`insert into events (tenant, id, type, source, payload, time)
    values ('two', ${own.event}, 'order.two', 'client', '{"data":{"note":"mine"}}', now())`);
  for (const [tenant, type] of [
    ['one', own.type],
    ['two', 'order.two'],
  ] as const)
    expect((await call('GET', `/events/${own.event}`, key[tenant])).body.data).toMatchObject({ tenant, type });
  expect((await call('POST', '/events?tenant=one', key.two, { type: own.type, data: {} })).status).toBe(403);
  for (const [tenant, query] of [
    ['one', '?tenant=two'],
    ['two', '?tenant=one'],
  ] as const) {
    const { rows } = await sql`select id from api_keys where tenant = ${tenant}`.execute(
      h.database.em.fork().getKysely(),
    );
    const { id } = rows[0] as { id: string };
    expect((await call('DELETE', `/api-keys/${id}${query}`, 'admin')).status).toBe(404);
  }
});
