import { sql } from 'kysely';
import { Webhook } from 'standardwebhooks';
import { Webhook as SvixWebhook } from 'svix';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import { deleteEndpoint, updateEndpoint } from '../../src/webhooks/endpoints.ts';
import { eventually } from '../harness.ts';
import { type Answer, type Engine, type Received, type Subscriber, startEngine, startSubscriber } from './engine.ts';

let engine: Engine;
const subscribers: Subscriber[] = [];
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
  const db = engine.database.em.fork().getKysely();
  await sql`update webhook_endpoints set deleted_at = now()`.execute(db);
  await sql`update revisions set revision = revision + 1 where name = 'endpoints'`.execute(db);
  for (const one of subscribers.splice(0)) await one.close();
});

const headersOf = (request: Received) => ({
  'webhook-id': String(request.headers['webhook-id']),
  'webhook-timestamp': String(request.headers['webhook-timestamp']),
  'webhook-signature': String(request.headers['webhook-signature']),
});
const deliveriesOf = async (eventId: string) => (await engine.deliveries()).filter((d) => d.event_id === eventId);
const settled = (eventId: string, status: string, n = 1) =>
  eventually(async () => {
    const found = await deliveriesOf(eventId);
    return found.length === n && found.every((d) => d.status === status) ? found : undefined;
  }, `${n} deliveries of ${eventId} are ${status}`);

describe('the webhook engine', () => {
  it('delivers a signed event that independent libraries verify', async () => {
    const target = await subscriber();
    const { secret } = await engine.subscribe(target.url, { hex_signature: true, headers: { 'x-shop': 'one' } });
    const id = await engine.publish({ note: 'naïve ☃' });
    const [delivery] = await settled(id, 'delivered');
    const [request] = target.received;
    if (!request || !secret) throw new Error('nothing arrived');
    const body = new Webhook(secret).verify(request.body, headersOf(request)) as { type: string; data: unknown };
    expect(body).toMatchObject({ type: 'payment.succeeded', data: { payment_id: 'p1', note: 'naïve ☃' } });
    new SvixWebhook(secret).verify(request.body, headersOf(request)); // throws when it does not fit
    expect(() => new Webhook(secret).verify(`${request.body} `, headersOf(request))).toThrow();
    expect(request.headers).toMatchObject({ 'webhook-id': id, 'x-shop': 'one', 'content-type': 'application/json' });
    expect(request.headers['x-webhook-signature']).toMatch(/^[0-9a-f]{64}$/);
    expect(delivery).toMatchObject({ attempts: 1, numbers: [1], reason: null });
  });

  it('tries again under the same id, with a new timestamp and every attempt recorded', async () => {
    const target = await subscriber((_, nth) => ({ status: nth === 1 ? 500 : 200 }));
    await engine.subscribe(target.url);
    const id = await engine.publish();
    const [delivery] = await settled(id, 'delivered');
    expect(target.received.map((r) => r.headers['webhook-id'])).toEqual([id, id]);
    expect(target.received[0]?.body).toBe(target.received[1]?.body);
    expect(delivery).toMatchObject({ attempts: 2, numbers: [1, 2] });
  });

  it('gives up at the end of the schedule, says why, and tells subscribers', async () => {
    const target = await subscriber((request) => ({ status: request.path === '/bad' ? 500 : 200 }));
    const failing = await engine.subscribe(`${target.url}/bad`, { event_types: ['payment.*'] });
    await engine.subscribe(`${target.url}/ops`, { event_types: ['webhook.delivery.exhausted'] });
    const id = await engine.publish();
    const [delivery] = await settled(id, 'failed');
    expect(delivery).toMatchObject({ attempts: 3, numbers: [1, 2, 3], reason: 'gave up after 3 attempts: status 500' });
    const told = await eventually(() => target.received.find((r) => r.path === '/ops'), 'the announcement');
    expect(JSON.parse(told.body)).toMatchObject({
      type: 'webhook.delivery.exhausted',
      data: { event_id: id, endpoint_id: failing.id, attempts: 3, last_status_code: 500 },
    });
  });

  it('disables an endpoint that answers 410 and holds what comes later, until it is enabled again', async () => {
    let gone = true;
    const target = await subscriber(() => ({ status: gone ? 410 : 200 }));
    const endpoint = await engine.subscribe(target.url, {
      event_types: ['payment.*'],
      metadata: { owner_email: 'owner@example.com' },
    });
    const ops = await subscriber();
    await engine.subscribe(ops.url, { event_types: ['webhook.endpoint.disabled'] });
    const first = await engine.publish();
    await settled(first, 'failed');
    const db = engine.database.em.fork().getKysely();
    await eventually(
      async () =>
        (await sql<{ status: string }>`select status from webhook_endpoints where id = ${endpoint.id}`.execute(db))
          .rows[0]?.status === 'disabled',
      'it is disabled',
    );
    expect((await sql`select recipient, template, subject from emails`.execute(db)).rows).toEqual([
      { recipient: 'owner@example.com', template: 'endpoint-disabled', subject: 'A webhook endpoint was disabled' },
    ]);
    const told = await eventually(() => ops.received[0], 'the event');
    expect(JSON.parse(told.body)).toMatchObject({
      type: 'webhook.endpoint.disabled',
      data: { endpoint_id: endpoint.id, reason: 'it answered 410 Gone' },
    });
    const later = await engine.publish();
    expect(await settled(later, 'held')).toMatchObject([{ reason: 'endpoint disabled', attempts: 0 }]);
    gone = false;
    await engine.messaging.transact({ requestId: 't', correlationId: 't', actor: SYSTEM }, (unit) =>
      updateEndpoint(
        unit,
        { tenant: 'default', id: endpoint.id, change: { status: 'enabled' } },
        { keyring: engine.keyring, allow: parseAllowNetworks('127.0.0.0/8') },
      ),
    );
    await settled(later, 'delivered');
  });

  it('treats the same id as the same event', async () => {
    const target = await subscriber();
    await engine.subscribe(target.url);
    const id = newId();
    await Promise.all([engine.publish({ n: 1 }, id), engine.publish({ n: 2 }, id), engine.publish({ n: 3 }, id)]);
    await settled(id, 'delivered');
    const marker = await engine.publish();
    await settled(marker, 'delivered');
    expect(target.received.filter((r) => r.headers['webhook-id'] === id)).toHaveLength(1);
  });

  it('fans out again what was handed out before, without sending twice what is recorded', async () => {
    const target = await subscriber();
    await engine.subscribe(target.url);
    const id = await engine.publish();
    await settled(id, 'delivered');
    const { messaging } = engine;
    const body = JSON.stringify({
      specversion: '1.0',
      id,
      source: 'test',
      type: 'payment.succeeded',
      time: new Date().toISOString(),
      data: { changed: true },
      tenant: 'default',
    });
    // As the retry ladder brings a message back.
    await messaging.publisher.publish({
      exchange: messaging.topology.back,
      routingKey: messaging.topology.queue('fanout'),
      body: Buffer.from(body),
      messageId: id,
      type: 'payment.succeeded',
      headers: { 'x-waybill-attempt': 1 },
    });
    const marker = await engine.publish();
    await settled(marker, 'delivered');
    await engine.subscribe(`${target.url}/new`);
    expect(target.received.filter((r) => r.headers['webhook-id'] === id)).toHaveLength(1);
  });

  it('sends no more than four at once to one endpoint, and loses nothing of the overflow', async () => {
    const slow = await subscriber(() => ({ status: 200, delayMs: 150 }));
    const quick = await subscriber();
    await engine.subscribe(slow.url);
    await engine.subscribe(quick.url);
    const ids = await Promise.all(Array.from({ length: 60 }, () => engine.publish()));
    await eventually(
      () => ids.every((id) => quick.received.some((r) => r.headers['webhook-id'] === id)),
      'the quick one has all',
    );
    expect(slow.received.length).toBeLessThan(60);
    await eventually(
      () => ids.every((id) => slow.received.some((r) => r.headers['webhook-id'] === id)),
      'the slow one has all',
      25_000,
    );
    expect(slow.open.most).toBeLessThanOrEqual(4);
    expect(slow.received).toHaveLength(60);
  });

  it('writes a failed delivery, not a request, for an address that is forbidden when dialled', async () => {
    const db = engine.database.em.fork().getKysely();
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url);
    await sql`update webhook_endpoints set url = 'http://169.254.169.254/latest' where id = ${endpoint.id}`.execute(db);
    await sql`update revisions set revision = revision + 1 where name = 'endpoints'`.execute(db);
    const id = await engine.publish();
    const [delivery] = await eventually(async () => {
      const found = await deliveriesOf(id);
      return found[0]?.attempts ? found : undefined;
    }, 'the first attempt');
    expect(delivery?.reason).toBe('forbidden_address');
  });

  it('ends the deliveries of a deleted endpoint', async () => {
    const target = await subscriber(() => ({ status: 503, headers: { 'retry-after': '3600' } }));
    const endpoint = await engine.subscribe(target.url);
    const id = await engine.publish();
    await settled(id, 'pending');
    await engine.messaging.transact({ requestId: 't', correlationId: 't', actor: SYSTEM }, (unit) =>
      deleteEndpoint(unit, { tenant: 'default', id: endpoint.id }),
    );
    expect(await settled(id, 'failed')).toMatchObject([{ reason: 'endpoint deleted' }]);
  });

  it.each([
    ['whose id cannot be signed', { id: 'a.b' }, /^not an event: id/],
    ['of an unknown type', { id: 'unknown-type', type: 'nobody.knows' }, /^there is no event type "nobody.knows"/],
    [
      'that breaks the contract of its type',
      { id: 'no-contract', type: 'user.created', data: 'text' },
      /^not a user.created/,
    ],
  ])('buries an event %s, and handles its neighbours', async (_, wrong, reason) => {
    const { messaging } = engine;
    const target = await subscriber();
    await engine.subscribe(target.url);
    const envelope = {
      specversion: '1.0',
      source: 'x',
      type: 'payment.succeeded',
      time: new Date().toISOString(),
      data: {},
      ...wrong,
    };
    await messaging.publisher.publish({
      exchange: messaging.topology.events,
      routingKey: envelope.type,
      body: Buffer.from(JSON.stringify(envelope)),
      messageId: envelope.id,
      type: envelope.type,
    });
    await settled(await engine.publish(), 'delivered');
    const db = engine.database.em.fork().getKysely();
    const row = await eventually(
      async () =>
        (await sql<{ reason: string }>`select reason from dead_letters where message_id = ${envelope.id}`.execute(db))
          .rows[0],
      'the dead letter',
    );
    expect(row.reason).toMatch(reason);
    expect(target.received).toHaveLength(1);
  });
});
