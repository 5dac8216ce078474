import { sql } from 'kysely';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { createApp } from '../../../src/api/app.ts';
import { eventRoutes } from '../../../src/api/routes/events.ts';
import type { EventRecord } from '../../../src/domain/events/events.ts';
import { EventTypeDirectory } from '../../../src/domain/events/type-directory.ts';
import { newId } from '../../../src/domain/ids.ts';
import type { Envelope } from '../../../src/domain/messages/envelope.ts';
import type { Hop } from '../../../src/domain/operations/trail.ts';
import { Messaging } from '../../../src/queues/messaging.ts';
import { defineBatchWorker } from '../../../src/queues/worker.ts';
import { createHarness, eventually, type Harness } from '../../harness.ts';

const ADMIN = newId();
const PAYMENT = { payment_id: 'p-1', amount: 19.9, currency: 'EUR' };
const published: Envelope[] = [];
const listener = defineBatchWorker<unknown>({
  name: 'listener',
  pool: 'fanout',
  schema: z.unknown(),
  ordered: true,
  batch: { size: 100, waitMs: 5 },
  timeoutMs: 5000,
  handle: async (items) => void published.push(...items.map((item) => item.envelope)),
});

let h: Harness;
let app: ReturnType<typeof createApp>;
const shell = (routes: ReturnType<typeof eventRoutes>) =>
  createApp(
    {
      config: h.config,
      log: h.log,
      authenticate: async (role) => ({ userId: ADMIN, sessionId: ADMIN, role }),
    },
    { api: [routes] },
  );

beforeAll(async () => {
  h = await createHarness();
  await h.start([listener], ['fanout']);
  app = shell(eventRoutes({ ...h, eventTypes: new EventTypeDirectory(h.database) }));
});
afterAll(() => h.close());
// What a test published and did not look at must not reach the next one.
beforeEach(async () => {
  await seen();
  published.length = 0;
});

interface Body<T> {
  data: T;
  error: { code: string; message: string; field?: string; details?: unknown };
  pagination: { limit: number; has_more: boolean; next_cursor: string | null };
}

interface Ask {
  role?: string;
  headers?: Record<string, string>;
  on?: typeof app;
}

async function post<T = { event_id: string; event_ids: string[] }>(path: string, body: unknown, ask: Ask = {}) {
  const { role = 'admin', headers = {}, on = app } = ask;
  const answer = await on.request(`/api/v1${path}`, {
    method: 'POST',
    headers: {
      ...(role ? { authorization: `Bearer ${role}` } : {}),
      'content-type': 'application/json',
      ...headers,
    },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Body<T> };
}

async function get<T = EventRecord[]>(path: string, role = 'admin') {
  const headers = { prefer: 'wait=0', ...(role ? { authorization: `Bearer ${role}` } : {}) };
  const answer = await app.request(`/api/v1${path}`, { headers });
  return { status: answer.status, body: (await answer.json()) as Body<T> };
}

const payment = (over: object = {}) => ({ type: 'payment.succeeded', data: PAYMENT, ...over });

/** What reached the broker up to now: an event of our own is published last, and all before it have been seen by then. */
async function seen(): Promise<Envelope[]> {
  const id = `sentinel-${newId()}`;
  expect((await post('/events', payment({ id }))).status).toBe(202);
  await eventually(() => published.some((message) => message.id === id), 'the last event');
  return published.filter((message) => message.id !== id);
}

describe('publishing an event', () => {
  it('answers 202 with its id once the broker has it', async () => {
    const event = payment({
      id: 'order-1',
      ordering_key: 'cart-7',
      channels: ['eu', 'b2b', 'eu'],
      data: { ...PAYMENT, note: 'ünïcödé ✓' },
    });
    const { status, body } = await post('/events?tenant=acme', event, { headers: { 'x-request-id': 'req-42' } });
    expect([status, body.data]).toEqual([202, { event_id: 'order-1' }]);
    await eventually(() => published.some(({ id }) => id === 'order-1'), 'the event, on a queue of its own');
    expect(await seen()).toMatchObject([
      {
        id: 'order-1',
        source: 'client',
        type: 'payment.succeeded',
        tenant: 'acme',
        orderingkey: 'cart-7',
        channels: 'eu,b2b',
        data: event.data,
        correlationid: 'req-42',
        requestid: 'req-42',
        actor: `user:${ADMIN}`,
      },
    ]);
  });

  it('makes an id when it is given none', async () => {
    const { body } = await post('/events', { type: 'subscription.expired', data: { subscription_id: 's-1' } });
    expect(body.data.event_id).toMatch(/^[0-9a-f-]{36}$/);
    expect(await seen()).toMatchObject([{ id: body.data.event_id, tenant: 'default' }]);
  });

  it('gives a repeat under one Idempotency-Key the same id', async () => {
    const under = async (key: string, tenant = 'default') =>
      (await post(`/events?tenant=${tenant}`, payment(), { headers: { 'idempotency-key': key } })).body.data.event_id;
    const id = await under('checkout 7');
    expect(id).toMatch(/^ik_[A-Za-z0-9_-]{43}$/);
    expect(await under('checkout 7')).toBe(id);
    expect(await under('checkout 8')).not.toBe(id);
    expect(await under('checkout 7', 'acme')).not.toBe(id);
    const named = await post('/events', payment({ id: 'mine' }), { headers: { 'idempotency-key': 'checkout 7' } });
    expect(named.body.data.event_id).toBe('mine');
  });

  it.each([
    ['nothing', {}, 'type'],
    ['no data', { type: 'payment.succeeded' }, 'data'],
    ['a type that is no text', payment({ type: 7 }), 'type'],
    ['an unknown type', payment({ type: 'payment.exploded' }), 'type'],
    ['a type of the platform', payment({ type: 'user.created' }), 'type'],
    ['a very long type', payment({ type: 'x'.repeat(10_000) }), 'type'],
    ['data that is a list', payment({ data: [] }), 'data'],
    ['data that is text', payment({ data: 'x' }), 'data'],
    ['data without a field', payment({ data: { payment_id: 'p', amount: 1 } }), 'data.currency'],
    ['an amount that is text', payment({ data: { ...PAYMENT, amount: '19.90' } }), 'data.amount'],
    ['a payment without a name', payment({ data: { ...PAYMENT, payment_id: '' } }), 'data.payment_id'],
    ['a long payment id', payment({ data: { ...PAYMENT, payment_id: 'p'.repeat(129) } }), 'data.payment_id'],
    ['no currency', payment({ data: { ...PAYMENT, currency: '' } }), 'data.currency'],
    ['a currency that is a number', payment({ data: { ...PAYMENT, currency: 978 } }), 'data.currency'],
    [
      'a member that objects cannot have',
      '{"type":"payment.succeeded","data":{"payment_id":"p","amount":1,"currency":"EUR","__proto__":{"a":1}}}',
      'data.__proto__',
    ],
    ['U+0000 inside', payment({ data: { ...PAYMENT, note: { deep: ['a\u0000b'] } } }), 'data.note.deep[0]'],
    [
      'a lone surrogate',
      '{"type":"payment.succeeded","data":{"payment_id":"\\ud800","amount":1,"currency":"EUR"}}',
      'data.payment_id',
    ],
    [
      'an amount beyond a double',
      '{"type":"payment.succeeded","data":{"payment_id":"p","amount":1e999,"currency":"EUR"}}',
      'data.amount',
    ],
    ['an id with a blank', payment({ id: 'a b' }), 'id'],
    ['an empty id', payment({ id: '' }), 'id'],
    ['an id of 65', payment({ id: 'i'.repeat(65) }), 'id'],
    ['a long ordering key', payment({ ordering_key: 'k'.repeat(129) }), 'ordering_key'],
    ['an empty ordering key', payment({ ordering_key: '' }), 'ordering_key'],
    ['six channels', payment({ channels: ['a', 'b', 'c', 'd', 'e', 'f'] }), 'channels'],
    ['a channel with a comma', payment({ channels: ['a', 'a,b'] }), 'channels[1]'],
    ['an empty channel', payment({ channels: [''] }), 'channels[0]'],
    ['a long channel', payment({ channels: ['c'.repeat(65)] }), 'channels[0]'],
    ['channels that are text', payment({ channels: 'a,b' }), 'channels'],
    ['an unknown field', payment({ source: 'forged' }), 'source'],
    ['a tenant in the body', payment({ tenant: 'other' }), 'tenant'],
  ])('refuses %s, names the field and publishes nothing', async (_what, body, field) => {
    const { status, body: answer } = await post('/events', body);
    expect([status, answer.error.code, answer.error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
    expect(await seen()).toEqual([]);
  });

  it('refuses what is no JSON, no JSON type, or too large', async () => {
    expect((await post('/events', '{"type":')).status).toBe(400);
    expect((await post('/events', 'null')).status).toBe(400);
    expect((await post('/events', payment(), { headers: { 'content-type': 'text/plain' } })).status).toBe(415);
    const large = await post('/events', payment({ data: { ...PAYMENT, note: 'x'.repeat(256 * 1024) } }));
    expect([large.status, large.body.error.field]).toEqual([413, 'data']);
    expect((await post('/events', payment({ data: { ...PAYMENT, note: 'x'.repeat(512 * 1024) } }))).status).toBe(413);
    expect(await seen()).toEqual([]);
  });

  it.each([
    ['?tenant=', {}, 'tenant'],
    [`?tenant=${'t'.repeat(65)}`, {}, 'tenant'],
    ['', { 'idempotency-key': '' }, 'Idempotency-Key'],
    ['', { 'idempotency-key': 'k'.repeat(256) }, 'Idempotency-Key'],
    ['', { 'idempotency-key': 'schlüssel' }, 'Idempotency-Key'],
  ] as [string, Record<string, string>, string][])('refuses %s %o', async (query, headers, field) => {
    const { status, body } = await post(`/events${query}`, payment(), { headers });
    expect([status, body.error.field]).toEqual([400, field]);
    expect(await seen()).toEqual([]);
  });

  it('keeps a field that is named like an inherited one as plain data', async () => {
    const body = `{"type":"payment.succeeded","data":{"payment_id":"p","amount":1,"currency":"EUR","constructor":"c"}}`;
    expect((await post('/events', body)).status).toBe(202);
    const [message] = await seen();
    expect(message?.data).toEqual({ payment_id: 'p', amount: 1, currency: 'EUR', constructor: 'c' });
  });

  it('is for admins', async () => {
    for (const path of ['/events', '/events/batch']) {
      expect((await post(path, payment(), { role: '' })).status).toBe(401);
      for (const role of ['user', 'operator', 'reviewer'])
        expect((await post(path, payment(), { role })).status).toBe(403);
    }
    expect(await seen()).toEqual([]);
  });

  it('is 503 within two seconds when the broker is out of reach', async () => {
    const away = new Messaging({
      config: { ...h.config, rabbitmqUrl: 'amqp://guest:guest@127.0.0.1:9' },
      database: h.database,
      log: h.log,
      commandTypes: [],
      metrics: new Registry(),
      name: 'away',
    });
    const on = shell(eventRoutes({ ...h, messaging: away, eventTypes: new EventTypeDirectory(h.database) }));
    const began = performance.now();
    for (const [path, body] of [
      ['/events', payment()],
      ['/events/batch', { events: [payment(), payment()] }],
    ] as const) {
      const { status, headers, body: answer } = await post(path, body, { on });
      expect([status, answer.error.code]).toEqual([503, 'SERVICE_UNAVAILABLE']);
      expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
    }
    expect(performance.now() - began).toBeLessThan(4500);
  });
});

describe('publishing a batch', () => {
  it('publishes all of it in its order', async () => {
    const events = Array.from({ length: 100 }, (_, n) => payment({ data: { ...PAYMENT, amount: n } }));
    const { status, body } = await post('/events/batch', { events });
    expect(status).toBe(202);
    expect(new Set(body.data.event_ids).size).toBe(100);
    expect((await seen()).map((message) => message.id)).toEqual(body.data.event_ids);
  });

  it('publishes one of two with the same id: the first', async () => {
    const events = [payment({ id: 'a' }), payment({ id: 'b' }), payment({ id: 'a', data: { ...PAYMENT, amount: 2 } })];
    const { body } = await post('/events/batch', { events });
    expect(body.data.event_ids).toEqual(['a', 'b', 'a']);
    expect(await seen()).toMatchObject([{ id: 'a', data: { amount: 19.9 } }, { id: 'b' }]);
  });

  it('gives a repeat under one Idempotency-Key the same ids', async () => {
    const send = () =>
      post('/events/batch', { events: [payment(), payment()] }, { headers: { 'idempotency-key': 'k' } });
    const [first, second] = [await send(), await send()];
    expect(new Set(first.body.data.event_ids).size).toBe(2);
    expect(second.body.data).toEqual(first.body.data);
  });

  it('takes 100 events of some size', async () => {
    const events = Array.from({ length: 100 }, () => payment({ data: { ...PAYMENT, note: 'x'.repeat(30_000) } }));
    expect((await post('/events/batch', { events })).status).toBe(202);
    expect((await seen()).length).toBe(100);
  });

  it.each([
    ['nothing', {}, 'events'],
    ['no event', { events: [] }, 'events'],
    ['101 events', { events: Array.from({ length: 101 }, () => payment()) }, 'events'],
    ['something else than a list', { events: payment() }, 'events'],
    ['an unknown field', { events: [payment()], tenant: 'x' }, 'tenant'],
    ['one without a type', { events: [payment(), payment(), payment(), { data: {} }] }, 'events[3].type'],
    ['one of an unknown type', { events: [payment(), payment({ type: 'x.y' })] }, 'events[1].type'],
    ['one of the platform', { events: [payment(), payment({ type: 'kyc.approved' })] }, 'events[1].type'],
    [
      'one with bad data',
      { events: [payment(), payment({ data: { ...PAYMENT, amount: null } })] },
      'events[1].data.amount',
    ],
    ['one with a bad id', { events: [payment(), payment({ id: 'ä' })] }, 'events[1].id'],
    ['null', { events: [payment(), null] }, 'events[1]'],
  ])('refuses %s, names the field and publishes none of it', async (_what, body, field) => {
    const { status, body: answer } = await post('/events/batch', body);
    expect([status, answer.error.code, answer.error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
    expect(await seen()).toEqual([]);
  });

  it('names every bad event with its index and path, in one answer', async () => {
    const large = { ...PAYMENT, note: 'x'.repeat(256 * 1024) };
    const events = [
      payment(),
      payment({ type: 'x.y' }),
      payment({ id: 'ä', channels: ['a,b'] }),
      payment({ data: { ...PAYMENT, amount: 'much', currency: '' } }),
      null,
      payment({ id: 'good' }),
      payment({ type: 'user.created' }),
      payment({ data: large }),
      payment({ surprise: 1 }),
    ];
    const { status, body } = await post('/events/batch', { events });
    expect([status, body.error.code, body.error.field]).toEqual([400, 'VALIDATION_ERROR', 'events[1].type']);
    expect(body.error.details).toMatchObject([
      { index: 1, field: 'events[1].type', message: 'events[1].type is not in the catalogue of event types' },
      { index: 2, field: 'events[2].id' },
      { index: 2, field: 'events[2].channels[0]' },
      { index: 3, field: 'events[3].data.amount', message: 'events[3].data.amount must be a number' },
      { index: 3, field: 'events[3].data.currency' },
      { index: 4, field: 'events[4]', message: 'events[4] must be a JSON object' },
      { index: 6, field: 'events[6].type', message: 'events[6].type is an event of the platform itself' },
      { index: 7, field: 'events[7].data', message: 'events[7].data may have 262144 bytes' },
      { index: 8, field: 'events[8].surprise', message: 'events[8].surprise is not a known field' },
    ]);
    expect(body.error.details).toHaveLength(9);
    expect(await seen()).toEqual([]);
  });

  it('answers within bounds, however much is wrong', async () => {
    const channels = ['a,', 'b,', 'c,', 'd,', 'e,'];
    const events = Array.from({ length: 100 }, () => ({ id: 'ä', channels, ordering_key: '', ['x'.repeat(9000)]: 1 }));
    const { status, body } = await post('/events/batch', { events });
    expect(status).toBe(400);
    const details = body.error.details as { index: number }[];
    expect(new Set(details.map(({ index }) => index)).size).toBe(100);
    expect(details.length).toBe(500);
    expect(JSON.stringify(body).length).toBeLessThan(500 * 1000);
    const long = await post('/events', payment({ ['x'.repeat(9000)]: 1 }));
    expect([long.status, long.body.error.field]).toEqual([400, 'x'.repeat(300)]);
  });

  it('refuses those that are too large, and a body that is', async () => {
    const large = payment({ data: { ...PAYMENT, note: 'x'.repeat(256 * 1024) } });
    const some = await post('/events/batch', { events: [payment(), large, payment(), large] });
    expect([some.status, some.body.error.code, some.body.error.field]).toEqual([
      413,
      'PAYLOAD_TOO_LARGE',
      'events[1].data',
    ]);
    expect(some.body.error.details).toMatchObject([
      { index: 1, field: 'events[1].data' },
      { index: 3, field: 'events[3].data' },
    ]);
    const events = Array.from({ length: 100 }, () => payment({ data: { ...PAYMENT, note: 'x'.repeat(50_000) } }));
    expect((await post('/events/batch', { events })).status).toBe(413);
    expect(await seen()).toEqual([]);
  });
});

describe('reading events', () => {
  const run = (query: ReturnType<typeof sql>) => query.execute(h.database.em.fork().getKysely());
  const stored = Array.from({ length: 5 }, (_, n) => `e-${n}`).toReversed();

  beforeAll(async () => {
    // All within one millisecond: only the microseconds and the id tell them apart.
    await run(sql`insert into events (tenant, id, type, source, payload, time, correlation_id, created_at)
      select 'reading', 'e-' || n, case when n < 2 then 'user.created' else 'payment.succeeded' end, 'client',
        '{"type":"t","timestamp":"x","data":{"n":' || n || '}}', '2026-11-20T10:00:00Z', 'req',
        '2026-11-20T10:00:00.123456Z'::timestamptz + (n / 2) * interval '1 microsecond'
      from generate_series(0, 4) n`);
    await run(sql`insert into events (tenant, id, type, source, payload, time)
      values ('default', 'e-1', 'payment.succeeded', 'client', '{"data":{"mine":true}}', now())`);
    await run(sql`insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status)
      select gen_random_uuid(), t.tenant, gen_random_uuid(), 'e-1', 'x', s.status
      from (values ('reading'), ('reading'), ('default')) t(tenant), (values ('delivered'), ('held')) s(status)`);
  });

  it('lists those of a tenant, the newest first, page by page', async () => {
    const seenIds: string[] = [];
    let cursor: string | null = '';
    for (let page = 0; cursor !== null && page < 5; page += 1) {
      const { status, body }: Awaited<ReturnType<typeof get<EventRecord[]>>> = await get(
        `/events?tenant=reading&limit=2${cursor && `&cursor=${cursor}`}`,
      );
      expect(status).toBe(200);
      expect(body.pagination).toMatchObject({ limit: 2, has_more: body.pagination.next_cursor !== null });
      seenIds.push(...body.data.map((event) => event.id));
      cursor = body.pagination.next_cursor;
    }
    expect(seenIds).toEqual(stored);
    expect((await get('/events')).body.data.map((event) => event.id)).toEqual(['e-1']);
    expect((await get('/events?tenant=nobody')).body.data).toEqual([]);
  });

  it.each([
    ['type=user.created', ['e-1', 'e-0']],
    ['created_after=2026-11-20T10:00:00Z', stored],
    ['created_before=2026-11-20T10:00:00Z', []],
    ['created_before=2026-11-20T12:00:01%2B02:00', stored],
  ])('finds by %s', async (query, expected) => {
    expect((await get(`/events?tenant=reading&${query}`)).body.data.map((event) => event.id)).toEqual(expected);
  });

  it('shows one with the state of its deliveries, of its own tenant', async () => {
    const { body } = await get<EventRecord>('/events/e-1?tenant=reading');
    expect(body.data).toEqual({
      id: 'e-1',
      type: 'user.created',
      tenant: 'reading',
      time: '2026-11-20T10:00:00.000Z',
      data: { n: 1 },
      source: 'client',
      subject: null,
      sequence: null,
      ordering_key: null,
      channels: [],
      created_at: '2026-11-20T10:00:00.123Z',
      deliveries: { pending: 0, delivered: 2, failed: 0, held: 2 },
    });
    expect((await get<EventRecord>('/events/e-1')).body.data).toMatchObject({
      data: { mine: true },
      deliveries: { delivered: 1, held: 1 },
    });
  });

  it('shows its trail to admins and operators', async () => {
    type Trail = { event: EventRecord | null; hops: Hop[]; truncated: boolean };
    const { body } = await get<Trail>('/events/e-1/trail?tenant=reading', 'operator');
    expect(body.data.event).toMatchObject({ id: 'e-1', data: null });
    const whole = await get<Trail>('/events/e-1/trail?tenant=reading');
    expect(whole.body.data.event?.data).toEqual({ n: 1 });
    expect(body.data.hops.map((hop) => hop.kind)).toEqual(['event.published', 'webhook.held', 'webhook.held']);
    expect(body.data.truncated).toBe(false);
  });

  describe('that are not stored yet', () => {
    const store = (id: string, tenant = 'default') =>
      run(sql`insert into events (tenant, id, type, source, payload, time)
        values (${tenant}, ${id}, 'payment.succeeded', 'client', '{"data":{}}', now())`);
    let looks = 0;
    const counting = () => {
      const em = {
        fork: () => {
          looks += 1;
          return h.database.em.fork();
        },
      };
      const database = { em } as unknown as Harness['database'];
      return shell(eventRoutes({ ...h, database, eventTypes: new EventTypeDirectory(h.database) }));
    };
    const ask = async (on: typeof app, path: string, prefer?: string) => {
      const headers = { authorization: 'Bearer admin', ...(prefer ? { prefer } : {}) };
      const answer = await on.request(`/api/v1/events/${path}`, { headers });
      return { status: answer.status, applied: answer.headers.get('preference-applied') };
    };
    beforeEach(() => {
      looks = 0;
    });

    it.each(['order-77', newId()])('waits for %s', async (id) => {
      const on = counting();
      const [event, trail] = [ask(on, id, 'wait=30'), ask(on, `${id}/trail`, 'wait=10')];
      await eventually(() => looks > 5, 'both were not found');
      await store(id);
      expect(await Promise.all([event, trail])).toEqual([
        { status: 200, applied: 'wait=10' },
        { status: 200, applied: 'wait=10' },
      ]);
    });

    it('does so for two seconds unasked, and then says 404', async () => {
      const began = performance.now();
      const answers = await Promise.all(['nobody-1', newId()].map((id) => ask(counting(), id)));
      expect(answers).toEqual([
        { status: 404, applied: null },
        { status: 404, applied: null },
      ]);
      expect(performance.now() - began).toBeGreaterThan(1900);
      expect(looks).toBeGreaterThan(3);
    });

    it.each([
      ['019a9f3e-6b00-7a11-8e22-3f4455667788', undefined],
      ['nobody-2', 'wait=0'],
      ['no.event.id', undefined],
    ])('looks once for %s with %s', async (id, prefer) => {
      expect((await ask(counting(), id, prefer)).status).toBe(404);
      expect(looks).toBe(1);
    });

    it('does not find another tenant’s, which looks like none', async () => {
      await store('theirs', 'other');
      expect((await ask(counting(), 'theirs')).status).toBe(404);
      expect(looks).toBeGreaterThan(3);
    });

    it('lets 64 requests wait at once, and answers the others', async () => {
      const on = counting();
      const answers: number[] = [];
      const asked = Array.from({ length: 80 }, (_, n) =>
        ask(on, `slow-${n}`, 'wait=10').then(({ status }) => answers.push(status)),
      );
      await eventually(() => answers.length >= 16, 'those beyond are answered');
      expect(answers).toEqual(Array(16).fill(404));
      await run(sql`insert into events (tenant, id, type, source, payload, time)
        select 'default', 'slow-' || n, 'payment.succeeded', 'client', '{"data":{}}', now() from generate_series(0, 79) n`);
      await Promise.all(asked);
      expect(answers.slice(16)).toEqual(Array(64).fill(200));
    });
  });

  it('knows nothing of others', async () => {
    for (const path of ['/events/e-9', '/events/e-3', '/events/e-9/trail', '/events/%C3%A9']) {
      const { status, body } = await get(path);
      expect([status, body.error.code]).toEqual([404, 'NOT_FOUND']);
    }
  });

  it.each([
    ['/events?limit=0', 'limit'],
    ['/events?cursor=bm9wZQ', 'cursor'],
    [`/events?cursor=${Buffer.from('2026-02-31T25:00:00.000000Z x').toString('base64url')}`, 'cursor'],
    [`/events?cursor=${Buffer.from('2026-02-01T05:00:00.000000Z \0').toString('base64url')}`, 'cursor'],
    ['/events?created_after=soon', 'created_after'],
    ['/events?created_before=0000-01-01T00:00:00Z', 'created_before'],
    [`/events?type=${'x'.repeat(129)}`, 'type'],
    [`/events?tenant=${'x'.repeat(65)}`, 'tenant'],
    ['/events?type=%00', 'type'],
    [`/events/${'x'.repeat(129)}`, 'id'],
    [`/events/${'x'.repeat(129)}/trail`, 'id'],
  ])('refuses %s and names the field', async (path, field) => {
    const { status, body } = await get(path);
    expect([status, body.error.code, body.error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
  });

  it('is for admins', async () => {
    for (const path of ['/events', '/events/e-1', '/events/e-1/trail']) {
      expect((await get(path, '')).status).toBe(401);
      expect((await get(path, 'user')).status).toBe(403);
    }
    expect((await get('/events', 'operator')).status).toBe(403);
  });
});
