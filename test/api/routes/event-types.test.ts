import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import type { ApiRouter } from '../../../src/api/router.ts';
import { eventTypeRoutes } from '../../../src/api/routes/event-types.ts';
import { eventRoutes } from '../../../src/api/routes/events.ts';
import { EVENT_TYPES } from '../../../src/domain/events/catalogue.ts';
import type { EventTypeResource } from '../../../src/domain/events/event-types.ts';
import { workedMs } from '../../../src/domain/events/time-limit.ts';
import { EventTypeDirectory } from '../../../src/domain/events/type-directory.ts';
import { newId } from '../../../src/domain/ids.ts';
import { Notices } from '../../../src/services/notices.ts';
import { CACHE_LIFE_MS } from '../../../src/services/revision.ts';
import { createHarness, eventually, type Harness } from '../../harness.ts';

const TYPES = '/webhooks/event-types';
const ADMIN = newId();
const SCHEMA = {
  type: 'object',
  required: ['order_id', 'amount'],
  properties: { order_id: { type: 'string' }, amount: { type: 'number', minimum: 0 } },
};
const ORDER = { description: 'An order was paid.', schema: SCHEMA, example: { order_id: 'o-1', amount: 5 } };

let h: Harness;
let app: ApiRouter;
let notices: Notices;

beforeAll(async () => {
  h = await createHarness();
  notices = new Notices({
    publisher: h.messaging.redis,
    subscriber: h.messaging.subscriber,
    namespace: h.config.namespace,
  });
  await notices.start();
  const eventTypes = new EventTypeDirectory(h.database, notices);
  const deps = { ...h, transact: h.messaging.transact, eventTypes };
  app = createApp(
    { config: h.config, log: h.log, authenticate: async (role) => ({ userId: ADMIN, sessionId: ADMIN, role }) },
    { api: [eventTypeRoutes(deps), eventRoutes(deps)] },
  );
});
afterAll(async () => {
  await notices.stop();
  await h.close();
});

type WithVersions = EventTypeResource & { versions: { version: number }[] };

interface Answer<T> {
  status: number;
  data: T;
  message?: string;
  error: { code: string; message: string; field?: string };
  pagination: { total_items: number; has_next: boolean };
}

async function call<T = WithVersions>(
  method: string,
  path: string,
  body?: unknown,
  role = 'admin',
): Promise<Answer<T>> {
  const answer = await app.request(`/api/v1${path}`, {
    method,
    headers: {
      ...(role ? { authorization: `Bearer ${role}` } : {}),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  return { ...((await answer.json()) as Answer<T>), status: answer.status };
}

let made = 0;
/** Creates a type under a name of its own. */
async function create(over: object = {}, tenant = 'default'): Promise<string> {
  made += 1;
  const name = `order.paid_${made}`;
  const answer = await call('POST', `${TYPES}?tenant=${tenant}`, { name, ...ORDER, ...over });
  expect(answer.status).toBe(201);
  return name;
}
const publish = (type: string, data: object, tenant = 'default') =>
  call<{ event_id: string }>('POST', `/events?tenant=${tenant}`, { type, data });
const stored = async () =>
  (
    await sql`select (select count(*) from event_types) as types, (select count(*) from outbox) as outbox,
      (select revision from revisions where name = 'event_types') as revision`.execute(h.database.em.fork().getKysely())
  ).rows[0];

describe('a type of one’s own', () => {
  it('is added, read, given a new version, and keeps the old one', async () => {
    const name = `invoice.sent_${newId().slice(-6)}`;
    const added = await call('POST', TYPES, { name, ...ORDER });
    expect([added.status, added.data]).toEqual([
      201,
      {
        name,
        ...ORDER,
        deprecated: false,
        version: 1,
        built_in: false,
        publishable: true,
        created_at: expect.stringMatching(/Z$/),
      },
    ]);
    const next = { name, description: 'Sent.', schema: { ...SCHEMA, required: ['order_id'] }, deprecated: true };
    const updated = await call('PUT', `${TYPES}/${name}`, next);
    expect([updated.status, updated.data]).toMatchObject([200, { ...next, example: null, version: 2 }]);
    const read = await call('GET', `${TYPES}/${name}`);
    expect(read.data).toMatchObject({ version: 2, versions: [{ version: 2 }, { version: 1 }] });
    expect((await call('GET', `${TYPES}/${name}?version=1`)).data).toMatchObject({ ...ORDER, version: 1 });
    expect((await call('GET', `${TYPES}/${name}?version=3`)).status).toBe(404);
    // The order of the schema is its author's.
    expect(JSON.stringify(read.data.schema)).toBe(JSON.stringify(next.schema));
  });

  it('is checked when it is published, with the failing path named', async () => {
    const name = await create();
    expect((await publish(name, { order_id: 'o', amount: 5, more: 1 })).status).toBe(202);
    for (const [data, field, message] of [
      [{ order_id: 'o' }, 'data.amount', 'data.amount is required'],
      [{ order_id: 'o', amount: '5' }, 'data.amount', 'data.amount must be number'],
      [{ order_id: 'o', amount: -1 }, 'data.amount', 'data.amount must be >= 0'],
    ] as const)
      expect(await publish(name, data)).toMatchObject({
        status: 400,
        error: { code: 'VALIDATION_ERROR', field, message },
      });
    const batch = await call('POST', '/events/batch', {
      events: [
        { type: name, data: ORDER.example },
        { type: name, data: {} },
      ],
    });
    expect([batch.status, batch.error.field]).toEqual([400, 'events[1].data.order_id']);
    expect((await publish('order.unheard_of', {})).error.field).toBe('type');
  });

  it('counts in its new version at once, here and, after a notice or a second, elsewhere', async () => {
    const elsewhere = new EventTypeDirectory(h.database, notices);
    await eventually(() => performance.now() - (notices.since ?? Number.POSITIVE_INFINITY) > CACHE_LIFE_MS, 'hearing');
    const name = await create();
    const fits = async (data: unknown) => {
      const type = (await elsewhere.find('default', [name]))(name);
      return type?.check?.(data, 50) === undefined && type !== undefined;
    };
    expect([await fits({}), await fits(ORDER.example)]).toEqual([false, true]);
    expect((await publish(name, {})).status).toBe(400);
    await call('PUT', `${TYPES}/${name}`, { schema: {} });
    expect((await publish(name, {})).status).toBe(202);
    expect(await fits({})).toBe(true);
  });

  it('may be deprecated: it is taken, and the answer says so', async () => {
    const name = await create({ deprecated: true });
    expect(await publish(name, ORDER.example)).toMatchObject({ status: 202, message: `deprecated: ${name}` });
    expect(await publish(await create(), ORDER.example)).not.toHaveProperty('message');
  });

  it('is its tenant’s alone', async () => {
    const name = await create({}, 'acme');
    expect((await publish(name, ORDER.example, 'acme')).status).toBe(202);
    expect((await publish(name, ORDER.example)).error.field).toBe('type');
    expect((await call('GET', `${TYPES}/${name}`)).status).toBe(404);
    expect((await call('PUT', `${TYPES}/${name}`, ORDER)).status).toBe(404);
    expect((await call('POST', TYPES, { name, schema: {} })).status).toBe(201);
    // Once from the database, then from memory.
    for (let n = 0; n < 3; n += 1) {
      expect((await publish(name, {})).status).toBe(202);
      expect((await publish(name, {}, 'acme')).status).toBe(400);
    }
    const listed = await call<EventTypeResource[]>('GET', `${TYPES}?tenant=acme`);
    expect(listed.data.map((type) => type.name).slice(EVENT_TYPES.length)).toEqual([name]);
  });

  it('gets no version from what it says already', async () => {
    const name = await create();
    expect((await call('PUT', `${TYPES}/${name}`, ORDER)).data.version).toBe(1);
    expect((await call('PUT', `${TYPES}/${name}`, { ...ORDER, deprecated: true })).data.version).toBe(2);
    expect((await call('PUT', `${TYPES}/${name}`, { ...ORDER, deprecated: true })).data).toMatchObject({
      version: 2,
      deprecated: true,
    });
    const { example: _, ...bare } = ORDER;
    expect((await call('PUT', `${TYPES}/${name}`, bare)).data).toMatchObject({ version: 3, example: null });
    expect((await call('PUT', `${TYPES}/${name}`, bare)).data.version).toBe(3);
    expect((await call('PUT', `${TYPES}/${name}`, { ...bare, schema: {} })).data.version).toBe(4);
  });

  it('keeps its newest 100 versions', async () => {
    const name = await create();
    await sql`insert into event_types (tenant, name, version, description, schema)
      select 'default', ${name}, n, 'x', '{}' from generate_series(2, 100) n`.execute(h.database.em.fork().getKysely());
    expect((await call('PUT', `${TYPES}/${name}`, ORDER)).data.version).toBe(101);
    const { data } = await call('GET', `${TYPES}/${name}`);
    expect(data.versions).toHaveLength(100);
    expect(data.versions.map(({ version }) => version)).toEqual(Array.from({ length: 100 }, (_, n) => 101 - n));
    expect((await call('GET', `${TYPES}/${name}?version=1`)).status).toBe(404);
    expect((await call('GET', `${TYPES}/${name}?version=2`)).status).toBe(200);
  });

  it('gets one version each from two changes at once', async () => {
    const name = await create();
    const versions = await Promise.all(
      [1, 2, 3, 4].map((n) => call('PUT', `${TYPES}/${name}`, { ...ORDER, description: `${n}` })),
    );
    expect(versions.map(({ status, data }) => [status, data.version]).toSorted()).toEqual([
      [200, 2],
      [200, 3],
      [200, 4],
      [200, 5],
    ]);
    const taken = `order.race_${newId().slice(-6)}`;
    const created = await Promise.all([1, 2].map(() => call('POST', TYPES, { name: taken, ...ORDER })));
    expect(created.map(({ status }) => status).toSorted()).toEqual([201, 409]);
  });

  it('cannot hold up the others with a schema that takes for ever', async () => {
    const name = await create({
      schema: { properties: { a: { type: 'string', pattern: '^(a+)+$' } } },
      example: undefined,
    });
    const began = workedMs();
    const slow = { type: name, data: { a: `${'a'.repeat(50)}!` } };
    const answer = await call('POST', '/events/batch', { events: Array.from({ length: 100 }, () => slow) });
    expect([answer.status, answer.error.field]).toEqual([400, 'events[0].data']);
    expect(workedMs() - began).toBeLessThan(2000);
    expect((await publish(name, { a: 'aaaa' })).status).toBe(202);
  });
});

describe('the catalogue', () => {
  it('lists the built-in types for everyone, then one’s own by name', async () => {
    for (const name of ['zebra.seen', 'ant.seen']) await call('POST', `${TYPES}?tenant=zoo`, { name, schema: {} });
    const all = await call<EventTypeResource[]>('GET', `${TYPES}?tenant=zoo`);
    const builtIn = EVENT_TYPES.map((type) => type.name);
    expect(all.data.map((type) => type.name)).toEqual([...builtIn, 'ant.seen', 'zebra.seen']);
    expect(all.pagination.total_items).toBe(builtIn.length + 2);
    const paged: string[] = [];
    for (let page = 1; ; page += 1) {
      const one = await call<EventTypeResource[]>('GET', `${TYPES}?tenant=zoo&limit=7&page=${page}`);
      paged.push(...one.data.map((type) => type.name));
      if (!one.pagination.has_next) break;
    }
    expect(paged).toEqual(all.data.map((type) => type.name));
    const payment = await call('GET', `${TYPES}/payment.succeeded`);
    expect(payment.data).toMatchObject({
      built_in: true,
      publishable: true,
      schema: { required: ['payment_id', 'amount', 'currency'] },
      versions: [{ version: 1, created_at: null }],
    });
    expect((await call('GET', `${TYPES}/kyc.approved`)).data).toMatchObject({ built_in: true, publishable: false });
    expect((await call('GET', `${TYPES}/kyc.approved?version=2`)).status).toBe(404);
  });

  it.each(['payment.succeeded', 'user.created', 'kyc.approved', 'webhook.endpoint.disabled'])(
    'keeps %s',
    async (name) => {
      const before = await stored();
      for (const [method, path] of [
        ['POST', TYPES],
        ['PUT', `${TYPES}/${name}`],
      ] as const)
        expect(await call(method, path, { name, ...ORDER })).toMatchObject({ status: 409, error: { field: 'name' } });
      expect(await stored()).toEqual(before);
    },
  );
});

describe('what is refused', () => {
  const good = { name: 'good.name', ...ORDER };

  it.each<[string, unknown, number, string | undefined]>([
    ['nothing', {}, 400, 'name'],
    ['no schema', { name: 'a.b' }, 400, 'schema'],
    ['a schema that is a list', { ...good, schema: [] }, 400, 'schema'],
    ['a schema that is true', { ...good, schema: true }, 400, 'schema'],
    ['a name with capitals', { ...good, name: 'Order.Paid' }, 400, 'name'],
    ['a name with a star', { ...good, name: 'order.*' }, 400, 'name'],
    ['a name that ends in a dot', { ...good, name: 'order.' }, 400, 'name'],
    ['a long name', { ...good, name: 'a'.repeat(129) }, 400, 'name'],
    ['a long description', { ...good, description: 'd'.repeat(1001) }, 400, 'description'],
    ['deprecated as text', { ...good, deprecated: 'yes' }, 400, 'deprecated'],
    ['an unknown field', { ...good, tenant: 'other' }, 400, 'tenant'],
    ['a version', { ...good, version: 7 }, 400, 'version'],
    ['an example that does not fit', { ...good, example: { order_id: 'o', amount: 'x' } }, 400, 'example.amount'],
    ['an example that is text', { ...good, example: 'x' }, 400, 'example'],
    ['a schema with an unknown type', { ...good, schema: { type: 'objekt' } }, 400, 'schema.type'],
    ['a schema that refers elsewhere', { ...good, schema: { $ref: 'http://127.0.0.1/x' } }, 400, 'schema.$ref'],
    [
      'a pattern of 201',
      { ...good, schema: { properties: { a: { pattern: 'a'.repeat(201) } } } },
      400,
      'schema.properties.a.pattern',
    ],
    ['a schema without end', { ...good, schema: { $ref: '#' } }, 400, 'schema'],
    ['a schema over 64 KiB', { ...good, schema: { title: 'x'.repeat(64 * 1024) } }, 413, 'schema'],
    ['an example over 64 KiB', { ...good, example: { ...ORDER.example, x: 'x'.repeat(64 * 1024) } }, 413, 'example'],
    ['a body over 160 KiB', { ...good, schema: { title: 'x'.repeat(200 * 1024) } }, 413, undefined],
    ['no JSON', '{"name":', 400, undefined],
    ['a schema with U+0000', { ...good, schema: { title: 'a\u0000' } }, 400, 'schema.title'],
  ])('%s, on creation and as a new version, with nothing left behind', async (what, body, status, field) => {
    const name = await create();
    const before = await stored();
    const created = await call('POST', TYPES, body);
    expect([created.status, created.error.field]).toEqual([status, field]);
    if (field !== 'name' && typeof body === 'object') {
      const { name: _, ...version } = body as { name?: string };
      const updated = await call('PUT', `${TYPES}/${name}`, version);
      expect([what, updated.status, updated.error.field]).toEqual([what, status, field]);
    }
    expect(await stored()).toEqual(before);
  });

  it('what contradicts: a name that is taken, that is unknown, or another than the path’s', async () => {
    const name = await create();
    expect(await call('POST', TYPES, { ...good, name })).toMatchObject({ status: 409, error: { field: 'name' } });
    expect((await call('PUT', `${TYPES}/order.unknown`, ORDER)).status).toBe(404);
    expect(await call('PUT', `${TYPES}/${name}`, good)).toMatchObject({ status: 400, error: { field: 'name' } });
    for (const path of ['order.unknown', '%20', '__proto__', 'constructor'])
      expect((await call('GET', `${TYPES}/${path}`)).status).toBe(404);
  });

  it.each([
    ['?tenant=', 'tenant'],
    ['?limit=0', 'limit'],
    ['?limit=101', 'limit'],
    ['?page=0', 'page'],
    ['/payment.succeeded?version=0', 'version'],
    ['/payment.succeeded?version=9999999999', 'version'],
    [`/${'x'.repeat(129)}`, 'name'],
  ])('GET %s', async (query, field) => {
    expect(await call('GET', `${TYPES}${query}`)).toMatchObject({ status: 400, error: { field } });
  });

  it('the 501st type of a tenant', async () => {
    await sql`insert into event_types (tenant, name, version, description, schema)
      select 'full', 'type.n' || n, 1, '', '{}' from generate_series(1, 500) n`.execute(
      h.database.em.fork().getKysely(),
    );
    expect((await call('POST', `${TYPES}?tenant=full`, good)).status).toBe(409);
    expect((await call('PUT', `${TYPES}/type.n7?tenant=full`, ORDER)).status).toBe(200);
  });
});
