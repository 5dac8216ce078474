import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { event } from '../../src/domain/messages/contracts.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { Alarms } from '../../src/queues/alarms.ts';
import { Broker } from '../../src/queues/broker.ts';
import { Consumer } from '../../src/queues/consumer.ts';
import { BrokerUnavailable } from '../../src/queues/gateway.ts';
import { HEADERS } from '../../src/queues/incoming.ts';
import { type OrderedMessage, Publisher, Run, Unroutable } from '../../src/queues/publisher.ts';
import { Relay } from '../../src/queues/relay.ts';
import { TIERS, tierFor } from '../../src/queues/topology.ts';
import { connectSoon, createRedis } from '../../src/services/redis.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';
import { createProxy, type Proxied } from './proxy.ts';

let h: Harness;
let proxy: Proxied;
let broker: Broker;
let publisher: Publisher;
beforeAll(async () => {
  h = await createHarness();
  await h.messaging.declare();
});
afterAll(() => h.close());
beforeEach(async () => {
  proxy = await createProxy(h.config.rabbitmqUrl);
  broker = new Broker(proxy.url, 'proxied', h.log);
  publisher = new Publisher(broker, () => h.messaging.declare(), h.log);
  await broker.start();
  await broker.ready(5000);
});
afterEach(async () => {
  proxy.cut();
  await broker.stop(500);
  await proxy.close();
});

const message = (messageId: string, exchange = h.messaging.topology.deliveries, key?: string): OrderedMessage => ({
  exchange,
  routingKey: '',
  body: Buffer.from('{}'),
  messageId,
  type: 'test',
  keys: key === undefined ? [] : [key],
});
/** Takes everything out of a queue: the message ids in their order. */
async function drain(queue: string): Promise<string[]> {
  const channel = await h.messaging.publisherBroker.model?.createChannel();
  if (!channel) throw new Error('not connected');
  try {
    const ids: string[] = [];
    for (;;) {
      const got = await channel.get(queue, { noAck: true });
      if (!got) return ids;
      ids.push(String(got.properties.messageId));
    }
  } finally {
    await channel.close();
  }
}
const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'published',
    (error) => error,
  );

describe('publishing', () => {
  it('says that a message may have got through when the connection went under it and never came back', async () => {
    proxy.mute();
    const failed = failure(publisher.publish(message('unknown'), 600));
    await eventually(() => proxy.held() > 0, 'the broker has answered');
    proxy.cut();
    const error = await failed;
    expect(error).toBeInstanceOf(BrokerUnavailable);
    expect((error as BrokerUnavailable).sent).toBe(true);
    expect(await drain(h.messaging.topology.queue('webhooks'))).toEqual(['unknown']);
    // What never left says so.
    const unsent = await failure(publisher.publish(message('never'), 50));
    expect((unsent as BrokerUnavailable).sent).toBe(false);
  });

  it('marks what it publishes again, since the broker may have it already', async () => {
    proxy.mute();
    const published = publisher.publish(message('twice'));
    await eventually(() => proxy.held() > 0, 'the broker has answered');
    proxy.cut();
    proxy.open();
    await published;
    const channel = await h.messaging.publisherBroker.model?.createChannel();
    const queue = h.messaging.topology.queue('webhooks');
    const copies = [await channel?.get(queue, { noAck: true }), await channel?.get(queue, { noAck: true })];
    await channel?.close();
    expect(copies).toMatchObject([
      { properties: { messageId: 'twice', headers: {} } },
      { properties: { messageId: 'twice', headers: { [HEADERS.repeat]: true } } },
    ]);
    expect((copies[0] || undefined)?.properties.headers).not.toHaveProperty(HEADERS.repeat);
  });

  it.each([
    ['fails', () => Promise.reject(new Error('PRECONDITION_FAILED'))],
    ['hangs', () => new Promise<void>(() => undefined)],
  ])('keeps its deadline and its errors when declaring %s', async (_, declare) => {
    const other = new Broker(h.config.rabbitmqUrl, 'other', h.log);
    const own = new Publisher(other, declare, h.log);
    await other.start();
    await other.ready(5000);
    const began = performance.now();
    expect(await failure(own.publish(message('lost', h.messaging.topology.back), 200))).toBeInstanceOf(
      BrokerUnavailable,
    );
    expect(performance.now() - began).toBeLessThan(2000);
    await other.stop(1000);
  });

  it('refuses what no queue takes although everything is declared, and what AMQP cannot carry', async () => {
    expect(await failure(publisher.publish(message('nowhere', h.messaging.topology.back)))).toBeInstanceOf(Unroutable);
    const long = { ...message('long'), routingKey: 'x'.repeat(300) };
    expect(await failure(publisher.publish(long, 500))).toBeInstanceOf(Unroutable);
    await publisher.publish(message('after'));
    expect(await drain(h.messaging.topology.queue('webhooks'))).toEqual(['after']);
  });
});

describe('a broker that does not keep up', () => {
  const many = (count: number, body: Buffer, deadlineMs: number) =>
    Array.from({ length: count }, (_, n) => failure(publisher.publish({ ...message(`slow-${n}`), body }, deadlineMs)));

  it.each([
    ['2,000 messages', 2000, Buffer.from('{}')],
    ['64 MiB', 128, Buffer.alloc(512 * 1024, ' ')],
  ])(
    'has %s unconfirmed at most; what comes over it waits, and says that it never left',
    async (_, count, body) => {
      proxy.mute();
      const sent = many(count, body, 60_000);
      await eventually(() => publisher.inFlight === count, 'the bound is reached');
      const over = (await Promise.all(many(20, body, 300))) as BrokerUnavailable[];
      expect(publisher.inFlight).toBe(count);
      for (const error of over)
        expect(error).toMatchObject({ sent: false, message: 'too many messages wait for the broker' });
      // What waits goes out as soon as there is room.
      const patient = publisher.publish(message('patient'), 60_000);
      proxy.cut();
      proxy.open();
      await patient;
      expect(new Set(await Promise.all(sent))).toEqual(new Set(['published']));
      await drain(h.messaging.topology.queue('webhooks'));
    },
    120_000,
  );

  it('is not ready while it is away or blocks publishers, and a publish fails by its deadline', async () => {
    expect(publisher.ready).toBe(true);
    broker.model?.emit('blocked', 'low on memory');
    expect(publisher.ready).toBe(false);
    const blocked = await failure(publisher.publish(message('blocked'), 200));
    expect(blocked).toMatchObject({
      name: 'BrokerUnavailable',
      sent: false,
      message: 'RabbitMQ blocks publishers: low on memory',
    });
    const waiting = publisher.publish(message('later'), 30_000);
    broker.model?.emit('unblocked');
    await waiting;
    expect(await drain(h.messaging.topology.queue('webhooks'))).toEqual(['later']);
    proxy.cut();
    await eventually(() => !publisher.ready, 'it is away');
    expect(await failure(publisher.publish(message('away'), 200))).toBeInstanceOf(BrokerUnavailable);
  });

  it('makes setting alarms fail at once while Redis is away', async () => {
    const away = createRedis('redis://127.0.0.1:1', 'fast', h.log, 'away');
    connectSoon(away);
    const alarms = new Alarms(away, 'away');
    const set = () => alarms.set([{ queue: 'email', id: 'x', attempt: 1, generation: 1, at: Date.now() }]);
    // One after the other: at the 5 s that a server may take to answer, twenty would be far beyond this test's time.
    for (let n = 0; n < 20; n += 1) await expect(set()).rejects.toThrow(/Redis/);
    await alarms.close();
    away.disconnect();
  }, 30_000);
});

it('a tier of the retry ladder is never shorter than asked for, and now and then the next one', () => {
  for (const { ms } of TIERS) expect(tierFor(ms, 1).ms).toBe(ms);
  expect(tierFor(1001, 1).ms).toBe(5000);
  expect(tierFor(3_600_000, 1).ms).toBe(300_000);
  expect([tierFor(1000, 0).ms, tierFor(5000, 0).ms, tierFor(30_000, 0).ms]).toEqual([5000, 30_000, 30_000]);
});

describe('publishing in order', () => {
  it('hands out nothing behind a message that failed, nor any message twice', async () => {
    const run = new Run();
    proxy.mute();
    const first = publisher.publishInOrder([message('1'), message('2')], run, 3000);
    const second = publisher.publishInOrder([message('3')], run, 3000);
    await eventually(() => proxy.held() > 0, 'the broker has answered');
    proxy.cut();
    const results = [...(await first), ...(await second)];
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
    proxy.open();
    await broker.ready(5000);
    await eventually(() => publisher.ready, 'another channel');
    const [third] = await publisher.publishInOrder([message('4')], run, 3000);
    expect(third).toMatchObject({ status: 'rejected', reason: expect.any(BrokerUnavailable) });
    const [again] = await publisher.publishInOrder([message('1')], new Run(), 3000);
    expect(again?.status).toBe('fulfilled');
    const arrived = await drain(h.messaging.topology.queue('webhooks'));
    expect(arrived.at(-1)).toBe('1');
    expect(['1', '1,2', '1,2,3']).toContain(arrived.slice(0, -1).join());
  });

  it('keeps the relay’s rows in order over lost connections', async () => {
    const { alarms, topology, wake, transact } = h.messaging;
    const relay = new Relay({ database: h.database, publisher, alarms, topology, wake, log: h.log });
    const noted = event('note.made', z.object({ n: z.number() }));
    const ids: string[] = [];
    const emit = () =>
      transact({ requestId: 'r', correlationId: 'c', actor: SYSTEM }, async (unit) => {
        for (let n = 0; n < 100; n += 1) {
          const id = `order-${ids.length}`;
          ids.push(id);
          unit.emit.event(noted, { n }, { id });
        }
      });
    await emit();
    proxy.mute();
    await relay.start();
    await eventually(() => proxy.held() > 0, 'the first are on their way');
    await emit();
    proxy.cut();
    proxy.open();
    await eventually(async () => {
      const { rows } = await sql`select 1 from outbox limit 1`.execute(h.database.em.fork().getKysely());
      return rows.length === 0;
    }, 'everything went out');
    await relay.stop();
    const arrived = await drain(topology.queue('fanout'));
    expect([...new Set(arrived)]).toEqual(ids);
  });
});

describe('the relay', () => {
  it('keeps its lock while one lane works, when the other has failed', async () => {
    const { alarms, topology, wake, transact } = h.messaging;
    const db = h.database.em.fork().getKysely();
    await sql`create function fail() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$`.execute(
      db,
    );
    await sql`create trigger fail before delete on outbox for each row when (old.transport = 'bullmq') execute function fail()`.execute(
      db,
    );
    const relay = new Relay({ database: h.database, publisher, alarms, topology, wake, log: h.log });
    await transact({ requestId: 'r', correlationId: 'c', actor: SYSTEM }, async ({ emit }) => {
      emit.audit({ action: 'test.done' });
      emit.alarm({ queue: 'email', id: 'none', attempt: 1, generation: 1, at: Date.now() + 60_000 });
    });
    const lost = () => h.logged.some((line) => line.includes('the relay lost its connection'));
    proxy.mute(); // the lane of RabbitMQ waits for a confirm
    await relay.start();
    await eventually(() => proxy.held() > 0, 'it is published');
    await expect(eventually(lost, 'one lane gave up', 300)).rejects.toThrow('not within');
    expect(relay.leading).toBe(true);
    proxy.cut();
    await eventually(lost, 'both are over');
    await relay.stop();
    await sql`drop trigger fail on outbox`.execute(db);
    await sql`delete from outbox`.execute(db);
  });
});

describe('on a connection that answers nothing any more', () => {
  it('a consumer stops within its deadline', async () => {
    const consumer = new Consumer(
      broker,
      {
        queue: h.messaging.topology.queue('audit'),
        prefetch: 1,
        declare: async () => undefined,
        onMessage: async () => undefined,
      },
      h.log,
    );
    await consumer.start();
    await eventually(() => consumer.consuming, 'it consumes');
    proxy.mute();
    const began = performance.now();
    await consumer.stop(400);
    expect(performance.now() - began).toBeLessThan(1500);
  });

  it('waiting for a connection leaves no listener behind', async () => {
    const never = new Broker(h.config.rabbitmqUrl, 'never started', h.log);
    for (let n = 0; n < 3; n += 1) await expect(never.ready(5)).rejects.toThrow('took longer');
    expect(never.listenerCount('connected')).toBe(0);
  });
});
