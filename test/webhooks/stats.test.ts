import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { endpointStats, statsQuery } from '../../src/webhooks/stats.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());

const NOW = new Date('2026-11-20T15:00:00Z');
const NONE = { attempts: 0, delivered: 0, failed: 0, success_rate: null, p50_ms: null, p95_ms: null };

async function attempts(endpointId: string, made: [at: string, ms: number, status: number | null, error?: string][]) {
  const id = await bench.deliver(endpointId, { created_at: made[0]?.[0] ?? '' });
  for (const [n, [at, ms, status, error]] of made.entries())
    await bench.query(sql`
      insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms, status_code, error)
      values (${newId()}, ${id}, ${n + 1}, ${at}, ${ms}, ${status}, ${error ?? null})`);
}

it('counts attempts by the day of UTC on which they began', async () => {
  const { id } = await bench.create();
  await attempts(id, [
    ['2026-11-17T23:59:59.999Z', 1, 200],
    ['2026-11-18T00:00:00Z', 900, 500],
    ['2026-11-20T00:00:00Z', 40, 204],
  ]);
  await attempts(id, [
    ['2026-11-20T14:00:00Z', 15_000, null, 'timeout'],
    ['2026-11-20T14:10:00Z', 20, 200],
    ['2026-11-20T14:20:00Z', 30, 200, 'closed'],
    ['2026-11-21T00:00:00Z', 1, 200],
  ]);
  await attempts((await bench.create()).id, [['2026-11-20T14:00:00Z', 5, 200]]);
  expect(await endpointStats(bench.em(), { tenant: 'default', id, days: 3 }, NOW)).toEqual({
    days: [
      { date: '2026-11-18', attempts: 1, delivered: 0, failed: 1, success_rate: 0, p50_ms: 900, p95_ms: 900 },
      { date: '2026-11-19', ...NONE },
      { date: '2026-11-20', attempts: 4, delivered: 2, failed: 2, success_rate: 0.5, p50_ms: 30, p95_ms: 15_000 },
    ],
    total: { attempts: 5, delivered: 2, failed: 3, success_rate: 0.4, p50_ms: 40, p95_ms: 15_000 },
  });
});

it('says so when there was nothing', async () => {
  const { id } = await bench.create();
  expect(await endpointStats(bench.em(), { tenant: 'default', id, days: 1 }, NOW)).toEqual({
    days: [{ date: '2026-11-20', ...NONE }],
    total: NONE,
  });
});

it('is refused for another tenant', async () => {
  const { id } = await bench.create();
  await expect(endpointStats(bench.em(), { tenant: 'other', id, days: 1 })).rejects.toMatchObject({
    problem: { code: 'NOT_FOUND' },
  });
});

it('reads no table from end to end', async () => {
  const { id } = await bench.create();
  await bench.query(sql`
    with filled as (
      insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, created_at)
      select gen_random_uuid(), 'default', case n % 50 when 0 then ${id}::uuid else gen_random_uuid() end, 'stats-' || n, 'kyc.approved',
        'delivered', '2026-11-20T15:00:00Z'::timestamptz - n * interval '1 minute'
      from generate_series(1, 60000) n returning id, created_at
    )
    insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms, status_code)
    select gen_random_uuid(), id, 1, created_at, 20, 200 from filled`);
  await bench.query(sql`analyze webhook_deliveries`);
  await bench.query(sql`analyze webhook_attempts`);
  const rows = await bench.query(
    sql<{ 'QUERY PLAN': string }>`explain ${statsQuery(id, '2026-11-14T00:00:00Z', '2026-11-21T00:00:00Z')}`,
  );
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  expect(plan).toMatch(/webhook_attempts/);
  expect(plan).not.toMatch(/Seq Scan/);
  const { total } = await endpointStats(bench.em(), { tenant: 'default', id, days: 7 }, NOW);
  expect(total).toMatchObject({ attempts: 190, success_rate: 1 });
});
