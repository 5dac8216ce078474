import { type RawBuilder, sql } from 'kysely';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { eventually } from '../harness.ts';
import { type Engine, type Received, type Subscriber, startEngine, startSubscriber } from './engine.ts';

let engine: Engine;
const subscribers: Subscriber[] = [];
beforeAll(async () => {
  engine = await startEngine({ WEBHOOK_RETRY_SCHEDULE: '100ms' });
});
afterEach(async () => {
  for (const subscriber of subscribers.splice(0)) await subscriber.close();
  await query(sql`update webhook_endpoints set deleted_at = now(), version = version + 1`);
  await query(sql`update revisions set revision = revision + 1 where name = 'endpoints'`);
});
afterAll(() => engine.close());

async function query<T>(text: RawBuilder<T>): Promise<T[]> {
  return (await text.execute(engine.database.em.fork().getKysely())).rows;
}
/** Fails what is sent to `/bad`, and takes the rest. */
async function subscriber(): Promise<Subscriber> {
  const one = await startSubscriber((request) => ({ status: request.path === '/bad' ? 500 : 200 }));
  subscribers.push(one);
  return one;
}
const told = (target: Subscriber): string[] =>
  target.received
    .filter((request: Received) => request.path === '/ops')
    .map(({ body }) => JSON.parse(body).data.event_id);
/** Those events as they were kept. */
const events = () =>
  query(sql<{ subject: string; sequence: number; correlation_id: string; payload: string }>`
    select subject, sequence, correlation_id, payload from events where type = 'webhook.delivery.exhausted'`);
const statusOf = async (eventId: string) =>
  (
    await query(
      sql<{
        status: string;
      }>`select status from webhook_deliveries where event_id = ${eventId} and event_type = 'payment.succeeded'`,
    )
  )[0]?.status;

it('a delivery fails and is told of in one transaction, or neither', async () => {
  await query(sql`
    create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not told'; end $$`);
  await query(sql`
    create trigger refuse before insert on outbox for each row
    when (new.routing_key = 'webhook.delivery.exhausted') execute function refuse()`);
  const target = await subscriber();
  const failing = await engine.subscribe(`${target.url}/bad`, { event_types: ['payment.*'], timeout_ms: 1000 });
  await engine.subscribe(`${target.url}/ops`, { event_types: ['webhook.delivery.exhausted'] });
  const id = await engine.publish();
  const refused = () => engine.logged.filter((line) => line.includes('a delivery cannot be recorded')).length;
  await eventually(() => refused() > 0, 'its end is refused', 30_000);
  expect(await statusOf(id)).toBe('pending');
  await query(sql`drop trigger refuse on outbox`);
  // Its lease, the timeout and ten seconds, runs out first.
  await eventually(async () => (await statusOf(id)) === 'failed', 'it failed', 60_000);
  await eventually(() => told(target).length > 0, 'subscribers are told', 30_000);
  expect(told(target)).toEqual([id]);
  const [kept, ...more] = await events();
  expect(more).toEqual([]);
  // An attempt whose result could not be recorded is made again, and counts once.
  expect(JSON.parse(kept?.payload ?? '').data).toMatchObject({ endpoint_id: failing.id, attempts: 2 });
}, 120_000);

it('carries the operation of its event, and the endpoint’s next sequence each time', async () => {
  const target = await subscriber();
  const [one, two] = await Promise.all(
    ['one', 'two'].map((name) =>
      engine.subscribe(`${target.url}/bad`, { event_types: ['payment.*'], metadata: { name }, timeout_ms: 5000 }),
    ),
  );
  await engine.subscribe(`${target.url}/ops`, { event_types: ['webhook.delivery.exhausted'] });
  const EACH = 5;
  const ids = await Promise.all(Array.from({ length: EACH }, () => engine.publish()));
  await eventually(() => told(target).length >= 2 * EACH, 'all are told of', 60_000);
  const kept = await events();
  for (const endpoint of [one, two]) {
    const own = kept.filter(({ subject }) => subject === endpoint?.id);
    expect(own.map(({ correlation_id }) => correlation_id).toSorted()).toEqual(ids.toSorted());
    const sequences = own.map(({ sequence }) => sequence).toSorted((a, b) => a - b);
    expect(sequences).toEqual(Array.from({ length: EACH }, (_, i) => i + 2));
  }
}, 90_000);
