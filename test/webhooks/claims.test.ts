import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { createLogger } from '../../src/services/logger.ts';
import { Breakers } from '../../src/webhooks/breakers.ts';
import { type DeliveryRow, Recorder } from '../../src/webhooks/recorder.ts';
import { claimDue, type Due } from '../../src/webhooks/waiting.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
let id: string;
const log = createLogger({ level: 'fatal' });

beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());
beforeEach(async () => {
  const eventId = newId();
  await bench.query(
    sql`insert into events (id, tenant, type, source, payload, time) values (${eventId}, 'default', 'kyc.approved', 'test', '{}', now())`,
  );
  id = await bench.deliver(newId(), { event_id: eventId, next_attempt_at: new Date().toISOString() });
});

async function claim(): Promise<Due> {
  const due = await claimDue(bench.em(), id, 1000);
  if (!due || 'again' in due) throw new Error('it was not claimed');
  return due;
}
/** As a claim is when PostgreSQL was away for longer than its lease. */
async function lapse(due: Due): Promise<void> {
  const [row] = await bench.query(
    sql<{
      lease: string;
    }>`update webhook_deliveries set lease_until = now() - interval '1 ms' where id = ${id} returning lease_until::text as lease`,
  );
  due.lease = row?.lease ?? '';
}

/** Records what came of a claim, as its process does. */
async function record(due: Due, status: 'delivered' | 'pending', attemptId: string | null = newId()): Promise<void> {
  const recorder = new Recorder({
    transact: bench.transact,
    setAlarms: async () => undefined,
    breakers: new Breakers(bench.database, log),
    onTurned: () => undefined,
    log,
  });
  const number = due.attempts + 1;
  const now = new Date().toISOString();
  const delivery: DeliveryRow = {
    id,
    tenant: due.tenant,
    endpoint_id: due.endpointId,
    event_id: due.eventId,
    event_type: due.eventType,
    correlation_id: null,
    status,
    reason: status === 'pending' ? 'status 500' : null,
    attempts: attemptId ? number : due.attempts,
    generation: due.generation,
    next_attempt_at: status === 'pending' ? now : null,
    lease_until: null,
    delivered_at: status === 'delivered' ? now : null,
  };
  const attempt = attemptId && {
    id: attemptId,
    number,
    started_at: now,
    duration_ms: 1,
    status_code: status === 'delivered' ? 200 : 500,
    error: null,
    response_body: null,
    cause: due.cause,
  };
  await recorder.record({ kind: 'update', lease: due.lease, delivery, attempt: attempt || null });
}
const attempts = async () =>
  (
    await bench.query(
      sql<{
        number: number;
        status_code: number;
      }>`select number, status_code from webhook_attempts where delivery_id = ${id} order by number`,
    )
  ).map(({ number, status_code }) => [number, status_code]);

it('a late failure leaves the claim of another process alone, and both attempts are kept', async () => {
  const late = await claim();
  await lapse(late);
  const other = await claim();
  await record(late, 'pending');
  expect(await bench.delivery(id)).toMatchObject({ status: 'pending', reason: null });
  expect(await claimDue(bench.em(), id, 1000)).toHaveProperty('again');
  await record(other, 'delivered');
  expect(await bench.delivery(id)).toMatchObject({ status: 'delivered', attempts: 2, lease_until: null });
  expect(await attempts()).toEqual([
    [1, 500],
    [2, 200],
  ]);
});

it('nor does what puts it off, or the second writing of a commit whose answer was lost', async () => {
  const late = await claim();
  await lapse(late);
  const other = await claim();
  await record(late, 'pending', null);
  expect(await claimDue(bench.em(), id, 1000)).toHaveProperty('again');
  const attempt = newId();
  await record(other, 'pending', attempt);
  const next = await claim();
  await record(other, 'pending', attempt);
  expect(await claimDue(bench.em(), id, 1000)).toHaveProperty('again');
  expect(await bench.delivery(id)).toMatchObject({ status: 'pending', attempts: 1 });
  expect(await attempts()).toEqual([[1, 500]]);
  await record(next, 'delivered');
  expect(await bench.delivery(id)).toMatchObject({ status: 'delivered', attempts: 2 });
});

it('a late success counts, whoever has claimed it since', async () => {
  const late = await claim();
  await lapse(late);
  const other = await claim();
  await record(late, 'delivered');
  expect(await bench.delivery(id)).toMatchObject({ status: 'delivered', attempts: 1 });
  await record(other, 'pending');
  expect(await bench.delivery(id)).toMatchObject({ status: 'delivered', attempts: 2 });
  expect(await attempts()).toEqual([
    [1, 200],
    [2, 500],
  ]);
});

it('a late result of a claim that nobody else has taken counts', async () => {
  const due = await claim();
  await lapse(due);
  await record(due, 'pending');
  expect(await bench.delivery(id)).toMatchObject({ reason: 'status 500', attempts: 1, lease_until: null });
});
