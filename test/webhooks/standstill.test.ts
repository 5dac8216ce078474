import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { deleteEndpoint, updateEndpoint } from '../../src/webhooks/endpoints.ts';
import { PAGE, settleStranded } from '../../src/webhooks/standstill.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());

/** `n` deliveries, a second apart, the first the oldest; with `keys` in so many lines. */
const fill = (endpointId: string, n: number, status: 'pending' | 'held', keys = 0) =>
  bench.query(sql`
    insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, next_attempt_at, created_at, ordering_key, position)
    select gen_random_uuid(), 'default', ${endpointId}, gen_random_uuid()::text, 'kyc.approved', ${status}, null,
      case when ${status} = 'pending' then now() + interval '1 hour' end, now() - interval '1 day' + n * interval '1 second',
      case when ${keys}::int > 0 then 'key ' || n % greatest(${keys}::int, 1) end, case when ${keys}::int > 0 then nextval('webhook_delivery_position') end
    from generate_series(1, ${n}::int) n`);
const counts = async (endpointId: string): Promise<Record<string, number>> => {
  const rows = await bench.query(
    sql<{
      status: string;
      n: string;
    }>`select status, count(*) as n from webhook_deliveries where endpoint_id = ${endpointId} group by status`,
  );
  return Object.fromEntries(rows.map(({ status, n }) => [status, Number(n)]));
};
/** Whether every delivery with this status is older than every other one. */
const areOldest = async (endpointId: string, status: string) => {
  const [row] = await bench.query(sql<{ oldest: boolean }>`
    select max(created_at) filter (where status = ${status}) < min(created_at) filter (where status <> ${status}) as oldest
    from webhook_deliveries where endpoint_id = ${endpointId}`);
  return row?.oldest;
};
const change = (id: string, status: 'enabled' | 'disabled') =>
  bench.transact(bench.context, (unit) =>
    updateEndpoint(unit, { tenant: 'default', id, change: { status } }, bench.deps),
  );
const settle = (runMs?: number) => settleStranded(bench.transact, bench.em(), runMs);
const lastAudit = async () => (await bench.emitted()).at(-1)?.data.metadata;

it('enables an endpoint with 20,000 held deliveries within a second, and the rest follows oldest first', async () => {
  const { id } = await bench.create({ status: 'disabled' });
  await fill(id, 20_000, 'held');
  await bench.alarms();
  await bench.emitted();
  const began = performance.now();
  expect(await change(id, 'enabled')).toMatchObject({ status: 'enabled' });
  expect(performance.now() - began).toBeLessThan(1000);
  expect(await counts(id)).toEqual({ held: 20_000 - PAGE, pending: PAGE });
  expect(await areOldest(id, 'pending')).toBe(true);
  expect(await lastAudit()).toEqual({ host: 'example.com', released: PAGE, rest: 'follows' });
  expect(await bench.alarms()).toHaveLength(PAGE);

  expect(await settle(0)).toBe(0);
  expect(await settle()).toBe(20_000 - PAGE);
  expect(await counts(id)).toEqual({ pending: 20_000 });
  const alarms = await bench.alarms();
  expect(alarms).toHaveLength(20_000 - PAGE);
  const order = await bench.query(
    sql<{ id: string }>`select id from webhook_deliveries where endpoint_id = ${id} order by created_at offset ${PAGE}`,
  );
  expect(alarms.map((alarm) => alarm.id)).toEqual(order.map((row) => row.id));
  // Spread over time, not all at one instant.
  expect((alarms.at(-1)?.at ?? 0) - (alarms[0]?.at ?? 0)).toBeGreaterThan(30_000);
  expect(await settle()).toBe(0);
}, 60_000);

it('releases lines from their fronts, page by page', async () => {
  const { id } = await bench.create({ status: 'disabled' });
  await fill(id, 700, 'held', 2);
  await change(id, 'enabled');
  expect(await counts(id)).toEqual({ held: 700 - PAGE, pending: PAGE });
  expect(await areOldest(id, 'pending')).toBe(true);
  const due = () =>
    bench.query(
      sql<{
        position: string;
      }>`select position from webhook_deliveries where endpoint_id = ${id} and next_attempt_at is not null order by position`,
    );
  const heads = await due();
  expect(heads).toHaveLength(2);
  expect(await settle()).toBe(700 - PAGE);
  expect(await counts(id)).toEqual({ pending: 700 });
  expect(await due()).toEqual(heads);
});

it('disables and deletes page by page too', async () => {
  const { id } = await bench.create();
  await fill(id, 1200, 'pending');
  await bench.emitted();
  await change(id, 'disabled');
  expect(await counts(id)).toEqual({ held: PAGE, pending: 1200 - PAGE });
  expect(await areOldest(id, 'held')).toBe(true);
  expect(await lastAudit()).toMatchObject({ held: PAGE, rest: 'follows' });
  expect(await settle()).toBe(1200 - PAGE);
  expect(await counts(id)).toEqual({ held: 1200 });

  await bench.transact(bench.context, (unit) => deleteEndpoint(unit, { tenant: 'default', id }));
  expect(await counts(id)).toEqual({ failed: PAGE, held: 1200 - PAGE });
  expect(await lastAudit()).toMatchObject({ failed: PAGE, rest: 'follows' });
  expect(await settle()).toBe(1200 - PAGE);
  expect(await counts(id)).toEqual({ failed: 1200 });
  expect(await settle()).toBe(0);
});

it('leaves alone what a process is at work on, and what stands as its endpoint does', async () => {
  const disabled = await bench.create({ status: 'disabled' });
  const enabled = await bench.create();
  await bench.deliver(disabled.id, { leased: true });
  await bench.deliver(disabled.id, { status: 'held' });
  await bench.deliver(enabled.id);
  await bench.deliver(enabled.id, { status: 'failed' });
  expect(await settle()).toBe(0);
  expect(await counts(disabled.id)).toEqual({ held: 1, pending: 1 });
  expect(await counts(enabled.id)).toEqual({ failed: 1, pending: 1 });
});
