import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { Reconciler } from '../../src/queues/reconcile.ts';
import { BUSY } from '../../src/webhooks/holds.ts';
import { createHarness, type Harness } from '../harness.ts';

let harness: Harness;
let redis: Redis;
let reconciler: Reconciler;
beforeAll(async () => {
  harness = await createHarness();
  const { database, config, messaging, log } = harness;
  redis = new Redis(config.redisUrl);
  reconciler = new Reconciler({ database, redis, alarms: messaging.alarms, namespace: config.namespace, log });
});
afterAll(async () => {
  redis?.disconnect();
  await harness?.close();
});

/** `n` deliveries that are so many seconds overdue, the first one the most; returns the first one's id. */
async function overdue(endpointId: string, n: number, seconds: number, reason: string): Promise<string> {
  const first = newId();
  await sql`
    insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, next_attempt_at)
    select case when n = 1 then ${first}::uuid else ('ffffffff-ffff-7fff-8fff-' || lpad(n::text, 12, '0'))::uuid end,
      'default', ${endpointId}, gen_random_uuid()::text, 'kyc.approved', 'pending', ${reason},
      now() - (${seconds}::int * interval '1 second') + n * interval '1 ms'
    from generate_series(1, ${n}::int) n`.execute(harness.database.em.fork().getKysely());
  return first;
}
const isSet = async (id: string) => (await redis.exists(`${harness.config.namespace}:webhooks:${id}-0-0`)) === 1;

test('a long line of parked deliveries hides no lost alarm, and gets one itself', async () => {
  const [busy, young, other] = [newId(), newId(), newId()];
  const head = await overdue(busy, 1500, 3600, BUSY);
  const alsoHead = await overdue(young, 1, 60, BUSY);
  const notYet = await overdue(newId(), 1, 1, BUSY);
  const lost = await overdue(other, 1, 60, 'status 500');
  expect(await reconciler.sweep()).toBe(3);
  expect(await Promise.all([head, alsoHead, lost, notYet].map(isSet))).toEqual([true, true, true, false]);
});

test('of a line the first one that nobody is at work on gets the alarm', async () => {
  const db = harness.database.em.fork().getKysely();
  await sql`delete from webhook_deliveries`.execute(db);
  const endpoint = newId();
  const [leased, next] = [await overdue(endpoint, 1, 600, BUSY), await overdue(endpoint, 1, 500, BUSY)];
  await sql`update webhook_deliveries set lease_until = now() + interval '1 minute' where id = ${leased}`.execute(db);
  expect(await reconciler.sweep()).toBe(1);
  expect(await Promise.all([leased, next].map(isSet))).toEqual([false, true]);
});

test('many endpoints have their lines swept, page by page', async () => {
  const db = harness.database.em.fork().getKysely();
  await sql`delete from webhook_deliveries`.execute(db);
  await sql`
    insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, next_attempt_at)
    select gen_random_uuid(), 'default', gen_random_uuid(), gen_random_uuid()::text, 'kyc.approved', 'pending', ${BUSY},
      now() - interval '1 minute' from generate_series(1, 2100)`.execute(db);
  expect(await reconciler.sweep()).toBe(2100);
});
