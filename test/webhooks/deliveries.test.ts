import { MikroORM } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookSecret } from '../../src/domain/webhooks/entities.ts';
import { eventDeliveries, getDelivery, listDeliveries } from '../../src/webhooks/deliveries.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
const endpoints: string[] = [];
beforeAll(async () => {
  bench = await openEndpointBench();
  for (let n = 0; n < 2; n += 1) endpoints.push((await bench.create()).id);
});
afterAll(() => bench.close());

const attempt = (deliveryId: string, number: number, more: { status_code?: number; error?: string } = {}) =>
  bench.query(sql`
    insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms, status_code, error, response_body)
    values (${newId()}, ${deliveryId}, ${number}, '2026-11-20T10:15:30.123Z', 84, ${more.status_code ?? null}, ${more.error ?? null}, 'nope')`);

it('lists page by page, the newest first, by microsecond and then by id', async () => {
  const made: string[] = [];
  for (let n = 0; n < 7; n += 1) {
    const created_at = `2026-11-20T10:15:30.0010${n < 3 ? '1' : '2'}0Z`;
    made.push(await bench.deliver(endpoints[0] ?? '', { tenant: 'pages', created_at }));
  }
  const seen: string[] = [];
  let cursor: string | undefined;
  for (let page = 0; page < 10; page += 1) {
    const { rows, nextCursor } = await listDeliveries(bench.em(), 'pages', { limit: 2, cursor });
    seen.push(...rows.map(({ id }) => id));
    if (nextCursor === null) break;
    cursor = nextCursor;
  }
  expect(seen).toEqual([...made.slice(3).toSorted().reverse(), ...made.slice(0, 3).toSorted().reverse()]);
});

it('filters by each field, and never shows another tenant’s', async () => {
  const [a = '', b = ''] = endpoints;
  const tenant = 'filters';
  const first = await bench.deliver(a, { tenant, status: 'held', reason: 'endpoint disabled', event_id: 'evt_a' });
  const second = await bench.deliver(b, { tenant, status: 'failed', reason: 'endpoint deleted', event_id: 'evt_a' });
  const third = await bench.deliver(a, { tenant, event_type: 'user.created', event_id: 'evt_b' });
  await bench.deliver(a, { tenant: 'other', event_id: 'evt_c' });
  const ids = async (filter: object) =>
    (await listDeliveries(bench.em(), tenant, { limit: 10, ...filter })).rows.map(({ id }) => id);
  expect(await ids({})).toEqual([third, second, first]);
  expect(await ids({ endpoint_id: a })).toEqual([third, first]);
  expect(await ids({ status: 'held' })).toEqual([first]);
  expect(await ids({ event_type: 'user.created' })).toEqual([third]);
  expect(await ids({ event_id: 'evt_a' })).toEqual([second, first]);
  expect(await ids({ reason: 'endpoint deleted' })).toEqual([second]);
  expect(await ids({ endpoint_id: a, event_id: 'evt_a', status: 'failed' })).toEqual([]);
});

it.each([
  ['nothing of ours', 'bm9wZQ'],
  ['another id', Buffer.from('2026-11-20T10:15:30.000000Z 7').toString('base64url')],
  ['a day that is none', Buffer.from(`2026-02-30T10:15:30.000000Z ${newId()}`).toString('base64url')],
  ['the year 0', Buffer.from(`0000-01-01T00:00:00.000000Z ${newId()}`).toString('base64url')],
  ['an hour 24', Buffer.from(`2026-02-20T24:00:00.000000Z ${newId()}`).toString('base64url')],
])('refuses a cursor with %s', async (_, cursor) => {
  await expect(listDeliveries(bench.em(), 'default', { limit: 1, cursor })).rejects.toMatchObject({
    problem: { code: 'VALIDATION_ERROR', field: 'cursor' },
  });
});

it('shows one with its attempts in their order, and only to its tenant', async () => {
  const id = await bench.deliver(endpoints[0] ?? '', {
    tenant: 'one',
    event_id: 'evt_1',
    attempts: 2,
    reason: 'status 500',
  });
  await attempt(id, 2, { error: 'timeout' });
  await attempt(id, 1, { status_code: 500 });
  expect(await getDelivery(bench.em(), 'one', id)).toEqual({
    id,
    event_id: 'evt_1',
    endpoint_id: endpoints[0],
    event_type: 'kyc.approved',
    status: 'pending',
    reason: 'status 500',
    attempt_count: 2,
    next_attempt_at: expect.stringMatching(/^\d{4}-.*\.\d{3}Z$/),
    delivered_at: null,
    created_at: expect.stringMatching(/^\d{4}-.*\.\d{3}Z$/),
    attempts: [
      {
        id: expect.any(String),
        number: 1,
        started_at: '2026-11-20T10:15:30.123Z',
        duration_ms: 84,
        status_code: 500,
        error: null,
        response_body: 'nope',
        cause: 'schedule',
      },
      expect.objectContaining({ number: 2, status_code: null, error: 'timeout' }),
    ],
  });
  for (const [tenant, other] of [
    ['default', id],
    ['one', newId()],
  ] as const) {
    await expect(getDelivery(bench.em(), tenant, other)).rejects.toMatchObject({ problem: { code: 'NOT_FOUND' } });
  }
});

it('says no next attempt for what will not be tried by itself', async () => {
  const id = await bench.deliver(endpoints[0] ?? '', { tenant: 'next', status: 'failed' });
  await bench.query(sql`update webhook_deliveries set next_attempt_at = now() where id = ${id}`);
  expect(await getDelivery(bench.em(), 'next', id)).toMatchObject({ next_attempt_at: null, attempts: [] });
});

it('tells what became of an event', async () => {
  const [a = '', b = ''] = endpoints;
  const first = await bench.deliver(a, { tenant: 'event', event_id: 'evt_x', status: 'delivered' });
  const second = await bench.deliver(b, { tenant: 'event', event_id: 'evt_x' });
  await bench.deliver((await bench.create()).id, { tenant: 'elsewhere', event_id: 'evt_x' });
  await attempt(first, 1, { status_code: 200 });
  const found = await eventDeliveries(bench.em(), 'event', 'evt_x');
  expect(found.map(({ id, attempts }) => [id, attempts.map(({ status_code }) => status_code)])).toEqual([
    [first, [200]],
    [second, []],
  ]);
  expect(await eventDeliveries(bench.em(), 'event', 'evt_y')).toEqual([]);
});

it('has the tables that the entities describe', async () => {
  const entities = [WebhookEndpoint, WebhookSecret, WebhookDelivery, WebhookAttempt];
  const clientUrl = bench.database.config.get('clientUrl') ?? '';
  const orm = await MikroORM.init({ clientUrl, entities, logger: () => undefined });
  try {
    const statements = (await orm.schema.getUpdateSchemaSQL({ dropTables: false })).split('\n');
    const names = entities.map((entity) => String(entity.meta.tableName));
    expect(statements.filter((line) => names.some((name) => line.includes(`"${name}"`)))).toEqual([]);
  } finally {
    await orm.close(true);
  }
});
