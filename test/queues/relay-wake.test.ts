import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { Relay } from '../../src/queues/relay.ts';
import { Topology } from '../../src/queues/topology.ts';
import { openDatabase } from '../../src/services/database.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

let h: Harness;
beforeAll(async () => {
  h = await createHarness();
});
afterEach(() => vi.restoreAllMocks());
afterAll(() => h.close());

const db = () => h.database.em.fork().getKysely();
const POLL_MS = 100;

/** A relay that leads, on exchanges of its own with one queue that takes everything. */
async function leading(work: () => Promise<void>, database = h.database): Promise<void> {
  const { publisher, alarms, wake } = h.messaging;
  const topology = new Topology(`${h.config.namespace}-wake`);
  const channel = await h.messaging.publisherBroker.model?.createChannel();
  if (!channel) throw new Error('no connection to RabbitMQ');
  const queue = `${topology.events}.all`;
  await channel.assertExchange(topology.events, 'topic');
  await channel.assertQueue(queue, { durable: true });
  await channel.bindQueue(queue, topology.events, '#');
  const relay = new Relay({ database, publisher, alarms, topology, wake, log: h.log });
  await relay.start();
  try {
    await eventually(() => relay.leading, 'the relay leads');
    await work();
  } finally {
    await relay.stop();
    await channel.deleteQueue(queue);
    await channel.deleteExchange(topology.events);
    await channel.close();
  }
}

test('a relay with nothing to do keeps nothing of its rests', async () => {
  const timers = vi.spyOn(globalThis, 'setTimeout');
  const rests = () => timers.mock.calls.filter(([, ms]) => ms === POLL_MS).length;
  await leading(async () => {
    const before = rests();
    await eventually(() => rests() >= before + 30, 'it rested often', 60_000);
    // Each rest that is still remembered takes its timer back when the wake-up comes.
    const cleared = vi.spyOn(globalThis, 'clearTimeout');
    h.messaging.wake.here();
    expect(cleared.mock.calls.length).toBeLessThanOrEqual(2);
  });
});

/** A way to PostgreSQL whose answers come late: what is committed meanwhile is not in them. */
async function farAway(url: string, ms: number): Promise<{ url: string; close(): void }> {
  const to = new URL(url);
  const target = { port: Number(to.port || 5432), host: to.hostname };
  const server = createServer((client) => {
    const upstream = connect(target);
    client.on('data', (data) => upstream.write(data));
    upstream.on('data', (data) => setTimeout(() => client.writable && client.write(data), ms));
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const)
      socket.on('error', () => undefined).on('close', () => other.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  to.hostname = '127.0.0.1';
  to.port = String((server.address() as AddressInfo).port);
  return { url: to.toString(), close: () => server.close() };
}

test('every row goes out by its wake-up alone, whatever the other lane does', async () => {
  const far = await farAway(h.config.databaseUrl, 20);
  const database = await openDatabase(far.url, { entities: [], poolSize: 1 });
  // The poll, the net under the wake-ups, comes too late to help.
  const { setTimeout: real } = globalThis;
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((
    work: (...args: unknown[]) => void,
    ms?: number,
    ...more: unknown[]
  ) => real(() => work(...more), ms === POLL_MS ? 600_000 : ms)) as typeof setTimeout);
  try {
    await leading(async () => {
      for (let round = 0; round < 40; round += 1) {
        // The second row comes at another moment of the relay's work on the first in each round.
        for (const [n, later] of [0, round * 0.004].entries()) {
          await sql`
            with late as materialized (select pg_sleep(${later}))
            insert into outbox (transport, target, routing_key, message_id, body)
            select 'rabbitmq', 'events', 'note.made', ${`${round}-${n}`}, '{}' from late`.execute(db());
          h.messaging.wake.here();
        }
        await eventually(
          async () => (await sql`select 1 from outbox limit 1`.execute(db())).rows.length === 0,
          `everything of round ${round} went out`,
        );
      }
    }, database);
  } finally {
    await database.close(true);
    far.close();
  }
}, 120_000);
