import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { newId } from '../../src/domain/ids.ts';
import { event } from '../../src/domain/messages/contracts.ts';
import { type Envelope, SYSTEM } from '../../src/domain/messages/envelope.ts';
import { userCreated } from '../../src/domain/users/events.ts';
import { advanceVersion } from '../../src/domain/users/user.ts';
import { Relay } from '../../src/queues/relay.ts';
import { Topology } from '../../src/queues/topology.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

const WAYBILL = fileURLToPath(new URL('../../bin/waybill.js', import.meta.url));
const noted = event('note.made', z.object({ n: z.number() }));

let h: Harness;
let directory: string;
const children: ChildProcess[] = [];
beforeAll(async () => {
  h = await createHarness();
  await h.messaging.declare();
  directory = mkdtempSync(join(tmpdir(), 'waybill-relay-'));
});
afterEach(async () => {
  for (const child of children.splice(0)) await kill(child);
});
afterAll(async () => {
  await h.close();
  rmSync(directory, { recursive: true, force: true });
});

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

const db = () => h.database.em.fork().getKysely();
const channelOf = async () => {
  const channel = await h.messaging.publisherBroker.model?.createChannel();
  if (!channel) throw new Error('not connected');
  return channel;
};
/** The next event of each aggregate, each in a transaction of its own. */
const emitRound = (aggregates: string[], sequence: number) =>
  Promise.all(
    aggregates.map((subject) =>
      h.messaging.transact({ requestId: 'r', correlationId: 'c', actor: SYSTEM }, async ({ emit }) =>
        emit.event(noted, { n: sequence }, { subject, sequence }),
      ),
    ),
  );
const rowsLeft = async () =>
  (await sql`select 1 from outbox where set_aside_at is null limit 1`.execute(db())).rows.length;

/** What arrived of each aggregate, a repeated message counted where it came first. */
class Arrivals {
  readonly #ids = new Set<string>();
  readonly #sequences = new Map<string, number[]>();
  repeats = 0;

  add(body: Buffer): void {
    const { id, subject, sequence } = JSON.parse(body.toString()) as Envelope;
    if (this.#ids.has(id)) {
      this.repeats += 1;
      return;
    }
    this.#ids.add(id);
    const of = this.#sequences.get(subject ?? '') ?? [];
    this.#sequences.set(subject ?? '', of);
    of.push(sequence ?? Number.NaN);
  }

  of(subject: string): number[] {
    return this.#sequences.get(subject) ?? [];
  }
}

describe('the order of an aggregate’s events', () => {
  it('holds when the broker refuses single messages and takes those behind them', async () => {
    const { publisher, alarms, wake } = h.messaging;
    // A queue of five that refuses what comes over it, emptied one by one: most of a batch is refused, here and there one is taken.
    const topology = new Topology(`${h.config.namespace}-full`);
    const queue = `${topology.events}.small`;
    const channel = await channelOf();
    await channel.assertExchange(topology.events, 'topic');
    await channel.assertQueue(queue, {
      durable: true,
      arguments: { 'x-max-length': 5, 'x-overflow': 'reject-publish' },
    });
    await channel.bindQueue(queue, topology.events, '#');
    const aggregates = ['a', 'b', 'c', 'd', 'e', 'f'].map((name) => `${name}-${newId()}`);
    const EACH = 25;
    for (let n = 1; n <= EACH; n += 1) await emitRound(aggregates, n);
    const refusals = () => h.logged.filter((line) => line.includes('RabbitMQ refused a message')).length;
    const relay = new Relay({ database: h.database, publisher, alarms, topology, wake, log: h.log });
    await relay.start();
    const arrivals = new Arrivals();
    await eventually(
      async () => {
        const got = await channel.get(queue, { noAck: true });
        if (got) arrivals.add(got.content);
        return !got && (await rowsLeft()) === 0;
      },
      'everything went out',
      60_000,
    );
    await relay.stop();
    await channel.deleteQueue(queue);
    await channel.deleteExchange(topology.events);
    await channel.close();
    expect(refusals()).toBeGreaterThan(0);
    const expected = Array.from({ length: EACH }, (_, i) => i + 1);
    for (const subject of aggregates) expect(arrivals.of(subject)).toEqual(expected);
    // What was confirmed is not published again for the sake of what was refused.
    expect(arrivals.repeats).toBe(0);
  }, 90_000);

  it('holds for those behind a message that no queue takes, which is set aside', async () => {
    const { publisher, alarms, wake } = h.messaging;
    const topology = new Topology(`${h.config.namespace}-part`);
    const queue = `${topology.events}.notes`;
    const channel = await channelOf();
    await channel.assertExchange(topology.events, 'topic');
    await channel.assertQueue(queue, { durable: true });
    await channel.bindQueue(queue, topology.events, 'note.made');
    const lost = event('note.lost', z.object({}));
    const subject = newId();
    await h.messaging.transact({ requestId: 'r', correlationId: 'c', actor: SYSTEM }, async ({ emit }) => {
      emit.event(noted, { n: 1 }, { subject, sequence: 1 });
      for (let sequence = 2; sequence <= 9; sequence += 1) emit.event(lost, {}, { subject, sequence });
      emit.event(noted, { n: 10 }, { subject, sequence: 10 });
      emit.event(lost, {}, { subject: 'another', sequence: 1 });
    });
    await sql`insert into outbox (transport, target, routing_key, message_id, body) values ('rabbitmq', 'events', 'note.made', 'broken', '{')`.execute(
      db(),
    );
    const relay = new Relay({ database: h.database, publisher, alarms, topology, wake, log: h.log });
    await relay.start();
    await eventually(async () => (await rowsLeft()) === 0, 'nothing is left to publish', 120_000);
    await relay.stop();
    const arrivals = new Arrivals();
    for (;;) {
      const got = await channel.get(queue, { noAck: true });
      if (!got) break;
      arrivals.add(got.content);
    }
    expect(arrivals.of(subject)).toEqual([1, 10]);
    const { rows } = await sql<{ error: string; count: string }>`
      select error, count(*) from outbox where set_aside_at is not null group by error order by count`.execute(db());
    expect(rows).toEqual([
      { error: expect.stringMatching(/JSON/), count: '1' },
      { error: expect.stringMatching(/^no queue takes note\.lost/), count: '9' },
    ]);
    await sql`delete from outbox`.execute(db());
    await channel.deleteQueue(queue);
    await channel.deleteExchange(topology.events);
    await channel.close();
  }, 150_000);

  it('is that of its sequence, however many transactions change it at once', async () => {
    const { rows } = await sql<{ id: string }>`
      insert into users (id, email, full_name, password_hash) values (${newId()}, 'order@example.com', 'Order', 'none') returning id`.execute(
      db(),
    );
    const subject = rows[0]?.id as string;
    const at = new Date().toISOString();
    const data = { user_id: subject, email: 'order@example.com', full_name: 'Order', created_at: at };
    await Promise.all(
      Array.from({ length: 40 }, () =>
        h.messaging.transact({ requestId: 'r', correlationId: 'c', actor: SYSTEM }, async ({ em, emit }) => {
          const sequence = await advanceVersion(em, subject);
          emit.event(userCreated, data, { subject, sequence });
        }),
      ),
    );
    const told = await sql<{ body: string }>`select body from outbox order by id`.execute(db());
    const sequences = told.rows.map(({ body }) => (JSON.parse(body) as Envelope).sequence ?? Number.NaN);
    expect(sequences).toHaveLength(40);
    expect(sequences).toEqual(sequences.toSorted((a, b) => a - b));
    await sql`delete from outbox`.execute(db());
  });
});

async function housekeeping(): Promise<{ child: ChildProcess; led: () => boolean }> {
  const child = spawn(process.execPath, [WAYBILL, 'worker', 'housekeeping'], {
    cwd: directory,
    env: {
      ...process.env,
      NODE_ENV: 'test',
      LOG_LEVEL: 'debug',
      DATABASE_URL: h.config.databaseUrl,
      NAMESPACE: h.config.namespace,
      SECRETS_KEY: h.config.secretsKey.toString('base64'),
      PORT: '0',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (text: Buffer) => {
      said += text.toString();
    });
  await eventually(
    () => {
      if (child.exitCode !== null) throw new Error(`housekeeping ended: ${said}`);
      return said.includes('is listening');
    },
    'housekeeping is up',
    60_000,
  );
  return { child, led: () => said.includes('"leading"') };
}

/** Ends the session of whoever leads; its process lives on. */
const depose = () =>
  sql`
    select pg_terminate_backend(l.pid) from pg_locks l
    where l.locktype = 'advisory' and l.objid = 7120002 and l.granted
      and l.database = (select oid from pg_database where datname = current_database())`.execute(db());

describe('relay fail-over between two live processes', () => {
  it('keeps the order, and ends with every event published', async () => {
    const [first, second] = await Promise.all([housekeeping(), housekeeping()]);
    const aggregates = Array.from({ length: 8 }, () => newId());
    let sequence = 0;
    const bothLed = () => first.led() && second.led();
    await eventually(
      async () => {
        sequence += 1;
        await emitRound(aggregates, sequence);
        if (sequence % 5 === 0) await depose();
        return bothLed() && sequence >= 60;
      },
      'both have led while events were written',
      120_000,
    );
    // And by the death of one of them, with rows waiting.
    const dying = kill(first.child);
    for (let n = 0; n < 20; n += 1) {
      sequence += 1;
      await emitRound(aggregates, sequence);
    }
    await dying;
    await eventually(async () => (await rowsLeft()) === 0, 'everything went out', 60_000);
    const arrivals = new Arrivals();
    const channel = await channelOf();
    for (;;) {
      const got = await channel.get(h.messaging.topology.queue('fanout'), { noAck: true });
      if (!got) break;
      arrivals.add(got.content);
    }
    await channel.close();
    const expected = Array.from({ length: sequence }, (_, i) => i + 1);
    for (const subject of aggregates) expect(arrivals.of(subject)).toEqual(expected);
  }, 240_000);
});
