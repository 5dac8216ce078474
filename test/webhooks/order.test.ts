import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import { updateEndpoint } from '../../src/webhooks/endpoints.ts';
import { releaseWaiting } from '../../src/webhooks/order.ts';
import { eventually } from '../harness.ts';
import { cut, type Engine, engineOfFile, joinEngine, type Received } from './engine.ts';

const { started, subscriber, query } = engineOfFile({ env: { WEBHOOK_RETRY_SCHEDULE: '300ms,300ms' }, failOpen: true });
let engine: Engine;
beforeAll(() => {
  engine = started();
});

const keyOf = ({ body }: Received): string => JSON.parse(body).data.key;
const numberOf = ({ body }: Received): number => JSON.parse(body).data.n;
const publish = (key: string | undefined, n: number) => engine.publish({ key: key ?? 'none', n }, newId(), key);
const change = (id: string, status: 'enabled' | 'disabled') =>
  engine.messaging.transact({ requestId: 't', correlationId: 't', actor: SYSTEM }, (unit) =>
    updateEndpoint(
      unit,
      { tenant: 'default', id, change: { status } },
      { keyring: engine.keyring, allow: parseAllowNetworks('127.0.0.0/8') },
    ),
  );
const statusOf = async (id: string) => (await engine.deliveries()).find((d) => d.event_id === id)?.status;
const is = (id: string, status: string, ms?: number) =>
  eventually(async () => (await statusOf(id)) === status, `${id} is ${status}`, ms);

describe('an ordered endpoint', () => {
  it('gets the events of one key one at a time, in the order of acceptance, and other keys meanwhile', async () => {
    const open = new Map<string, number>();
    let most = 0;
    const target = await subscriber((request) => {
      const key = keyOf(request);
      const now = (open.get(key) ?? 0) + 1;
      open.set(key, now);
      most = Math.max(most, now);
      setTimeout(() => open.set(key, (open.get(key) ?? 1) - 1), 28);
      return { status: 200, delayMs: 30 };
    });
    await engine.subscribe(target.url, { ordered: true });
    for (let n = 0; n < 8; n += 1) for (const key of ['a', 'b', 'c']) await publish(key, n);
    await eventually(() => target.received.length === 24, 'all arrive', 15_000);
    for (const key of ['a', 'b', 'c'])
      expect(target.received.filter((r) => keyOf(r) === key).map(numberOf)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(most).toBe(1);
    expect(target.open.most).toBeGreaterThan(1);
  });

  it('retries before anything later of the key goes, and lets the next pass once one has failed for good', async () => {
    const target = await subscriber((request) => ({
      status: numberOf(request) === 0 && keyOf(request) === 'a' ? 500 : 200,
    }));
    await engine.subscribe(target.url, { ordered: true });
    const first = await publish('a', 0);
    const second = await publish('a', 1);
    const other = await publish('b', 0);
    const loose = await publish(undefined, 9);
    await is(other, 'delivered');
    await is(loose, 'delivered');
    await is(second, 'delivered');
    expect(await statusOf(first)).toBe('failed');
    expect(target.received.filter((r) => keyOf(r) === 'a').map(numberOf)).toEqual([0, 0, 0, 1]);
  });

  it('is held as a whole line while it is disabled, and goes on in order', async () => {
    const target = await subscriber();
    const endpoint = await engine.subscribe(target.url, { ordered: true });
    await change(endpoint.id, 'disabled');
    const ids: string[] = [];
    for (let n = 0; n < 5; n += 1) ids.push(await publish('a', n));
    for (const id of ids) await is(id, 'held');
    await change(endpoint.id, 'enabled');
    for (const id of ids) await is(id, 'delivered');
    expect(target.received.map(numberOf)).toEqual([0, 1, 2, 3, 4]);
  });

  it('sends one that was made due by hand only when nothing else of its line is on the way', async () => {
    const target = await subscriber((request) => ({ status: 200, delayMs: numberOf(request) === 1 ? 400 : 0 }));
    await engine.subscribe(target.url, { ordered: true });
    const first = await publish('a', 0);
    await is(first, 'delivered');
    await publish('a', 1);
    const third = await publish('a', 2);
    await eventually(() => target.open.now === 1, 'the second is on its way');
    const [row] = await query(
      sql<{
        id: string;
      }>`update webhook_deliveries set status = 'pending', next_attempt_at = now(), generation = 50 where event_id = ${first} returning id`,
    );
    await engine.messaging.alarms.set([
      { queue: 'webhooks', id: row?.id ?? '', attempt: 1, generation: 50, at: Date.now() },
    ]);
    await is(third, 'delivered');
    expect(target.open.most).toBe(1);
    expect(target.received.map(numberOf)).toEqual([0, 1, 0, 2]);
  });

  it('goes on after a hand-over was lost', async () => {
    const target = await subscriber();
    await engine.subscribe(target.url, { ordered: true });
    const first = await publish('a', 0);
    await is(first, 'delivered');
    await query(sql`
      insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, ordering_key, position)
      select ${newId()}, tenant, endpoint_id, 'lost', event_type, 'pending', 'waits for its predecessor', 'a', nextval('webhook_delivery_position')
      from webhook_deliveries where event_id = ${first}`);
    await query(sql`
      insert into events (tenant, id, type, source, payload, time)
      values ('default', 'lost', 'payment.succeeded', 't', '{"data":{"key":"a","n":1}}', now())`);
    expect(await releaseWaiting(engine.messaging.transact, engine.database.em.fork())).toBe(1);
    await is('lost', 'delivered');
    expect(await releaseWaiting(engine.messaging.transact, engine.database.em.fork())).toBe(0);
  });

  it('keeps the order of each key over two processes, random failures and broken connections', async () => {
    // Random, but every event gets through: no more failures than there are retries.
    const failures = new Map<string, number>();
    const firstSuccess: { key: string; n: number }[] = [];
    const target = await subscriber((request) => {
      const id = String(request.headers['webhook-id']);
      const failed = failures.get(id) ?? 0;
      if (failed < 2 && Math.random() < 0.25) {
        failures.set(id, failed + 1);
        return { status: 500 };
      }
      if (!firstSuccess.some((s) => s.key === keyOf(request) && s.n === numberOf(request)))
        firstSuccess.push({ key: keyOf(request), n: numberOf(request) });
      return { status: 200, delayMs: Math.random() * 10 };
    });
    await engine.subscribe(target.url, { ordered: true });
    // The failures here must not open the breaker, whose pauses only make it slow.
    const calm = setInterval(() => void query(sql`delete from webhook_breakers`).catch(() => undefined), 200);
    const second = await joinEngine(engine);
    const KEYS = ['k0', 'k1', 'k2', 'k3', 'k4', 'k5', 'k6', 'k7'];
    const EACH = 25;
    let cuts = 0;
    const cutting = setInterval(() => {
      cuts += 1;
      if (cuts % 2) cut(engine.messaging);
      else second.cut();
    }, 300);
    try {
      for (let n = 0; n < EACH; n += 1) {
        await Promise.all(KEYS.map((key) => publish(key, n)));
        if (n % 5 !== 4) continue;
        const before = cuts;
        await eventually(() => cuts > before, 'another connection is broken');
      }
      await eventually(() => cuts >= 6, 'connections were broken');
      clearInterval(cutting);
      await eventually(() => firstSuccess.length === KEYS.length * EACH, 'all arrive', 90_000);
    } finally {
      clearInterval(cutting);
      clearInterval(calm);
      await second.stop();
    }
    const expected = Array.from({ length: EACH }, (_, n) => n);
    for (const key of KEYS) expect(firstSuccess.filter((s) => s.key === key).map((s) => s.n)).toEqual(expected);
  }, 120_000);
});
