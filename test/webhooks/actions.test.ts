import { sql } from 'kysely';
import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { type RequestContext, SYSTEM } from '../../src/domain/messages/envelope.ts';
import { getDelivery } from '../../src/webhooks/deliveries.ts';
import { recoverEndpoint } from '../../src/webhooks/recover.ts';
import { matchRetries, retryDeliveries, retryDelivery } from '../../src/webhooks/resend.ts';
import { endpointStats } from '../../src/webhooks/stats.ts';
import { sendTestEvent } from '../../src/webhooks/test-event.ts';
import { eventually } from '../harness.ts';
import { type Answer, type Engine, type Received, type Subscriber, startEngine, startSubscriber } from './engine.ts';

/** What is done by hand, through the running engine to a subscriber. */
let engine: Engine;
const subscribers: Subscriber[] = [];
const context: RequestContext = { requestId: 'by-hand', correlationId: 'by-hand', actor: SYSTEM };
const tenant = 'default';

const subscriber = async (answer?: (request: Received, nth: number) => Answer) => {
  const one = await startSubscriber(answer);
  subscribers.push(one);
  return one;
};

beforeAll(async () => {
  engine = await startEngine();
});
afterAll(() => engine.close());
afterEach(async () => {
  await run(sql`update webhook_endpoints set deleted_at = now()`);
  await run(sql`update revisions set revision = revision + 1 where name = 'endpoints'`);
  for (const one of subscribers.splice(0)) await one.close();
});

const run = (query: ReturnType<typeof sql>) => query.execute(engine.database.em.fork().getKysely());
const retry = (id: string) => engine.messaging.transact(context, (unit) => retryDelivery(unit, { tenant, id }));

/** The delivery of an event to one endpoint, once it is as it should be. */
const settled = (eventId: string, status: string, attempts: number) =>
  eventually(async () => {
    const found = (await engine.deliveries()).find((d) => d.event_id === eventId);
    return found?.status === status && found.attempts === attempts ? found : undefined;
  }, `the delivery of ${eventId} is ${status} after ${attempts} attempts`);

const causes = async (id: string) =>
  (await getDelivery(engine.database.em.fork(), tenant, id)).attempts.map(({ number, cause }) => [number, cause]);

it('what was delivered is sent again on purpose: the same id and bytes, signed anew, another attempt', async () => {
  const target = await subscriber();
  const { secret } = await engine.subscribe(target.url);
  const eventId = await engine.publish();
  const { id } = await settled(eventId, 'delivered', 1);
  await retry(id);
  await settled(eventId, 'delivered', 2);
  expect(target.received.map((r) => [r.headers['webhook-id'], r.body])).toEqual([
    [eventId, target.received[0]?.body],
    [eventId, target.received[0]?.body],
  ]);
  const again = target.received[1];
  if (!again || !secret) throw new Error('nothing arrived');
  new Webhook(secret).verify(again.body, again.headers as Record<string, string>); // throws when it does not fit
  expect(await causes(id)).toEqual([
    [1, 'schedule'],
    [2, 'manual'],
  ]);
});

it('what had used up its schedule begins a new one, and its numbers go on', async () => {
  const target = await subscriber((_, nth) => ({ status: nth < 9 ? 500 : 200 }));
  await engine.subscribe(target.url, { event_types: ['payment.*'] });
  const eventId = await engine.publish();
  const { id } = await settled(eventId, 'failed', 3);
  await retry(id);
  await settled(eventId, 'failed', 6);
  await retry(id);
  await settled(eventId, 'delivered', 9);
  expect((await causes(id)).slice(2)).toEqual([
    [3, 'schedule'],
    [4, 'manual'],
    [5, 'schedule'],
    [6, 'schedule'],
    [7, 'manual'],
    [8, 'schedule'],
    [9, 'schedule'],
  ]);
});

it('what is sent again by filter, or recovered, begins a new schedule too', async () => {
  const since = new Date().toISOString();
  const target = await subscriber(() => ({ status: 500 }));
  const endpoint = await engine.subscribe(target.url, { event_types: ['payment.*'] });
  const eventId = await engine.publish();
  const { id } = await settled(eventId, 'failed', 3);
  const { found } = await matchRetries(engine.database.em.fork(), tenant, { endpoint_id: endpoint.id }, 10);
  expect(await retryDeliveries(engine.messaging.transact, context, found)).toBe(1);
  await settled(eventId, 'failed', 6);
  const { recovered } = await recoverEndpoint(engine.messaging.transact, context, { tenant, id: endpoint.id, since });
  expect(recovered).toBe(1);
  await settled(eventId, 'failed', 9);
  expect((await causes(id)).map(([, cause]) => cause)).toEqual([
    ...['schedule', 'schedule', 'schedule'],
    ...['manual', 'schedule', 'schedule'],
    ...['recover', 'schedule', 'schedule'],
  ]);
});

it('a retry by hand passes an open breaker, which holds what comes by itself', async () => {
  const target = await subscriber();
  const endpoint = await engine.subscribe(target.url);
  const first = await engine.publish();
  const { id } = await settled(first, 'delivered', 1);
  await run(sql`
    insert into webhook_breakers (endpoint_id, state, open_until, backoff_ms) values (${endpoint.id}, 'open', now() + interval '1 hour', 60000)`);
  await run(sql`update revisions set revision = revision + 1 where name = 'breakers'`);
  // The engine's view of the breakers may be this old.
  const held = await eventually(async () => {
    const eventId = await engine.publish();
    return eventually(async () => {
      const found = (await engine.deliveries()).find((d) => d.event_id === eventId);
      if (found?.status === 'delivered') return { stopped: false, eventId };
      return found?.reason?.startsWith('breaker open until') ? { stopped: true, eventId } : undefined;
    }, 'it is delivered or held').then((seen) => (seen.stopped ? seen : undefined));
  }, 'the breaker holds');
  await retry(id);
  await settled(first, 'delivered', 2);
  expect((await causes(id)).at(-1)).toEqual([2, 'manual']);
  const before = target.received.findIndex((r) => r.headers['webhook-id'] === held.eventId);
  const resent = target.received.findLastIndex((r) => r.headers['webhook-id'] === first);
  expect(before === -1 || before > resent).toBe(true);
});

it('many are sent again by filter', async () => {
  let broken = true;
  const target = await subscriber(() => ({ status: broken ? 500 : 200 }));
  // Not what tells of exhausted deliveries.
  const endpoint = await engine.subscribe(target.url, { event_types: ['payment.*'] });
  const events: string[] = [];
  for (let n = 0; n < 5; n += 1) events.push(await engine.publish());
  for (const one of events) await settled(one, 'failed', 3);
  broken = false;
  const em = engine.database.em.fork();
  const { found, matched } = await matchRetries(em, tenant, { endpoint_id: endpoint.id, status: 'failed' }, 100);
  expect(matched).toBe(5);
  expect(await retryDeliveries(engine.messaging.transact, context, found)).toBe(5);
  for (const one of events) await settled(one, 'delivered', 4);
  const { total } = await endpointStats(em, { tenant, id: endpoint.id, days: 2 });
  expect(total).toMatchObject({ attempts: 20, delivered: 5, failed: 15, success_rate: 0.25 });
});

it('an endpoint gets what it missed: what failed, and what was there before it', async () => {
  const since = new Date(Date.now() - 60_000).toISOString();
  let broken = true;
  const target = await subscriber(() => ({ status: broken ? 500 : 200 }));
  const other = await subscriber();
  await engine.subscribe(other.url);
  const missed: string[] = [];
  for (let n = 0; n < 3; n += 1) {
    missed.push(await engine.publish());
    await settled(missed[n] ?? '', 'delivered', 1);
  }
  await run(sql`update webhook_endpoints set deleted_at = now()`);
  await run(sql`update revisions set revision = revision + 1 where name = 'endpoints'`);
  const { id } = await engine.subscribe(target.url, { event_types: ['payment.*'] });
  const failed = await engine.publish();
  await settled(failed, 'failed', 3);
  broken = false;
  target.received.length = 0;
  const { recovered } = await recoverEndpoint(engine.messaging.transact, context, { tenant, id, since });
  // Events of the tests before this one were never sent to it either.
  const wanted = [...missed, failed];
  await eventually(
    () => wanted.every((one) => target.received.some((r) => r.headers['webhook-id'] === one)),
    'all of it arrives',
  );
  expect(recovered).toBeGreaterThanOrEqual(wanted.length);
  const rows = (await engine.deliveries()).filter((d) => d.endpoint_id === id && wanted.includes(d.event_id));
  expect(rows).toHaveLength(4);
  for (const { id: one } of rows) {
    await eventually(
      async () => (await getDelivery(engine.database.em.fork(), tenant, one)).status === 'delivered',
      'it is recorded',
    );
    expect((await causes(one)).at(-1)?.[1]).toBe('recover');
  }
});

it('a test event arrives at its endpoint alone, signed, whatever the endpoint asks for', async () => {
  const target = await subscriber();
  const endpoint = await engine.subscribe(`${target.url}/tested`, { event_types: ['kyc.*'] });
  await engine.subscribe(`${target.url}/all`);
  const made = await engine.messaging.transact(context, (unit) =>
    sendTestEvent(unit, { tenant, id: endpoint.id, type: 'user.created' }),
  );
  await settled(made.event_id, 'delivered', 1);
  const [request, ...others] = target.received;
  if (!request || !endpoint.secret) throw new Error('nothing arrived');
  expect([request.path, others]).toEqual(['/tested', []]);
  expect(request.headers['webhook-id']).toBe(made.event_id);
  expect(new Webhook(endpoint.secret).verify(request.body, request.headers as Record<string, string>)).toMatchObject({
    type: 'user.created',
    data: { email: 'ada@example.com' },
  });
  expect(await causes(made.delivery_id)).toEqual([[1, 'test']]);
});
