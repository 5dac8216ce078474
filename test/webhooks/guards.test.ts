import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import { updateEndpoint } from '../../src/webhooks/endpoints.ts';
import { fanOut } from '../../src/webhooks/fanout.ts';
import { settleStranded } from '../../src/webhooks/standstill.ts';
import { eventually } from '../harness.ts';
import { type Engine, engineOfFile } from './engine.ts';

const { started, subscriber, query, reload } = engineOfFile({
  env: { WEBHOOK_RETRY_SCHEDULE: '1s,1s,1s,1s' },
  failOpen: true,
});
let engine: Engine;
beforeAll(() => {
  engine = started();
});

const deliveryOf = async (eventId: string) => (await engine.deliveries()).find((d) => d.event_id === eventId);
const until = (
  eventId: string,
  check: (d: { status: string; reason: string | null; attempts: number }) => boolean,
  what: string,
  ms?: number,
) =>
  eventually(
    async () => {
      const found = await deliveryOf(eventId);
      return found && check(found) ? found : undefined;
    },
    `${eventId}: ${what}`,
    ms,
  );
const publishMany = (n: number) => Promise.all(Array.from({ length: n }, () => engine.publish()));
const change = (id: string, status: 'enabled' | 'disabled') =>
  engine.messaging.transact({ requestId: 't', correlationId: 't', actor: SYSTEM }, (unit) =>
    updateEndpoint(
      unit,
      { tenant: 'default', id, change: { status } },
      { keyring: engine.keyring, allow: parseAllowNetworks('127.0.0.0/8') },
    ),
  );

describe('an endpoint without a usable secret', () => {
  it('gets nothing, and its deliveries go by the schedule', async () => {
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url);
    await query(sql`update webhook_secrets set sealed = '\\x00' where endpoint_id = ${endpoint.id}`);
    await reload();
    const id = await engine.publish();
    await until(id, (d) => d.status === 'pending' && d.attempts === 1 && d.reason === 'no usable secret', 'it waits');
    await until(id, (d) => d.status === 'failed', 'the schedule ends');
    expect(target.received).toEqual([]);
    expect(await query(sql`select * from webhook_breakers where endpoint_id = ${endpoint.id}`)).toEqual([]);
  });
});

describe('holding and enabling', () => {
  it('does not write a held row for an endpoint that was enabled after the directory was read', async () => {
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url, { status: 'disabled', event_types: ['payment.*'] });
    const held = await engine.publish();
    await until(held, (d) => d.status === 'held', 'it is held');
    // A directory that is late: enabled behind its back, without the revision.
    await query(sql`update webhook_endpoints set status = 'enabled' where id = ${endpoint.id}`);
    const id = await engine.publish();
    const found = await eventually(() => deliveryOf(id), 'the row');
    expect(found.status).not.toBe('held');
    await reload();
    await until(id, (d) => d.status === 'delivered', 'it is delivered');
    expect((await deliveryOf(held))?.status).toBe('held');
    // Others' may be among them: what was under way to an endpoint of the test before, which is deleted.
    expect(await settleStranded(engine.messaging.transact, engine.database.em.fork())).toBeGreaterThanOrEqual(1);
    await until(held, (d) => d.status === 'delivered', 'the stranded one is delivered');
    expect(await settleStranded(engine.messaging.transact, engine.database.em.fork())).toBe(0);
  });

  it('leaves no row held while enabling and fan-out run against each other', async () => {
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url);
    const ids: string[] = [];
    for (let round = 0; round < 10; round += 1) {
      const [, made] = await Promise.all([change(endpoint.id, round % 2 ? 'enabled' : 'disabled'), publishMany(10)]);
      ids.push(...made);
    }
    const all = async () => (await engine.deliveries()).filter((d) => ids.includes(d.event_id));
    await eventually(async () => (await all()).length === ids.length, 'all have a row');
    await eventually(async () => (await all()).every((d) => d.status === 'delivered'), 'all are delivered', 15_000);
  });
});

describe('a throttled endpoint', () => {
  it('is left alone as a whole until Retry-After, without using up attempts', async () => {
    let throttled = true;
    const target = await subscriber(() =>
      throttled ? { status: 429, headers: { 'retry-after': '3' } } : { status: 200 },
    );
    await engine.subscribe(target.url);
    const first = await engine.publish();
    await until(first, (d) => d.attempts === 1, 'the first attempt');
    const paused = Date.now();
    const later = await publishMany(6);
    for (const id of later)
      await until(
        id,
        (d) => d.attempts === 0 && /^endpoint throttled until \d{4}-.*Z$/.test(d.reason ?? ''),
        'it is parked',
      );
    expect(target.received).toHaveLength(1);
    throttled = false;
    for (const id of [first, ...later]) await until(id, (d) => d.status === 'delivered', 'it is delivered');
    expect((target.received[1]?.at ?? 0) - paused).toBeGreaterThan(2000);
    for (const id of later) expect((await deliveryOf(id))?.attempts).toBe(1);
  });
});

describe('the breaker', () => {
  it('opens at 20 failures, parks what comes, lets one probe through at its time, and closes on success', async () => {
    let broken = true;
    const target = await subscriber(() => ({ status: broken ? 500 : 200 }));
    const good = await subscriber();
    const endpoint = await engine.subscribe(target.url);
    await engine.subscribe(good.url);
    await publishMany(24);
    const [row] = await eventually(async () => {
      const rows = await query(
        sql<{
          open: string;
        }>`select open_until as open from webhook_breakers where endpoint_id = ${endpoint.id} and state = 'open'`,
      );
      return rows.length > 0 ? rows : undefined;
    }, 'it is open');
    const opened = Date.now();
    await eventually(() => target.open.now === 0, 'nothing is on its way');
    const attempts = target.received.length;
    const parked = await publishMany(5);
    const reasons = await eventually(async () => {
      const found = (await engine.deliveries()).filter(
        (d) => parked.includes(d.event_id) && d.endpoint_id === endpoint.id,
      );
      return found.length === 5 ? found : undefined;
    }, 'all are parked');
    for (const d of reasons)
      expect(d).toMatchObject({
        status: 'pending',
        attempts: 0,
        reason: expect.stringMatching(/^breaker open until 2/),
      });
    // The first probe fails, and the next one comes after twice the time.
    await eventually(() => target.received.length === attempts + 1, 'the first probe', 8000);
    const firstProbe = target.received.at(-1)?.at ?? 0;
    expect(firstProbe).toBeGreaterThanOrEqual(Date.parse(row?.open ?? ''));
    expect(firstProbe - opened).toBeLessThan(7500);
    broken = false;
    await eventually(() => target.received.length > attempts + 1, 'the second probe', 14_000);
    expect((target.received[attempts + 1]?.at ?? 0) - firstProbe).toBeGreaterThan(9500);
    for (const id of parked)
      await eventually(
        async () =>
          (await engine.deliveries()).find((d) => d.event_id === id && d.endpoint_id === endpoint.id)?.status ===
          'delivered',
        'they come back',
      );
    expect(await query(sql`select state from webhook_breakers where endpoint_id = ${endpoint.id}`)).toEqual([
      { state: 'closed' },
    ]);
    expect(good.received).toHaveLength(29);
    expect(await engine.metrics.getSingleMetricAsString('waybill_webhook_breaker_turns_total')).toMatch(
      /to="closed"\} 1/,
    );
  }, 40_000);

  it('lets a manual retry pass', async () => {
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url);
    await query(
      sql`insert into webhook_breakers (endpoint_id, state, open_until, backoff_ms) values (${endpoint.id}, 'open', now() + interval '1 hour', 60000)`,
    );
    await query(sql`update revisions set revision = revision + 1 where name = 'breakers'`);
    // The process may not know of it yet and send one or two.
    const parked = await eventually(async () => {
      const sent = await engine.publish();
      const found = await until(
        sent,
        (d) => d.status === 'delivered' || /^breaker open/.test(d.reason ?? ''),
        'it is parked, or was sent',
      );
      return found.status === 'delivered' ? undefined : found;
    }, 'one is parked');
    const id = parked.event_id;
    expect(target.received.map(({ headers }) => headers['webhook-id'])).not.toContain(id);
    await query(
      sql`update webhook_deliveries set cause = 'manual', next_attempt_at = now(), generation = generation + 1 where id = ${parked.id}`,
    );
    await engine.messaging.alarms.set([
      { queue: 'webhooks', id: parked.id, attempt: 0, generation: 99, at: Date.now() },
    ]);
    await until(id, (d) => d.status === 'delivered', 'it is delivered');
    expect(await query(sql`select cause from webhook_attempts where delivery_id = ${parked.id}`)).toEqual([
      { cause: 'manual' },
    ]);
    expect(await query(sql`select state from webhook_breakers where endpoint_id = ${endpoint.id}`)).toEqual([
      { state: 'closed' },
    ]);
  });
});

describe('the rate limit of an endpoint', () => {
  it('sends no more than it allows, loses nothing and uses up no attempt', async () => {
    const target = await subscriber();
    const other = await subscriber();
    await engine.subscribe(target.url, { rate_limit: 5 });
    await engine.subscribe(other.url);
    const ids = await publishMany(20);
    await eventually(() => other.received.length === 20, 'the other one has all');
    expect(target.received.length).toBeLessThan(20);
    const waiting = await eventually(async () => {
      const found = (await engine.deliveries()).filter((d) => ids.includes(d.event_id) && d.status === 'pending');
      return found.length > 0 ? found : undefined;
    }, 'some wait as rows');
    for (const d of waiting)
      expect(d).toMatchObject({ attempts: 0, reason: expect.stringMatching(/^(rate limited|endpoint busy)$/) });
    await eventually(() => target.received.length === 20, 'all arrive', 20_000);
    const times = target.received.map((r) => r.at).sort((a, b) => a - b);
    for (const [i, at] of times.entries()) {
      const within = times.slice(i).filter((t) => t < at + 900).length;
      expect(within).toBeLessThanOrEqual(10); // two windows touch
    }
    expect((times.at(-1) ?? 0) - (times[0] ?? 0)).toBeGreaterThan(2500);
    await eventually(
      async () =>
        (await engine.deliveries())
          .filter((d) => ids.includes(d.event_id))
          .every((d) => d.status === 'delivered' && d.attempts === 1),
      'one attempt each',
    );
  }, 30_000);

  it('holds in memory while Redis is away', async () => {
    const { EndpointRates } = await import('../../src/webhooks/rate.ts');
    const { Redis } = await import('ioredis');
    const away = new Redis({
      port: 1,
      lazyConnect: true,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      retryStrategy: () => null,
    });
    away.on('error', () => undefined);
    const rates = new EndpointRates(away, 'x');
    expect(await rates.take('e', 1)).toBeUndefined();
    expect(await rates.take('e', 1)).toMatchObject({ reason: 'rate limited' });
    expect(rates.queued('e', 1)?.until).toBeGreaterThan(Date.now() + 900);
    away.disconnect();
  });
});

describe('an endpoint that only fails', () => {
  it('is marked from its first failure to its next success', async () => {
    let broken = true;
    const target = await subscriber(() => ({ status: broken ? 500 : 200 }));
    const endpoint = await engine.subscribe(target.url);
    const failing = async () =>
      (
        await query(
          sql<{ f: string | null }>`select failing_since as f from webhook_endpoints where id = ${endpoint.id}`,
        )
      )[0]?.f;
    const id = await engine.publish();
    const marked = await eventually(failing, 'it is marked');
    await until(id, (d) => d.attempts >= 2, 'another failure');
    expect(await failing()).toEqual(marked);
    broken = false;
    await until(id, (d) => d.status === 'delivered', 'a success');
    await eventually(async () => (await failing()) === null, 'it is not marked any more');
  });

  it('is disabled after its time, with an event, an e-mail to its owner, and what waits held', async () => {
    const target = await subscriber((request) => ({ status: request.path === '/bad' ? 500 : 200 }));
    const endpoint = await engine.subscribe(`${target.url}/bad`, {
      event_types: ['payment.*'],
      metadata: { owner_email: 'owner@example.com' },
    });
    await engine.subscribe(`${target.url}/ops`, { event_types: ['webhook.endpoint.disabled'] });
    const since = () =>
      query(
        sql<{
          failing_since: string | null;
          status: string;
        }>`select failing_since, status from webhook_endpoints where id = ${endpoint.id}`,
      );
    await query(sql`update webhook_endpoints set failing_since = now() - interval '6 days' where id = ${endpoint.id}`);
    const id = await engine.publish();
    await until(id, (d) => d.status === 'held', 'it is held');
    expect((await query(sql`select disabled_reason from webhook_endpoints where id = ${endpoint.id}`))[0]).toEqual({
      disabled_reason: 'only failures for 5 days',
    });
    const told = await eventually(() => target.received.find((r) => r.path === '/ops'), 'the event');
    expect(JSON.parse(told.body)).toMatchObject({
      type: 'webhook.endpoint.disabled',
      data: { endpoint_id: endpoint.id, reason: 'only failures for 5 days' },
    });
    expect(await query(sql`select recipient, template from emails`)).toEqual([
      { recipient: 'owner@example.com', template: 'endpoint-disabled' },
    ]);
    await change(endpoint.id, 'enabled');
    expect((await since())[0]?.failing_since).toBeNull();
  }, 20_000);

  it('is not disabled when another process has seen a success', async () => {
    const target = await subscriber(() => ({ status: 500 }));
    const endpoint = await engine.subscribe(target.url);
    await query(sql`update webhook_endpoints set failing_since = now() - interval '6 days' where id = ${endpoint.id}`);
    await query(sql`insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, attempts, delivered_at)
      values (${newId()}, 'default', ${endpoint.id}, 'seen', 'x', 'delivered', 1, now() - interval '1 day')`);
    const id = await engine.publish();
    await until(id, (d) => d.attempts >= 1, 'an attempt');
    await eventually(
      async () =>
        (
          await query(
            sql<{
              f: string | null;
              s: string;
            }>`select failing_since as f, status as s from webhook_endpoints where id = ${endpoint.id}`,
          )
        )[0]?.f === null,
      'it is forgiven',
    );
    expect(
      (await query(sql<{ s: string }>`select status as s from webhook_endpoints where id = ${endpoint.id}`))[0]?.s,
    ).toBe('enabled');
  });
});

it('hands deliveries of a late directory on to chunks', async () => {
  const target = await subscriber();
  const endpoint = await engine.subscribe(target.url, { status: 'disabled' });
  const chunks: string[][] = [];
  const directory = {
    refresh: async () => undefined,
    matching: () => [{ id: endpoint.id, status: 'disabled', ordered: false }],
  };
  await query(sql`update webhook_endpoints set status = 'enabled' where id = ${endpoint.id}`);
  const id = newId();
  const envelope = {
    specversion: '1.0' as const,
    id,
    source: 't',
    type: 'payment.succeeded',
    time: new Date().toISOString(),
    data: {},
    tenant: 'default',
  };
  await fanOut([{ envelope, redelivered: false }], {
    database: engine.database,
    directory: directory as never,
    setAlarms: async () => undefined,
    publish: async (chunk) => {
      chunks.push(chunk.events.flatMap((event) => event.to.map(([, to]) => to)));
    },
  });
  expect(chunks).toEqual([[endpoint.id]]);
  expect(await deliveryOf(id)).toBeUndefined();
});

it('leaves no event without a delivery whose endpoint is disabled in the middle of its fan-out', async () => {
  const target = await subscriber();
  const { id: endpointId } = await engine.subscribe(target.url, { status: 'disabled' });
  const chunks: string[][] = [];
  let asked = 0;
  const directory = {
    refresh: async () => undefined,
    // As when another batch makes the directory current in between.
    matching: () => [{ id: endpointId, status: asked++ === 0 ? 'enabled' : 'disabled', ordered: false }],
  };
  const envelope = {
    specversion: '1.0' as const,
    id: newId(),
    source: 't',
    type: 'payment.succeeded',
    time: new Date().toISOString(),
    data: {},
    tenant: 'default',
  };
  await fanOut([{ envelope, redelivered: false }], {
    database: engine.database,
    directory: directory as never,
    setAlarms: async () => undefined,
    publish: async (chunk) => {
      chunks.push(chunk.events.flatMap((event) => event.to.map(([, to]) => to)));
    },
  });
  expect(chunks).toEqual([[endpointId]]);
});
