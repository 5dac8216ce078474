import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { createLogger } from '../../src/services/logger.ts';
import { Breakers } from '../../src/webhooks/breakers.ts';
import { getDelivery } from '../../src/webhooks/deliveries.ts';
import { sendTestEvent } from '../../src/webhooks/test-event.ts';
import { Throttles } from '../../src/webhooks/throttle.ts';
import { eventually } from '../harness.ts';
import { type Engine, engineOfFile, joinEngine } from './engine.ts';

/** What leaves an endpoint alone, in all processes, and what passes it. */
const { started, subscriber, query } = engineOfFile();
let engine: Engine;
beforeAll(() => {
  engine = started();
});

const deliveryOf = (eventId: string) =>
  eventually(async () => (await engine.deliveries()).find((d) => d.event_id === eventId), 'the delivery');
const test = (id: string) =>
  engine.messaging.transact({ requestId: 't', correlationId: 't', actor: SYSTEM }, (unit) =>
    sendTestEvent(unit, { tenant: 'default', id, type: 'user.created' }),
  );

/** A process's view of breakers and pauses, as it is at its start. */
async function look(): Promise<{ breakers: Breakers; throttles: Throttles }> {
  const throttles = new Throttles();
  const breakers = new Breakers(engine.database, createLogger({ level: 'fatal' }), {
    onPaused: (pauses) => throttles.learn(pauses),
  });
  await breakers.refresh();
  return { breakers, throttles };
}

describe('a pause that an endpoint asked for', () => {
  it('is kept by every process', async () => {
    const target = await subscriber(() => ({ status: 429, headers: { 'retry-after': '120' } }));
    const endpoint = await engine.subscribe(target.url, { event_types: ['payment.*'] });
    const second = await joinEngine(engine);
    try {
      const first = await engine.publish();
      await eventually(async () => (await deliveryOf(first)).attempts === 1, 'the first attempt');
      await eventually(async () => (await look()).throttles.hold(endpoint.id, 1), 'another process sees it');
      // Older than the view of any process.
      await new Promise((resolve) => setTimeout(resolve, 250));
      // One chunk each, so that both processes get some.
      for (let n = 0; n < 12; n += 1) {
        const delivery = await deliveryOf(await engine.publish());
        expect(delivery).toMatchObject({
          attempts: 0,
          reason: expect.stringMatching(/^endpoint throttled until \d{4}-.*Z$/),
        });
      }
      expect(target.received).toHaveLength(1);
    } finally {
      await second.stop();
    }
  }, 60_000);

  it('is written once for the answers of one moment, doubles over processes, and survives a restart', async () => {
    const { id } = await engine.subscribe('http://127.0.0.1:1/');
    const revision = async () =>
      (await query(sql<{ revision: string }>`select revision from revisions where name = 'breakers'`))[0]?.revision;
    const one = await look();
    const now = Date.now();
    const answers = [0, 1, 2].map((n) => one.throttles.throttled(id, now - 50, null, now + n));
    expect(answers.map((pause) => pause !== undefined)).toEqual([true, false, false]);
    const record = async (pauses: (typeof answers)[number][]) =>
      engine.database.em.fork().transactional((em) =>
        one.breakers.count(
          em,
          pauses.map((pause) => ({ endpointId: id, failed: true, probe: false, pause })),
        ),
      );
    await record(answers);
    const written = await revision();
    await record([undefined, undefined]);
    expect(await revision()).toBe(written);
    const other = await look();
    expect(other.throttles.hold(id, 1, now)?.until).toBe(now + 2000);
    // The trial of the other process fails.
    expect(other.throttles.throttled(id, now + 2000, null, now + 2000)).toEqual({ until: now + 6000, backoffMs: 4000 });
    // What is over is not learnt.
    await query(sql`update webhook_breakers set paused_until = now() - interval '1 second' where endpoint_id = ${id}`);
    expect((await look()).throttles.hold(id, 1, now)).toBeUndefined();
  });
});

describe('a test event', () => {
  const attempted = (deliveryId: string) =>
    eventually(async () => {
      const delivery = await getDelivery(engine.database.em.fork(), 'default', deliveryId);
      return delivery.attempt_count > 0 && delivery.attempts.length > 0 ? delivery : undefined;
    }, 'the attempt is there');

  it('is sent past an open breaker, and closes it when it is taken', async () => {
    let broken = true;
    const target = await subscriber(() => ({ status: broken ? 500 : 200 }));
    const endpoint = await engine.subscribe(target.url, { event_types: ['payment.*'] });
    await query(
      sql`insert into webhook_breakers (endpoint_id, state, open_until, backoff_ms) values (${endpoint.id}, 'open', now() + interval '1 hour', 60000)`,
    );
    await query(sql`update revisions set revision = revision + 1 where name = 'breakers'`);
    const failed = await test(endpoint.id);
    expect(await attempted(failed.delivery_id)).toMatchObject({
      attempts: [{ number: 1, cause: 'test', status_code: 500 }],
    });
    const state = async () =>
      (await query(sql<{ state: string }>`select state from webhook_breakers where endpoint_id = ${endpoint.id}`))[0]
        ?.state;
    expect(await state()).toBe('open');
    broken = false;
    const taken = await test(endpoint.id);
    expect(await attempted(taken.delivery_id)).toMatchObject({
      status: 'delivered',
      attempts: [{ cause: 'test', status_code: 200 }],
    });
    await eventually(async () => (await state()) === 'closed', 'the breaker closes');
  });

  it('is sent to an endpoint that asked for a pause', async () => {
    const target = await subscriber((_, nth) =>
      nth === 1 ? { status: 429, headers: { 'retry-after': '120' } } : { status: 204 },
    );
    const endpoint = await engine.subscribe(target.url, { event_types: ['payment.*'] });
    const first = await engine.publish();
    await eventually(async () => (await deliveryOf(first)).attempts === 1, 'the pause');
    const { delivery_id } = await test(endpoint.id);
    expect(await attempted(delivery_id)).toMatchObject({ status: 'delivered' });
    // The pause goes on for the rest.
    const later = await engine.publish();
    expect((await deliveryOf(later)).reason).toMatch(/^endpoint throttled until/);
  });

  it('is sent beside the rate of its endpoint', async () => {
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url, { event_types: ['payment.*'], rate_limit: 1 });
    await Promise.all(Array.from({ length: 60 }, () => engine.publish()));
    await eventually(
      async () =>
        (await engine.deliveries()).filter((d) => d.endpoint_id === endpoint.id && d.reason === 'rate limited').length >
        30,
      'most wait for the rate',
      30_000,
    );
    const { delivery_id } = await test(endpoint.id);
    expect(await attempted(delivery_id)).toMatchObject({ status: 'delivered' });
    expect(target.received.length).toBeLessThan(45);
  }, 60_000);
});
