import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { newId } from '../../src/domain/ids.ts';
import { event } from '../../src/domain/messages/contracts.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { Detour } from '../../src/queues/detour.ts';
import { OrderedConsumer } from '../../src/queues/ordered.ts';
import { Relay } from '../../src/queues/relay.ts';
import { type BatchItem, defineBatchWorker } from '../../src/queues/worker.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

const noted = event('note.made', z.object({ n: z.number() }));

let h: Harness;
beforeAll(async () => {
  h = await createHarness();
  await h.start([], ['housekeeping']);
});
afterAll(() => h.close());

const publish = (n: number, orderingKey?: string, id = newId()) =>
  h.messaging.publishEvent(
    noted,
    { n },
    { requestId: 'r', correlationId: 'c', actor: SYSTEM },
    { id, tenant: 'default', ...(orderingKey === undefined ? {} : { orderingKey }) },
  );
const waitingIn = async (queue: string): Promise<number> => {
  const channel = await h.messaging.publisherBroker.model?.createChannel();
  if (!channel) throw new Error('not connected');
  try {
    return (await channel.checkQueue(queue)).messageCount;
  } finally {
    await channel.close();
  }
};
const size = 10;
const consumer = (
  handle: (items: BatchItem<unknown>[]) => Promise<void>,
  refuses: () => string | undefined = () => undefined,
) => {
  const { consumerBroker, publisher, topology, measure } = h.messaging;
  const worker = defineBatchWorker({
    name: 'in-order',
    pool: 'fanout',
    schema: z.object({ n: z.number() }),
    batch: { size, waitMs: 5 },
    timeoutMs: 20_000,
    refuses,
    handle,
  });
  return new OrderedConsumer(
    consumerBroker,
    {
      queue: topology.orderedQueue,
      worker,
      detour: new Detour(publisher, topology, topology.orderedQueue),
      declare: () => h.messaging.declare(),
    },
    measure,
    h.log,
  );
};
const numbers = (items: BatchItem<unknown>[]) => items.map((item) => (item.envelope.data as { n: number }).n);

describe('the way of events on the broker', () => {
  it('parts those with an ordering key from the rest, and still tells when nobody takes an event', async () => {
    const { topology, publisherBroker } = h.messaging;
    await publish(1);
    await publish(2, 'k');
    await eventually(async () => (await waitingIn(topology.queue('fanout'))) === 1, 'the rest');
    await eventually(async () => (await waitingIn(topology.orderedQueue)) === 1, 'those with a key');
    const channel = await publisherBroker.model?.createConfirmChannel();
    if (!channel) throw new Error('not connected');
    await channel.deleteQueue(topology.queue('fanout'));
    const returned: string[] = [];
    channel.on('return', (message) => returned.push(String(message.properties.messageId)));
    const send = async (messageId: string, headers: Record<string, unknown>) => {
      channel.publish(topology.events, 'note.made', Buffer.from('{}'), { mandatory: true, messageId, headers });
      await channel.waitForConfirms();
    };
    await send('rest', {});
    await send('ordered', { ordered: 'yes' });
    expect(returned).toEqual(['rest']);
    await channel.deleteQueue(topology.orderedQueue);
    // Without a queue of their own, neither they nor the rest have anywhere to go.
    await send('ordered again', { ordered: 'yes' });
    expect(returned).toEqual(['rest', 'ordered again']);
    await channel.close();
    await h.messaging.declare();
    await publish(3);
    expect(await waitingIn(topology.queue('fanout'))).toBe(1);
  });

  it('marks the platform’s own events by their envelope', async () => {
    const { publisher, alarms, topology, wake, transact } = h.messaging;
    const relay = new Relay({ database: h.database, publisher, alarms, topology, wake, log: h.log });
    const before = await waitingIn(topology.queue('fanout'));
    await transact({ requestId: 'r', correlationId: 'c', actor: SYSTEM }, async ({ emit }) => {
      emit.event(noted, { n: 1 }, { orderingKey: 'k' });
      emit.event(event('note.text', z.object({ text: z.string() })), { text: 'says "orderingkey" only' });
    });
    await relay.start();
    await eventually(async () => (await waitingIn(topology.orderedQueue)) === 1, 'the one with a key');
    await eventually(async () => (await waitingIn(topology.queue('fanout'))) === before + 1, 'the other one');
    await relay.stop();
    const channel = await h.messaging.publisherBroker.model?.createChannel();
    await channel?.purgeQueue(topology.orderedQueue);
    await channel?.close();
  });
});

describe('the ordered consumer', () => {
  it('repeats in place what fails, buries what fails for good, and never lets a later message pass', async () => {
    const handled: number[] = [];
    let tries = 0;
    const one = consumer(async (items) => {
      const got = numbers(items);
      if (got.includes(3) && tries++ < 3) throw Object.assign(new Error('away'), { code: 'ECONNREFUSED' });
      if (got.includes(5)) throw new Error('bad data');
      handled.push(...got);
    });
    for (let n = 0; n < 8; n += 1) await publish(n, 'k', n === 5 ? 'five' : newId());
    const { publisher, topology } = h.messaging;
    await publisher.publish({
      exchange: topology.events,
      routingKey: 'note.made',
      body: Buffer.from('no JSON'),
      messageId: 'unreadable',
      type: 'note.made',
      headers: { ordered: 'yes' },
    });
    await publish(8, 'k');
    await one.start();
    await eventually(() => handled.includes(8), 'the last', 20_000);
    expect(handled).toEqual([0, 1, 2, 3, 4, 6, 7, 8]);
    const letters = await eventually(async () => {
      const { rows } = await sql<{ message_id: string; reason: string; queue: string }>`
        select message_id, reason, queue from dead_letters order by message_id`.execute(
        h.database.em.fork().getKysely(),
      );
      return rows.length === 2 ? rows : undefined;
    }, 'two dead letters');
    expect(letters).toEqual([
      { message_id: 'five', reason: 'failed 3 times: bad data', queue: topology.orderedQueue },
      { message_id: 'unreadable', reason: expect.stringMatching(/^not JSON/), queue: topology.orderedQueue },
    ]);
    await one.stop(5000);
    expect(await waitingIn(topology.orderedQueue)).toBe(0);
  }, 30_000);

  it('makes room for the next consumer when its work ends with an error', async () => {
    const handled: number[] = [];
    let looks = 0;
    const one = consumer(
      async (items) => void handled.push(...numbers(items)),
      () => {
        looks += 1;
        if (looks === 1) throw new Error('a bug');
        return undefined;
      },
    );
    await publish(7, 'k');
    await one.start();
    await eventually(() => handled.length > 0, 'it is handled after all', 5000);
    expect(handled).toEqual([7]);
    await one.stop(5000);
  });

  it('hands over when it stops or pauses: the next one begins only after the batch at hand is committed', async () => {
    const log: string[] = [];
    const { promise: committed, resolve: commit } = Promise.withResolvers<void>();
    const slow = (name: string) =>
      consumer(async (items) => {
        log.push(`${name} begins ${numbers(items)[0]}`);
        await committed;
        log.push(`${name} ends ${numbers(items).at(-1)}`);
      });
    const first = slow('first');
    const second = slow('second');
    await first.start();
    await eventually(() => first.consuming, 'the first consumes');
    await second.start();
    await eventually(() => second.consuming, 'the second stands by');
    for (let n = 0; n < 3 * size; n += 1) await publish(n, 'k');
    await eventually(() => log.length > 0, 'the first is at work');
    const paused = first.pause();
    await publish(3 * size, 'k'); // the broker has had time for it: whoever could be handed anything has it
    expect(log).toHaveLength(1);
    commit();
    await paused;
    await eventually(() => log.some((line) => line === `second ends ${3 * size}`), 'the second has done the rest');
    first.resume();
    await eventually(() => first.consuming, 'the first stands by again');
    await second.stop(5000);
    await publish(99, 'k');
    await eventually(() => log.at(-1) === 'first ends 99', 'the first has taken over');
    await first.stop(5000);
    // Never two at once, nothing twice and nothing out of order.
    const begun = log.filter((_, i) => i % 2 === 0);
    expect(begun.every((line) => line.includes('begins'))).toBe(true);
    expect(log.filter((_, i) => i % 2 === 1).every((line) => line.includes('ends'))).toBe(true);
    const starts = begun.map((line) => Number(line.split(' ').at(-1)));
    expect(starts).toEqual([...starts].sort((a, b) => a - b));
    expect(new Set(starts).size).toBe(starts.length);
  }, 30_000);
});
