import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import type { ApiRouter } from '../../../src/api/router.ts';
import { webhookDeliveryRoutes } from '../../../src/api/routes/webhook-deliveries.ts';
import { webhookEndpointRoutes } from '../../../src/api/routes/webhook-endpoints.ts';
import { newId } from '../../../src/domain/ids.ts';
import { createLogger } from '../../../src/services/logger.ts';
import type { DeliveryWithAttempts } from '../../../src/webhooks/deliveries.ts';
import type { EndpointWithSecrets } from '../../../src/webhooks/endpoints.ts';
import { ADMIN, type EndpointBench, openEndpointBench } from '../../webhooks/endpoint-bench.ts';

const URL_OF_HOOK = 'https://example.com/hook';
const HOOKS = '/webhooks/endpoints';
const UNKNOWN = '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01';

let bench: EndpointBench;
let app: ApiRouter;

beforeAll(async () => {
  bench = await openEndpointBench();
  const config = {
    corsOrigins: [],
    trustedProxies: [],
    rateLimits: 'off' as const,
    namespace: 'wb_webhooks_api',
    publicUrl: 'http://localhost',
    webhookAllowNetworks: ['127.0.0.0/8'],
  };
  const deps = { ...bench, config };
  app = createApp(
    {
      config,
      log: createLogger({ level: 'silent' }),
      authenticate: async (role) => ({ userId: ADMIN, sessionId: UNKNOWN, role }),
    },
    { api: [webhookEndpointRoutes(deps), webhookDeliveryRoutes(deps)] },
  );
});
afterAll(() => bench.close());

interface Answer<T> {
  status: number;
  data: T;
  error: { code: string; message: string; field?: string };
  pagination: { limit: number; has_more: boolean; next_cursor: string | null };
}

interface Call {
  method?: string;
  role?: string;
  /** A string is sent as it is. */
  body?: unknown;
  type?: string;
}

async function call<T = EndpointWithSecrets>(path: string, options: Call = {}): Promise<Answer<T>> {
  const { method = 'GET', role = 'admin', body, type = 'application/json' } = options;
  const answer = await app.request(`/api/v1${path}`, {
    method,
    headers: {
      ...(role ? { authorization: `Bearer ${role}` } : {}),
      ...(body === undefined || !type ? {} : { 'content-type': type }),
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { ...((await answer.json()) as Omit<Answer<T>, 'status'>), status: answer.status };
}

const create = async (body: object = {}, query = '') =>
  (await call(`${HOOKS}${query}`, { method: 'POST', body: { url: URL_OF_HOOK, ...body } })).data;

/** Everything that a request could have left behind. */
const stored = () =>
  bench.query(sql`
    select (select count(*) from webhook_endpoints) as endpoints, (select sum(version) from webhook_endpoints) as versions,
      (select count(*) from webhook_secrets) as secrets, (select count(*) from outbox) as outbox,
      (select revision from revisions where name = 'endpoints') as revision`);

describe('an endpoint', () => {
  it('is created, read, changed, rotated and deleted', async () => {
    const body = {
      url: 'http://127.0.0.1:9000/hook',
      description: 'Zoë’s hook',
      event_types: ['kyc.*', 'payment.succeeded'],
      channels: ['eu', 'b2b.x_1'],
      headers: { 'X-Team': 'billing' },
      rate_limit: null,
      ordered: false,
      timeout_ms: 5000,
      signature: 'v1,v1a',
      hex_signature: true,
      metadata: { país: 'Curaçao' },
    };
    const made = await call(HOOKS, { method: 'POST', body });
    expect(made.status).toBe(201);
    const { secret, public_key, ...shown } = made.data;
    expect(shown).toEqual({
      ...body,
      headers: { 'x-team': 'billing' },
      id: expect.any(String),
      status: 'enabled',
      disabled_reason: null,
      created_at: expect.stringMatching(/Z$/),
      updated_at: expect.stringMatching(/Z$/),
    });
    expect([secret, public_key]).toEqual([expect.stringMatching(/^whsec_/), expect.stringMatching(/^whpk_/)]);

    const path = `${HOOKS}/${shown.id}`;
    expect(await call(path)).toMatchObject({ status: 200, data: shown });
    expect((await call(path)).data).not.toHaveProperty('secret');
    const changed = await call(path, { method: 'PATCH', body: { status: 'disabled', description: '' } });
    expect(changed).toMatchObject({
      status: 200,
      data: { description: '', status: 'disabled', disabled_reason: `disabled by user:${ADMIN}` },
    });
    const rotated = await call(`${path}/rotate-secret`, { method: 'POST' });
    expect(rotated).toMatchObject({ status: 200, data: { id: shown.id, secret: expect.stringMatching(/^whsec_/) } });
    expect(rotated.data.secret).not.toBe(secret);
    expect(await call(path, { method: 'DELETE' })).toMatchObject({ status: 200, data: { id: shown.id } });
    expect((await call(path)).status).toBe(404);
  });

  it('keeps the old secret for 24 hours, or for as long as is asked', async () => {
    const { id } = await create();
    const left = async () => {
      const [row] = await bench.query(sql<{ seconds: string }>`
        select round(extract(epoch from expires_at - clock_timestamp())) as seconds from webhook_secrets
        where endpoint_id = ${id} and expires_at is not null order by created_at desc limit 1`);
      return row && Math.abs(Number(row.seconds));
    };
    await call(`${HOOKS}/${id}/rotate-secret`, { method: 'POST', body: {} });
    expect((await left()) ?? 0).toBeGreaterThan(86_390);
    await call(`${HOOKS}/${id}/rotate-secret`, { method: 'POST', body: { overlap_seconds: 120 } });
    expect((await left()) ?? 999).toBeLessThan(121);
  });

  it('belongs to a tenant', async () => {
    const { id } = await create({}, '?tenant=acme.eu-1');
    expect((await call<EndpointWithSecrets[]>(`${HOOKS}?tenant=acme.eu-1`)).data.map((e) => e.id)).toEqual([id]);
    expect((await call<EndpointWithSecrets[]>(`${HOOKS}?limit=100`)).data.map((e) => e.id)).not.toContain(id);
    for (const [path, method, body] of [
      [`${HOOKS}/${id}`, 'GET'],
      [`${HOOKS}/${id}`, 'PATCH', { description: 'x' }],
      [`${HOOKS}/${id}`, 'DELETE'],
      [`${HOOKS}/${id}/rotate-secret`, 'POST'],
      [`${HOOKS}/${id}/deliveries`, 'GET'],
    ] as const) {
      expect(await call(path, { method, body })).toMatchObject({ status: 404, error: { code: 'NOT_FOUND' } });
    }
    expect((await call(`${HOOKS}/${id}?tenant=acme.eu-1`)).status).toBe(200);
  });

  it('is listed page by page', async () => {
    const made = [(await create({}, '?tenant=list')).id, (await create({}, '?tenant=list')).id];
    const first = await call<EndpointWithSecrets[]>(`${HOOKS}?tenant=list&limit=1`);
    const counts = { limit: 1, total_items: 2, total_pages: 2 };
    expect(first.pagination).toEqual({ ...counts, page: 1, has_next: true, has_prev: false });
    const second = await call<EndpointWithSecrets[]>(`${HOOKS}?tenant=list&limit=1&page=2`);
    expect(second.pagination).toEqual({ ...counts, page: 2, has_next: false, has_prev: true });
    expect([...first.data, ...second.data].map(({ id }) => id)).toEqual(made.reverse());
  });
});

describe('deliveries', () => {
  it('are listed with their filters, under their endpoint too, and shown with their attempts', async () => {
    const { id } = await create({}, '?tenant=d');
    const other = await create({}, '?tenant=d');
    const held = await bench.deliver(id, {
      tenant: 'd',
      status: 'held',
      reason: 'endpoint disabled',
      event_id: 'evt_1',
    });
    const done = await bench.deliver(id, { tenant: 'd', status: 'delivered', event_type: 'user.created', attempts: 1 });
    const elsewhere = await bench.deliver(other.id, { tenant: 'd', event_id: 'evt_1' });
    await bench.query(sql`
      insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms, status_code, response_body)
      values (${newId()}, ${done}, 1, now(), 12, 200, 'ok')`);
    const ids = async (path: string) => (await call<DeliveryWithAttempts[]>(path)).data.map((d) => d.id);
    expect(await ids('/webhooks/deliveries?tenant=d')).toEqual([elsewhere, done, held]);
    expect(await ids(`/webhooks/deliveries?tenant=d&endpoint_id=${id}`)).toEqual([done, held]);
    expect(await ids('/webhooks/deliveries?tenant=d&status=held')).toEqual([held]);
    expect(await ids('/webhooks/deliveries?tenant=d&event_type=user.created')).toEqual([done]);
    expect(await ids('/webhooks/deliveries?tenant=d&event_id=evt_1')).toEqual([elsewhere, held]);
    expect(await ids('/webhooks/deliveries?tenant=d&reason=endpoint%20disabled')).toEqual([held]);
    expect(await ids(`${HOOKS}/${id}/deliveries?tenant=d`)).toEqual([done, held]);
    expect(await ids(`${HOOKS}/${id}/deliveries?tenant=d&event_id=evt_1&status=held`)).toEqual([held]);
    expect(await ids('/webhooks/deliveries')).toEqual([]);

    const first = await call(`/webhooks/deliveries?tenant=d&limit=2`);
    expect(first.pagination).toMatchObject({ has_more: true, limit: 2 });
    expect(await ids(`/webhooks/deliveries?tenant=d&limit=2&cursor=${first.pagination.next_cursor}`)).toEqual([held]);

    const one = await call<DeliveryWithAttempts>(`/webhooks/deliveries/${done}?tenant=d`);
    expect(one.data).toMatchObject({
      id: done,
      status: 'delivered',
      attempt_count: 1,
      attempts: [{ number: 1, status_code: 200, duration_ms: 12, error: null, response_body: 'ok' }],
    });
    expect((await call(`/webhooks/deliveries/${done}`)).status).toBe(404);
    expect((await call(`/webhooks/deliveries/${UNKNOWN}?tenant=d`)).status).toBe(404);
  });
});

const ROUTES = [
  [HOOKS, 'POST'],
  [HOOKS, 'GET'],
  [`${HOOKS}/${UNKNOWN}`, 'GET'],
  [`${HOOKS}/${UNKNOWN}`, 'PATCH'],
  [`${HOOKS}/${UNKNOWN}`, 'DELETE'],
  [`${HOOKS}/${UNKNOWN}/rotate-secret`, 'POST'],
  [`${HOOKS}/${UNKNOWN}/deliveries`, 'GET'],
  ['/webhooks/deliveries', 'GET'],
  [`/webhooks/deliveries/${UNKNOWN}`, 'GET'],
] as const;

describe('bad requests store nothing', () => {
  let before: unknown;
  let id: string;
  beforeAll(async () => {
    id = (await create({}, '?tenant=bad')).id;
  });
  beforeEach(async () => {
    before = await stored();
  });

  it.each(ROUTES)('%s %s is for admins', async (path, method) => {
    expect(await call(path, { method, role: '' })).toMatchObject({ status: 401, error: { code: 'UNAUTHORIZED' } });
    expect(await call(path, { method, role: 'user' })).toMatchObject({ status: 403, error: { code: 'FORBIDDEN' } });
    expect(await stored()).toEqual(before);
  });

  it.each(ROUTES)('%s %s refuses a tenant that is none', async (path, method) => {
    const body = method === 'POST' || method === 'PATCH' ? (path === HOOKS ? { url: URL_OF_HOOK } : {}) : undefined;
    for (const tenant of ['', 'a'.repeat(65), 'caf%C3%A9', 'a%20b', 'a%00b', '%FF']) {
      const { status, error } = await call(`${path}?tenant=${tenant}`, { method, body });
      expect([tenant, status, error.field]).toEqual([tenant, 400, 'tenant']);
    }
    expect(await stored()).toEqual(before);
  });

  it.each(ROUTES.filter(([path]) => path.includes(UNKNOWN)))(
    '%s %s refuses an id that is none',
    async (path, method) => {
      const body = method === 'PATCH' ? { description: 'x' } : undefined;
      for (const bad of ['7', 'x'.repeat(5000), 'caf%C3%A9', `${UNKNOWN}0`]) {
        const { status, error } = await call(path.replace(UNKNOWN, bad), { method, body });
        expect([status, error.field]).toEqual([400, 'id']);
      }
      expect((await call(path.replace(UNKNOWN, 'a%00b'), { method, body })).status).toBe(400);
      expect(await call(path, { method, body })).toMatchObject({ status: 404, error: { code: 'NOT_FOUND' } });
      expect(await stored()).toEqual(before);
    },
  );

  it.each([
    [
      `${HOOKS}?`,
      ['limit=0', 'limit=101', 'limit=x', 'limit=1e9', 'page=0', 'page=-1', 'sort=secret', 'order=up', 'status=gone'],
    ],
    [
      '/webhooks/deliveries?',
      [
        'limit=0',
        'cursor=x',
        'status=lost',
        'endpoint_id=7',
        `event_id=${'a'.repeat(129)}`,
        `event_type=${'a'.repeat(129)}`,
        `reason=${'a'.repeat(501)}`,
        'reason=a%00b',
        'event_id=%FF',
      ],
    ],
    [
      `${HOOKS}/ID/deliveries?tenant=bad&`,
      ['limit=0', 'cursor=x', 'status=lost', `reason=${'a'.repeat(501)}`, 'event_type='],
    ],
  ])('GET %s names the field', async (path, queries) => {
    for (const query of queries) {
      const { status, error } = await call(path.replace('ID', id) + query);
      expect([query, status, error.code, error.field]).toEqual([query, 400, 'VALIDATION_ERROR', query.split('=')[0]]);
    }
  });

  const NO_BODY = [
    ['no body', undefined, 'application/json', [400, 415]],
    ['an empty body', '', 'application/json', [400, 415]],
    ['invalid JSON', '{"url":', 'application/json', [400]],
    ['a list', '[]', 'application/json', [400]],
    ['a text', '"https://example.com"', 'application/json', [400]],
    ['nothing to change', '{}', 'application/json', [400]],
    ['null', 'null', 'application/json', [400]],
    ['another content type', `{"url":"${URL_OF_HOOK}"}`, 'text/plain', [415]],
    ['a form', `url=${URL_OF_HOOK}`, 'application/x-www-form-urlencoded', [415]],
    ['no content type', `{"url":"${URL_OF_HOOK}"}`, '', [415]],
    [
      '64 KiB and more',
      JSON.stringify({ url: URL_OF_HOOK, description: 'x'.repeat(70_000) }),
      'application/json',
      [413],
    ],
  ] as const;

  it.each(NO_BODY)('%s is refused by POST and PATCH', async (_, body, type, statuses) => {
    for (const [path, method] of [
      [HOOKS, 'POST'],
      [`${HOOKS}/${id}?tenant=bad`, 'PATCH'],
    ] as const) {
      expect(statuses).toContain((await call(path, { method, body, type })).status);
    }
    expect(await stored()).toEqual(before);
  });

  it.each(NO_BODY.slice(2).filter(([name]) => name !== 'nothing to change'))(
    '%s is refused by rotate-secret',
    async (_, body, type, statuses) => {
      const path = `${HOOKS}/${id}/rotate-secret?tenant=bad`;
      expect(statuses).toContain((await call(path, { method: 'POST', body, type })).status);
      expect(await stored()).toEqual(before);
    },
  );

  it.each([
    ['url', null],
    ['url', 7],
    ['url', ''],
    ['url', 'example.com'],
    ['url', `https://example.com/${'a'.repeat(2048)}`],
    ['url', 'https://exa mple.com/'],
    ['url', 'https://example.com/\u0000'],
    ['url', 'https://example.com/#top'],
    ['url', 'javascript:alert(1)'],
    ['url', 'https://me:pw@example.com/'],
    ['url', 'http://192.168.1.1/'],
    ['url', 'http://0x7f.1:80@10.0.0.1/'],
    ['url', 'http://[fd00::1]/'],
    ['description', 7],
    ['description', 'é'.repeat(501)],
    ['description', 'a\u0000b'],
    ['description', '\ud800'],
    ['event_types', 'kyc.*'],
    ['event_types', Array(101).fill('a.b')],
    ['event_types[0]', ['Kyc.approved'], 'event_types'],
    ['event_types[1]', ['kyc.*', 'kyc.*.x'], 'event_types'],
    ['event_types[0]', ['kyc..x'], 'event_types'],
    ['event_types[0]', ['kyç.x'], 'event_types'],
    ['event_types[0]', [''], 'event_types'],
    ['event_types[0]', [7], 'event_types'],
    ['event_types[0]', [`${'a'.repeat(200)}`], 'event_types'],
    ['headers', []],
    ['headers', 'a: b'],
    ['headers', Object.fromEntries(Array.from({ length: 21 }, (_, n) => [`x-${n}`, '']))],
    ['headers.x-a', { 'x-a': 7 }, 'headers'],
    ['headers.x-a', { 'x-a': 'a\r\nx-b: c' }, 'headers'],
    ['headers.x-a', { 'x-a': 'é' }, 'headers'],
    ['headers.x-a', { 'x-a': 'a'.repeat(1001) }, 'headers'],
    ['headers.x a', { 'x a': 'b' }, 'headers'],
    ['headers.é', { é: 'b' }, 'headers'],
    ['headers.x-a', { 'X-A': 'b', 'x-a': 'c' }, 'headers'],
    ...[
      'Host',
      'content-length',
      'Content-Type',
      'content-encoding',
      'transfer-encoding',
      'connection',
      'keep-alive',
      'upgrade',
      'expect',
      'te',
      'trailer',
      'Proxy-Authorization',
      'user-agent',
      'Webhook-Id',
      'webhook-anything',
      'X-Webhook-Signature',
    ].map((name) => [`headers.${name}`, { [name]: 'x' }, 'headers']),
    ['channels', 'eu'],
    ['channels[1]', ['eu', ''], 'channels'],
    ['channels[0]', ['a,b'], 'channels'],
    ['channels[0]', ['é'], 'channels'],
    ['channels[0]', ['c'.repeat(65)], 'channels'],
    ['channels', Array.from({ length: 21 }, (_, n) => `c${n}`)],
    ['timeout_ms', 999],
    ['timeout_ms', 30_001],
    ['timeout_ms', 1500.5],
    ['timeout_ms', '5000'],
    ['status', 'paused'],
    ['signature', 'v2'],
    ['hex_signature', 'yes'],
    ['metadata', []],
    ['metadata', Object.fromEntries(Array.from({ length: 51 }, (_, n) => [`k${n}`, '']))],
    ['metadata.a', { a: 1 }, 'metadata'],
    ['metadata.a', { a: 'é'.repeat(501) }, 'metadata'],
    [`metadata.${'k'.repeat(65)}`, { ['k'.repeat(65)]: 'a' }, 'metadata'],
    ['rate_limit', 0],
    ['rate_limit', 10_001],
    ['rate_limit', 1.5],
    ['rate_limit', '10'],
    ['ordered', 'yes'],
    ['ordered', null],
    ['secret', 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD'],
    ['id', UNKNOWN],
    ['tenant', 'acme'],
    ['nöpe', 1],
  ] as [string, unknown, string?][])('%s: %j', async (field, value, key = field) => {
    const made = await call(HOOKS, { method: 'POST', body: { url: URL_OF_HOOK, [key]: value } });
    expect([made.status, made.error?.code, made.error?.field]).toEqual([400, 'VALIDATION_ERROR', field]);
    const changed = await call(`${HOOKS}/${id}?tenant=bad`, { method: 'PATCH', body: { [key]: value } });
    expect([changed.status, changed.error?.code, changed.error?.field]).toEqual([400, 'VALIDATION_ERROR', field]);
    expect(await stored()).toEqual(before);
  });

  it('a new endpoint without a url', async () => {
    const { status, error } = await call(HOOKS, { method: 'POST', body: { description: 'x' } });
    expect([status, error.field, error.message]).toEqual([400, 'url', 'url is required']);
  });

  it.each([-1, 604_801, 1.5, '60', null, true])('overlap_seconds: %j', async (overlap_seconds) => {
    const path = `${HOOKS}/${id}/rotate-secret?tenant=bad`;
    const { status, error } = await call(path, { method: 'POST', body: { overlap_seconds } });
    expect([status, error.field]).toEqual([400, 'overlap_seconds']);
    expect(await stored()).toEqual(before);
  });

  it('an unknown field of a rotation', async () => {
    const path = `${HOOKS}/${id}/rotate-secret?tenant=bad`;
    const { status, error } = await call(path, { method: 'POST', body: { secret: 'whsec_' } });
    expect([status, error.field]).toEqual([400, 'secret']);
    expect(await stored()).toEqual(before);
  });
});

it('takes what the web takes: other alphabets, and a prototype’s name as a key', async () => {
  const made = await create({ url: 'https://bücher.example/пример?q=日本', description: '日本'.repeat(250) });
  expect(made).toMatchObject({ url: 'https://bücher.example/пример?q=日本', description: '日本'.repeat(250) });
  const text = `{"url":"${URL_OF_HOOK}","metadata":{"constructor":"a","toString":"b"}}`;
  expect((await call(HOOKS, { method: 'POST', body: text })).data.metadata).toEqual({
    constructor: 'a',
    toString: 'b',
  });
});

it('describes itself', () => {
  const { paths, components } = app.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 't', version: '1' } });
  expect(Object.keys(paths ?? {}).toSorted()).toEqual([
    '/api/v1/webhooks/deliveries',
    '/api/v1/webhooks/deliveries/{id}',
    '/api/v1/webhooks/endpoints',
    '/api/v1/webhooks/endpoints/{id}',
    '/api/v1/webhooks/endpoints/{id}/deliveries',
    '/api/v1/webhooks/endpoints/{id}/rotate-secret',
  ]);
  const body = paths?.['/api/v1/webhooks/endpoints']?.post?.requestBody;
  expect(body).toMatchObject({
    required: true,
    content: { 'application/json': { schema: { required: ['url'], additionalProperties: false } } },
  });
  expect(Object.keys(components?.schemas ?? {})).toEqual(
    expect.arrayContaining(['WebhookEndpoint', 'WebhookDelivery']),
  );
});
