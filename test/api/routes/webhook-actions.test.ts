import { createPublicKey, verify } from 'node:crypto';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import type { ApiRouter } from '../../../src/api/router.ts';
import { webhookActionRoutes } from '../../../src/api/routes/webhook-actions.ts';
import { webhookDeliveryRoutes } from '../../../src/api/routes/webhook-deliveries.ts';
import { webhookKeyRoutes } from '../../../src/api/routes/webhook-keys.ts';
import { newId } from '../../../src/domain/ids.ts';
import { createLogger } from '../../../src/services/logger.ts';
import { deleteEndpoint, rotateEndpointSecret } from '../../../src/webhooks/endpoints.ts';
import { loadSecrets } from '../../../src/webhooks/secrets.ts';
import { sign } from '../../../src/webhooks/signature.ts';
import { ADMIN, type EndpointBench, openEndpointBench } from '../../webhooks/endpoint-bench.ts';

const UNKNOWN = '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01';

let bench: EndpointBench;
let app: ApiRouter;
let endpoint: string;

beforeAll(async () => {
  bench = await openEndpointBench();
  const config = {
    corsOrigins: [],
    trustedProxies: [],
    rateLimits: 'off' as const,
    namespace: 'wb_webhook_actions_api',
    publicUrl: 'http://localhost',
  };
  app = createApp(
    {
      config,
      log: createLogger({ level: 'silent' }),
      authenticate: async (role) => ({ userId: ADMIN, sessionId: UNKNOWN, role }),
    },
    { api: [webhookActionRoutes(bench), webhookDeliveryRoutes(bench)], root: [webhookKeyRoutes(bench)] },
  );
  endpoint = (await bench.create()).id;
});
afterAll(() => bench.close());

interface Answer {
  status: number;
  data: Record<string, unknown>;
  error: { code: string; message: string; field?: string };
}

async function call(
  method: string,
  path: string,
  options: { body?: unknown; type?: string; role?: string } = {},
): Promise<Answer> {
  const { body, type = 'application/json', role = 'admin' } = options;
  const answer = await app.request(`/api/v1${path}`, {
    method,
    headers: {
      ...(role ? { authorization: `Bearer ${role}` } : {}),
      ...(body === undefined || !type ? {} : { 'content-type': type }),
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { ...((await answer.json()) as Omit<Answer, 'status'>), status: answer.status };
}
const post = (path: string, body?: unknown, type?: string) =>
  call('POST', path, { body, ...(type === undefined ? {} : { type }) });

const stored = () =>
  bench.query(sql`
    select (select json_agg(d order by id) from webhook_deliveries d) as deliveries, (select count(*) from events) as events,
      (select count(*) from outbox) as outbox, (select json_agg(e order by id) from webhook_endpoints e) as endpoints`);

async function deliver(row: Parameters<EndpointBench['deliver']>[1] = {}): Promise<string> {
  const event_id = newId();
  const tenant = row.tenant ?? 'default';
  await bench.query(sql`
    insert into events (tenant, id, type, source, payload, time) values (${tenant}, ${event_id}, 'kyc.approved', 'client', '{}', now())`);
  return bench.deliver(endpoint, { status: 'failed', ...row, event_id });
}

describe('POST /webhooks/deliveries/{id}/retry', () => {
  it('answers 202 with the delivery', async () => {
    const id = await deliver({ attempts: 10, reason: 'gave up' });
    const { status, data } = await post(`/webhooks/deliveries/${id}/retry`);
    expect(status).toBe(202);
    expect(data).toEqual({
      id,
      event_id: expect.any(String),
      endpoint_id: endpoint,
      event_type: 'kyc.approved',
      status: 'pending',
      reason: 'sent again by hand',
      attempt_count: 10,
      next_attempt_at: expect.stringMatching(/Z$/),
      delivered_at: null,
      created_at: expect.stringMatching(/Z$/),
    });
  });

  it('answers 409 for one on its way, with an empty body too', async () => {
    const id = await deliver({ status: 'pending', leased: true });
    expect(await post(`/webhooks/deliveries/${id}/retry`)).toMatchObject({ status: 409, error: { code: 'CONFLICT' } });
  });
});

describe('POST /webhooks/deliveries/retry', () => {
  it('counts, then sends', async () => {
    const tenant = 'many';
    for (let n = 0; n < 3; n += 1) await deliver({ tenant, reason: 'status 500' });
    await deliver({ tenant, status: 'delivered' });
    const before = await stored();
    const filter = { endpoint_id: endpoint, reason: 'status 500' };
    const path = '/webhooks/deliveries/retry';
    expect(await post(`${path}?tenant=${tenant}`, { filter, dry_run: true })).toMatchObject({
      status: 202,
      data: { matched: 3, retried: 0, dry_run: true },
    });
    expect(await stored()).toEqual(before);
    expect((await post(path, { filter: { ...filter, event_type: 'x.y' } })).data).toEqual({
      matched: 0,
      retried: 0,
      dry_run: false,
    });
    expect((await post(`${path}?tenant=${tenant}`, { filter, limit: 2 })).data).toEqual({
      matched: 3,
      retried: 2,
      dry_run: false,
    });
    expect((await post(`${path}?tenant=${tenant}`, { filter: { status: 'failed' } })).data).toMatchObject({
      matched: 1,
      retried: 1,
    });
  });

  it('touches no other tenant’s', async () => {
    await deliver({ tenant: 'theirs', reason: 'mine alone' });
    const before = await stored();
    const { data } = await post('/webhooks/deliveries/retry?tenant=ours', { filter: { reason: 'mine alone' } });
    expect([data, await stored()]).toEqual([{ matched: 0, retried: 0, dry_run: false }, before]);
  });
});

describe('POST /webhooks/endpoints/{id}/recover', () => {
  it('answers 202 with how many', async () => {
    const { id } = await bench.create({}, 'recovering');
    await bench.query(sql`
      insert into events (tenant, id, type, source, payload, time, created_at)
      select 'recovering', 'r' || n, 'kyc.approved', 'client', '{}', now(), now() - interval '1 hour' from generate_series(1, 4) n`);
    const since = new Date(Date.now() - 7_200_000).toISOString();
    const until = new Date(Date.now() - 5_400_000).toISOString();
    const path = `/webhooks/endpoints/${id}/recover?tenant=recovering`;
    expect(await post(path, { since, until })).toMatchObject({ status: 202, data: { recovered: 0, has_more: false } });
    expect(await post(path, { since })).toMatchObject({ status: 202, data: { recovered: 4, has_more: false } });
  });

  it('answers 409 for a disabled endpoint', async () => {
    const { id } = await bench.create({ status: 'disabled' });
    const since = new Date().toISOString();
    expect(await post(`/webhooks/endpoints/${id}/recover`, { since })).toMatchObject({ status: 409 });
  });
});

describe('POST /webhooks/endpoints/{id}/test', () => {
  const event = async (id: unknown) =>
    (
      await bench.query(
        sql<{ payload: string; source: string; tenant: string }>`select * from events where id = ${id as string}`,
      )
    )[0];

  it('sends the example of a type to the endpoint alone, whatever it asks for', async () => {
    const { id } = await bench.create({ event_types: ['kyc.*'], channels: ['eu'] });
    await bench.create();
    await bench.alarms();
    await bench.emitted();
    const { status, data } = await post(`/webhooks/endpoints/${id}/test`);
    expect([status, data]).toEqual([202, { event_id: expect.any(String), delivery_id: expect.any(String) }]);
    const made = await event(data.event_id);
    expect(made).toMatchObject({ source: 'test', tenant: 'default' });
    expect(JSON.parse(made?.payload ?? '')).toEqual({
      type: 'payment.succeeded',
      timestamp: expect.stringMatching(/Z$/),
      data: { payment_id: 'pay_7f3a', amount: 19.9, currency: 'EUR' },
    });
    expect(await bench.delivery(String(data.delivery_id))).toMatchObject({
      status: 'pending',
      cause: 'test',
      endpoint_id: id,
      event_id: data.event_id,
      event_type: 'payment.succeeded',
    });
    expect(await bench.alarms()).toMatchObject([{ id: data.delivery_id, attempt: 0, generation: 0 }]);
    expect(await bench.emitted()).toMatchObject([
      { target: 'audit', data: { action: 'webhook.endpoint.tested', targets: [{ id }] } },
    ]);
    const sent = await bench.query(sql`select id from webhook_deliveries where event_id = ${String(data.event_id)}`);
    expect(sent).toEqual([{ id: data.delivery_id }]);
  });

  it('takes the type that is named, the tenant’s own too', async () => {
    const { id } = await bench.create({}, 'own');
    await bench.query(sql`
      insert into event_types (tenant, name, version, description, schema, example)
      values ('own', 'order.paid', 1, '', '{}', '{"n":1}'), ('own', 'order.bare', 1, '', '{}', null)`);
    const path = `/webhooks/endpoints/${id}/test?tenant=own`;
    const { data } = await post(path, { event_type: 'order.paid' });
    expect(JSON.parse((await event(data.event_id))?.payload ?? '')).toMatchObject({ data: { n: 1 } });
    expect((await post(path, { event_type: 'user.created' })).status).toBe(202);
    expect((await post(path, {})).status).toBe(202);
    const before = await stored();
    for (const event_type of ['order.bare', 'order.unknown'])
      expect(await post(path, { event_type })).toMatchObject({
        status: 400,
        error: { code: 'VALIDATION_ERROR', field: 'event_type' },
      });
    expect(await stored()).toEqual(before);
  });

  it('answers 409 for a disabled endpoint', async () => {
    const { id } = await bench.create({ status: 'disabled' });
    const before = await stored();
    expect(await post(`/webhooks/endpoints/${id}/test`)).toMatchObject({ status: 409, error: { code: 'CONFLICT' } });
    expect(await stored()).toEqual(before);
  });
});

describe('GET /webhooks/endpoints/{id}/stats', () => {
  it('shows a week, or as many days as are asked for', async () => {
    const week = await call('GET', `/webhooks/endpoints/${endpoint}/stats`);
    expect([week.status, week.data.days]).toMatchObject([200, { length: 7 }]);
    expect(week.data.total).toHaveProperty('success_rate');
    const days = (await call('GET', `/webhooks/endpoints/${endpoint}/stats?days=30`)).data.days as { date: string }[];
    expect(days).toHaveLength(30);
    expect(days.at(-1)?.date).toBe(new Date().toISOString().slice(0, 10));
  });
});

describe('GET /.well-known/webhook-keys.json', () => {
  const keys = async (query = '') => {
    const answer = await app.request(`/.well-known/webhook-keys.json${query}`);
    expect(answer.status).toBe(200);
    return ((await answer.json()) as { keys: Record<string, string>[] }).keys;
  };

  it('has every key that signs, to verify with as it is', async () => {
    const made = await bench.create({ signature: 'v1,v1a' });
    const plain = await bench.create();
    const context = bench.context;
    const rotated = await bench.transact(context, (unit) =>
      rotateEndpointSecret(unit, { tenant: 'default', id: made.id, overlapSeconds: 60 }, bench.keyring),
    );
    const found = await keys(`?endpoint_id=${made.id}`);
    expect(found.map(({ whpk }) => whpk)).toEqual([rotated.public_key, made.public_key]);
    expect(new Set(found.map(({ kid }) => kid)).size).toBe(2);
    expect(found[0]).toEqual({
      kid: expect.any(String),
      kty: 'OKP',
      crv: 'Ed25519',
      x: expect.stringMatching(/^[\w-]{43}$/),
      use: 'sig',
      endpoint_id: made.id,
      whpk: rotated.public_key,
    });
    const { byEndpoint } = await loadSecrets(bench.em(), bench.keyring, [made.id], new Map(), () => undefined);
    const signing = (byEndpoint.get(made.id) ?? []).map(({ signing }) => signing).filter((k) => k.scheme === 'v1a');
    const header = sign(signing, { id: 'evt', timestamp: 1, body: '{}' });
    for (const [n, jwk] of found.entries()) {
      const key = createPublicKey({ key: jwk, format: 'jwk' });
      const signature = Buffer.from((header.split(' ')[n] ?? '').slice('v1a,'.length), 'base64');
      expect(verify(null, Buffer.from('evt.1.{}'), key, signature)).toBe(true);
    }
    const all = await keys();
    expect(all.filter((key) => key.endpoint_id === made.id)).toHaveLength(2);
    expect(all.filter((key) => key.endpoint_id === plain.id)).toEqual([]);
    expect(JSON.stringify(all)).not.toMatch(/whsk_|whsec_/);
    await bench.query(sql`
      update webhook_secrets set expires_at = now() - interval '1 second' where endpoint_id = ${made.id} and expires_at is not null`);
    expect(await keys(`?endpoint_id=${made.id}`)).toMatchObject([{ whpk: rotated.public_key }]);
    await bench.transact(context, (unit) => deleteEndpoint(unit, { tenant: 'default', id: made.id }));
    expect(await keys(`?endpoint_id=${made.id}`)).toEqual([]);
  });

  it('may be cached, and refuses an id that is none', async () => {
    const answer = await app.request('/.well-known/webhook-keys.json');
    expect(answer.headers.get('cache-control')).toBe('public, max-age=60');
    for (const bad of ['7', '', 'a%00b', '%27'])
      expect((await app.request(`/.well-known/webhook-keys.json?endpoint_id=${bad}`)).status).toBe(400);
  });
});

const ROUTES = [
  ['POST', `/webhooks/deliveries/${UNKNOWN}/retry`, undefined],
  ['POST', `/webhooks/endpoints/${UNKNOWN}/recover`, { since: '2026-11-20T10:00:00Z' }],
  ['POST', `/webhooks/endpoints/${UNKNOWN}/test`, {}],
  ['GET', `/webhooks/endpoints/${UNKNOWN}/stats`, undefined],
  ['POST', '/webhooks/deliveries/retry', { filter: { endpoint_id: UNKNOWN } }],
] as const;

describe('bad requests change nothing', () => {
  let before: unknown;
  beforeAll(() => deliver());
  beforeEach(async () => {
    before = await stored();
  });

  it.each(ROUTES)('%s %s is for admins', async (method, path, body) => {
    expect(await call(method, path, { body, role: '' })).toMatchObject({ status: 401 });
    expect(await call(method, path, { body, role: 'user' })).toMatchObject({ status: 403 });
    expect(await stored()).toEqual(before);
  });

  it.each(ROUTES)('%s %s refuses a tenant that is none', async (method, path, body) => {
    for (const tenant of ['', 'a'.repeat(65), 'caf%C3%A9', 'a%00b', '%FF'])
      expect(await call(method, `${path}?tenant=${tenant}`, { body })).toMatchObject({
        status: 400,
        error: { field: 'tenant' },
      });
  });

  it.each(ROUTES.filter(([, path]) => path.includes(UNKNOWN)))(
    '%s %s refuses an id that is none and does not find one that is not',
    async (method, path, body) => {
      for (const bad of ['7', 'x'.repeat(5000), 'caf%C3%A9', `${UNKNOWN}0`])
        expect(await call(method, path.replace(UNKNOWN, bad), { body })).toMatchObject({
          status: 400,
          error: { field: 'id' },
        });
      expect((await call(method, path.replace(UNKNOWN, 'a%00b'), { body })).status).toBe(400);
      expect(await call(method, path, { body })).toMatchObject({ status: 404, error: { code: 'NOT_FOUND' } });
      expect(await stored()).toEqual(before);
    },
  );

  it.each([
    ['filter', {}],
    ['filter', { dry_run: true }],
    ['filter', { filter: {} }],
    ['filter', { filter: null }],
    ['filter', { filter: [] }],
    ['filter.endpoint_id', { filter: { endpoint_id: '7' } }],
    ['filter.status', { filter: { status: 'lost' } }],
    ['filter.event_type', { filter: { event_type: '' } }],
    ['filter.event_type', { filter: { event_type: 'a'.repeat(129) } }],
    ['filter.reason', { filter: { reason: 'a\u0000b' } }],
    ['filter.reason', { filter: { reason: 7 } }],
    ['filter.created_after', { filter: { created_after: 'yesterday' } }],
    ['filter.created_before', { filter: { created_before: '0000-01-01T00:00:00Z' } }],
    ['filter.surprise', { filter: { surprise: 1, status: 'failed' } }],
    ['limit', { filter: { status: 'failed' }, limit: 0 }],
    ['limit', { filter: { status: 'failed' }, limit: 10_001 }],
    ['limit', { filter: { status: 'failed' }, limit: 1.5 }],
    ['dry_run', { filter: { status: 'failed' }, dry_run: 'yes' }],
    ['status', { filter: { status: 'failed' }, status: 'failed' }],
  ])('retrying many refuses its %s', async (field, body) => {
    const { status, error } = await post('/webhooks/deliveries/retry', body);
    expect(status).toBe(400);
    expect(error.field ?? 'body').toMatch(new RegExp(`^(${field.replace('.', '\\.')}|body)$`));
    expect(await stored()).toEqual(before);
  });

  it.each([
    ['since', {}],
    ['since', { since: 'yesterday' }],
    ['since', { since: 1 }],
    ['since', { since: '2026-02-30T10:00:00Z' }],
    ['since', { since: '2026-11-20' }],
    ['since', { since: '1999-01-01T00:00:00Z' }],
    ['since', { since: '2999-01-01T00:00:00Z' }],
    ['until', { since: new Date(Date.now() - 60_000).toISOString(), until: '2001-01-01T00:00:00Z' }],
    ['until', { since: new Date(Date.now() - 60_000).toISOString(), until: null }],
    ['limit', { since: new Date(Date.now() - 60_000).toISOString(), limit: 1 }],
  ])('a recovery refuses its %s', async (field, body) => {
    expect(await post(`/webhooks/endpoints/${endpoint}/recover`, body)).toMatchObject({
      status: 400,
      error: { code: 'VALIDATION_ERROR', field },
    });
    expect(await stored()).toEqual(before);
  });

  it.each([
    ['event_type', { event_type: '' }],
    ['event_type', { event_type: 'kyc.*' }],
    ['event_type', { event_type: 'A'.repeat(10_000) }],
    ['event_type', { event_type: null }],
    ['event_type', { event_type: 'a\u0000' }],
    ['type', { type: 'user.created' }],
  ])('a test refuses its %s', async (field, body) => {
    expect(await post(`/webhooks/endpoints/${endpoint}/test`, body)).toMatchObject({ status: 400, error: { field } });
    expect(await stored()).toEqual(before);
  });

  it.each(['0', '31', '-1', '1.5', 'x', '', '1e1', '%00'])('stats refuse days=%s', async (days) => {
    expect((await call('GET', `/webhooks/endpoints/${endpoint}/stats?days=${days}`)).status).toBe(400);
  });

  it.each([['/webhooks/deliveries/retry'], ['/webhooks/endpoints/ID/recover'], ['/webhooks/endpoints/ID/test']])(
    '%s refuses what is no JSON object',
    async (path) => {
      const at = path.replace('ID', endpoint);
      for (const [body, type, status] of [
        ['{"filter":', 'application/json', 400],
        ['[]', 'application/json', 400],
        ['null', 'application/json', 400],
        ['"x"', 'application/json', 400],
        ['{"filter":{"status":"failed"}}', 'text/plain', 415],
        ['{"filter":{"status":"failed"}}', '', 415],
        [`{"since":"${'x'.repeat(70_000)}"}`, 'application/json', 413],
      ] as const)
        expect([body.slice(0, 20), type, (await post(at, body, type)).status]).toEqual([
          body.slice(0, 20),
          type,
          status,
        ]);
      expect(await stored()).toEqual(before);
    },
  );

  it('nothing at all makes them fail', async () => {
    const paths = ['/webhooks/deliveries/retry', '/webhooks/endpoints/ID/recover', '/webhooks/endpoints/ID/test'];
    const member = fc.constantFrom('filter', 'since', 'until', 'event_type', 'limit', 'dry_run', 'x');
    const property = fc.asyncProperty(
      fc.constantFrom(...paths),
      fc.dictionary(member, fc.jsonValue({ maxDepth: 2 }), { noNullPrototype: true }),
      async (path, body) => {
        expect((await post(path.replace('ID', UNKNOWN), body)).status).toBeGreaterThanOrEqual(400);
      },
    );
    // A test needs no body: with {} it gets as far as looking for the endpoint.
    await fc.assert(property, { numRuns: 150 });
    expect(await stored()).toEqual(before);
  });
});
