import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { newId } from '../../src/domain/ids.ts';
import { command, envelope, event } from '../../src/domain/messages/contracts.ts';
import { ANONYMOUS } from '../../src/domain/messages/envelope.ts';
import { discard, done, type Outcome, retryIn } from '../../src/domain/messages/outcome.ts';
import { Batcher } from '../../src/queues/batch.ts';
import type { Incoming } from '../../src/queues/consumer.ts';
import { Detour } from '../../src/queues/detour.ts';
import { HEADERS } from '../../src/queues/incoming.ts';
import {
  defineAlarmWorker,
  defineBatchWorker,
  defineStreamWorker,
  defineWorker,
  type MessageWorker,
} from '../../src/queues/worker.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';
import { detourOf, through as pipe } from './pipeline.ts';

const away = () => Object.assign(new Error('PostgreSQL is away'), { code: 'ECONNREFUSED' });
const hang = () => new Promise<never>(() => undefined);

const streamed: boolean[] = [];
const batched: boolean[] = [];
let rung = 0;
const workers = [
  defineStreamWorker({
    name: 'stream',
    pool: 'webhooks',
    schema: z.object({}),
    prefetch: 5,
    async handle(_, { redelivered }) {
      streamed.push(redelivered);
      if (streamed.length === 1) throw away();
    },
  }),
  defineBatchWorker({
    name: 'batch',
    pool: 'audit',
    schema: z.unknown(),
    batch: { size: 5, waitMs: 1 },
    timeoutMs: 100,
    async handle([item]) {
      batched.push(item?.redelivered ?? false);
      if (batched.length === 1) await hang();
    },
  }),
  defineAlarmWorker({
    name: 'ring',
    pool: 'email',
    takes: 'email',
    timeoutMs: 100,
    async handle(_, { signal }) {
      rung += 1;
      if (rung > 1) return;
      await hang();
      signal.throwIfAborted();
    },
  }),
];

let h: Harness;
beforeAll(async () => {
  h = await createHarness({}, workers);
  await h.start(workers, ['webhooks', 'audit', 'email', 'housekeeping']);
});
afterAll(() => h.close());

const db = () => h.database.em.fork().getKysely();
const context = { requestId: 'r', correlationId: 'c', actor: ANONYMOUS };
const inbox = async (id: string) => (await sql`select 1 from inbox where message_id = ${id}`.execute(db())).rows.length;
async function lettersOf(messageId: string): Promise<{ id: string; reason: string }[]> {
  const { rows } = await sql<{ id: string; reason: string }>`
    select id, reason from dead_letters where message_id = ${messageId} order by created_at`.execute(db());
  return rows;
}
const incoming = (body: unknown, messageId = newId(), headers: Record<string, unknown> = {}): Incoming => ({
  body: Buffer.from(JSON.stringify(body)),
  messageId,
  type: 'test',
  redelivered: false,
  headers,
  routingKey: '',
  receivedAt: 0,
});
const detour = () => detourOf(h, 'registration');
const through = (worker: MessageWorker, message: Incoming) => pipe(h, 'registration', worker, message);

describe('while a service is away', () => {
  it('a chunk waits in the delay queues, told as a repeat, and is not given back to the broker', async () => {
    const { publisher, topology } = h.messaging;
    const body = Buffer.from('{}');
    await publisher.publish({ exchange: topology.deliveries, routingKey: '', body, messageId: 'chunk', type: 'test' });
    await eventually(() => streamed.length === 2, 'the second try');
    expect(streamed).toEqual([false, true]);
    expect(h.logged.some((line) => line.includes('handed back'))).toBe(false);
    const metric = await h.metrics.getSingleMetric('waybill_handled_total')?.get();
    expect(
      metric?.values.filter(({ labels }) => labels.worker === 'stream').map(({ labels }) => labels.outcome),
    ).toEqual(['postponed', 'done']);
  });
});

describe('a batch that no patience helps', () => {
  it('goes through the delay queues without using up an attempt', async () => {
    const { publisher, topology } = h.messaging;
    const worker = defineBatchWorker({
      name: 'away',
      pool: 'kyc',
      schema: z.unknown(),
      batch: { size: 1, waitMs: 1 },
      timeoutMs: 1000,
      handle: async () => {
        throw away();
      },
    });
    const outcomes: string[] = [];
    const measure = (_: string, outcome: string) => void outcomes.push(outcome);
    const queue = topology.queue('kyc');
    const batcher = new Batcher(worker, new Detour(publisher, topology, queue), measure, h.log, { patience: 1 });
    await batcher.take(incoming(envelope(event('test.made', z.unknown()), {}, context), 'postponed'));
    expect(outcomes).toEqual(['postponed']);
    const channel = await h.messaging.publisherBroker.model?.createChannel();
    const back = await eventually(async () => (await channel?.get(queue, { noAck: true })) || undefined, 'it is back');
    expect(back.properties).toMatchObject({ messageId: 'postponed', headers: { [HEADERS.attempt]: 0 } });
    await channel?.close();
  });
});

describe('a handler that outlasts its time', () => {
  it('is tried again with its batch', async () => {
    const { publisher, topology } = h.messaging;
    const body = Buffer.from(JSON.stringify(envelope(event('test.made', z.unknown()), {}, context)));
    await publisher.publish({ exchange: topology.audit, routingKey: '', body, messageId: 'batch', type: 'test' });
    await eventually(() => batched.length === 2, 'the second try');
    expect(batched).toEqual([false, true]);
  });

  it('is called again by its alarm', async () => {
    await h.messaging.alarms.set([{ queue: 'email', id: newId(), attempt: 1, generation: 1, at: Date.now() }]);
    await eventually(() => rung === 2, 'the second ring');
  });

  it('leaves nothing of its transaction, also of what it does later', async () => {
    const late = command('test.late', z.object({}));
    const id = newId();
    let go: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      go = resolve;
    });
    let after: Promise<unknown> = gate;
    const worker = defineWorker({
      name: 'late',
      pool: 'registration',
      takes: late,
      retry: { attempts: 3, baseMs: 10, maxMs: 10, contentions: 1 },
      timeoutMs: 50,
      async handle({ em, signal }) {
        const own = em.getKysely();
        await gate;
        expect(signal.aborted).toBe(true);
        after = Promise.resolve(sql`insert into inbox (consumer, message_id) values ('late', ${id})`.execute(own));
        await after;
        return done({});
      },
    });
    expect(await through(worker, incoming(envelope(late, {}, context, { id }), id))).toBe('buried');
    go();
    await gate;
    await Promise.resolve(after).catch(() => undefined);
    await expect(after).rejects.toThrow();
    expect(await inbox(id)).toBe(0);
    const [letter] = await eventually(async () => {
      const found = await lettersOf(id);
      return found.length > 0 ? found : undefined;
    }, 'its letter');
    expect(letter?.reason).toMatch(/late took longer than 50 ms/);
  });
});

describe('an event that its worker does not finish', () => {
  it.each([
    ['discards', () => discard('cannot be read'), 'discarded'],
    ['puts off', () => retryIn(1000, 'not yet'), 'retried'],
  ])('%s leaves no mark in the inbox, so that it is handled when it comes again', async (_, first, measured) => {
    const made = event('test.made', z.object({}));
    const id = newId();
    const outcomes: Outcome[] = [first(), done({})];
    const worker = defineWorker({
      name: 'takes-events',
      pool: 'registration',
      takes: made,
      retry: { attempts: 3, baseMs: 10, maxMs: 10 },
      timeoutMs: 1000,
      handle: async () => outcomes.shift() ?? done({}),
    });
    const message = incoming(envelope(made, {}, context, { id }), id);
    expect(await through(worker, message)).toBe(measured);
    expect(await inbox(id)).toBe(0);
    expect(await through(worker, message)).toBe('done');
    expect(await inbox(id)).toBe(1);
    expect(await through(worker, message)).toBe('again');
  });
});

describe('a letter', () => {
  it('is one, however often its message is buried; another one after a replay', async () => {
    const id = newId();
    const message = incoming({ some: 'thing' }, id);
    await detour().bury(message, 'first');
    await detour().bury(message, 'again');
    await detour().bury({ ...message, headers: { [HEADERS.replayOf]: newId() } }, 'after a replay');
    await eventually(async () => (await lettersOf(id)).some(({ reason }) => reason === 'after a replay'), 'the last');
    // Which of the two burials is taken first is open: letters are taken side by side.
    const reasons = (await lettersOf(id)).map(({ reason }) => reason).toSorted();
    expect(reasons).toEqual(['after a replay', expect.stringMatching(/^(?:first|again)$/)]);
  });
});
