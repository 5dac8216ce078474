import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { command, envelope, event } from '../../src/domain/messages/contracts.ts';
import { ANONYMOUS } from '../../src/domain/messages/envelope.ts';
import { done, onward } from '../../src/domain/messages/outcome.ts';
import { findOperation } from '../../src/domain/operations/operations.ts';
import { Batcher } from '../../src/queues/batch.ts';
import type { Incoming } from '../../src/queues/consumer.ts';
import { HEADERS } from '../../src/queues/incoming.ts';
import { defineBatchWorker, defineWorker, type MessageWorker, type Retry } from '../../src/queues/worker.ts';
import type { EntityManager } from '../../src/services/database.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';
import { detourOf, through as pipe } from './pipeline.ts';

const slow = command('test.slow', z.strictObject({}));
const quick = command('test.quick', z.strictObject({}));
const context = { requestId: 'r', correlationId: 'c', actor: ANONYMOUS };

/** A statement of PostgreSQL's own that always exceeds its time: 57014. */
async function exceed(em: EntityManager): Promise<void> {
  await sql`set local statement_timeout = '20ms'`.execute(em.getKysely());
  await sql`select pg_sleep(60)`.execute(em.getKysely());
}
/** The server ends the connection under the handler: 57P01. */
const cutOff = (em: EntityManager) => sql`select pg_terminate_backend(pg_backend_pid())`.execute(em.getKysely());

const live = [
  defineWorker({
    name: 'slow',
    pool: 'registration',
    takes: slow,
    retry: { attempts: 2, baseMs: 10, maxMs: 10, contentions: 3 },
    timeoutMs: 30_000,
    async handle({ em }) {
      await exceed(em);
      return done({});
    },
  }),
  defineWorker({
    name: 'quick',
    pool: 'registration',
    takes: quick,
    retry: { attempts: 1, baseMs: 10, maxMs: 10 },
    timeoutMs: 30_000,
    handle: async () => done({}),
  }),
];

let h: Harness;
beforeAll(async () => {
  h = await createHarness({}, live);
  await h.start(live, ['registration', 'housekeeping']);
});
afterAll(() => h.close());

const ids = new OperationIds(Buffer.alloc(32, 7));
const db = () => h.database.em.fork().getKysely();
const letterOf = (messageId: string) =>
  eventually(
    async () => {
      const { rows } = await sql<{ reason: string; attempts: number }>`
        select reason, attempts from dead_letters where message_id = ${messageId}`.execute(db());
      return rows[0];
    },
    'its letter',
    60_000,
  );

/** Nobody consumes this queue, so what a detour sends back can be taken from it. */
const queue = () => h.messaging.topology.queue('kyc');
const detour = () => detourOf(h, 'kyc');
async function comesBack(messageId: string): Promise<Incoming> {
  const channel = await h.messaging.publisherBroker.model?.createChannel();
  const got = await eventually(
    async () => (await channel?.get(queue(), { noAck: true })) || undefined,
    'it is back',
    30_000,
  );
  await channel?.close();
  expect(got.properties.messageId).toBe(messageId);
  return { ...incoming(undefined, messageId), body: got.content, headers: got.properties.headers ?? {} };
}
const incoming = (body: unknown, messageId: string, headers: Record<string, unknown> = {}): Incoming => ({
  body: Buffer.from(JSON.stringify(body) ?? ''),
  messageId,
  type: 'test',
  redelivered: false,
  headers,
  routingKey: '',
  receivedAt: 0,
});

/** A worker that does one thing after the other, once each time it is called; the last one for ever. */
function scripted(retry: Partial<Retry>, steps: ((em: EntityManager) => Promise<unknown>)[]): MessageWorker {
  let step = 0;
  return defineWorker({
    name: 'scripted',
    pool: 'registration',
    takes: slow,
    retry: { attempts: 2, baseMs: 10, maxMs: 10, ...retry },
    timeoutMs: 30_000,
    async handle({ em }) {
      const said = await steps[Math.min(step++, steps.length - 1)]?.(em);
      return said === 'onward' ? onward(10, 'a part is done') : done({});
    },
  });
}
const through = (worker: MessageWorker, message: Incoming) => pipe(h, 'kyc', worker, message);
const first = (id: string) => incoming(envelope(slow, {}, context, { id }), id);
const attempt = (n: number, contentions?: number) => ({
  [HEADERS.attempt]: n,
  ...(contentions === undefined ? {} : { [HEADERS.contentions]: contentions }),
});

describe('a command whose own statement always exceeds its time', () => {
  it('ends in the dead letters with its reason, and its neighbours are handled', async () => {
    const [operationId, neighbour] = [ids.issue(), ids.issue()];
    await h.messaging.commands.send(slow, {}, context, { operationId, waitMs: 0 });
    const beside = await h.messaging.commands.send(quick, {}, context, { operationId: neighbour, waitMs: 30_000 });
    expect(beside.operation).toMatchObject({ status: 'succeeded' });
    const letter = await letterOf(operationId);
    expect(letter.reason).toMatch(/gave up after 3 attempts: .*statement timeout/);
    expect(letter.attempts).toBe(3);
    const operation = await eventually(async () => {
      const row = await findOperation(h.database.em.fork(), operationId);
      return row?.status === 'failed' ? row : undefined;
    }, 'its operation has failed');
    expect(operation.attempts).toBe(3);
  });

  it('shows as running meanwhile', async () => {
    const id = ids.issue();
    expect(await through(scripted({}, [exceed]), first(id))).toBe('retried');
    expect(await findOperation(h.database.em.fork(), id)).toMatchObject({ status: 'running', attempts: 1 });
    expect((await comesBack(id)).headers).toMatchObject(attempt(1, 1));
  });

  it('is given up after 20 tries when its worker says nothing else', async () => {
    const id = ids.issue();
    const worker = scripted({}, [exceed]);
    expect(await through(worker, { ...first(id), headers: attempt(18, 18) })).toBe('retried');
    expect(await through(worker, await comesBack(id))).toBe('buried');
    expect((await letterOf(id)).attempts).toBe(20);
  });
});

describe('contention and other faults', () => {
  it('are counted apart: what a lock cost leaves a message its own attempts', async () => {
    const id = ids.issue();
    const fault = () => Promise.reject(new Error('a fault'));
    const worker = scripted({ attempts: 2 }, [exceed, exceed, fault]);
    let message = first(id);
    for (const expected of [attempt(1, 1), attempt(2, 2), attempt(3, 2)]) {
      expect(await through(worker, message)).toBe('retried');
      message = await comesBack(id);
      expect(message.headers).toMatchObject(expected);
    }
    expect(await through(worker, message)).toBe('buried');
    expect((await letterOf(id)).reason).toBe('gave up after 4 attempts: a fault');
  });

  it('are forgotten when a part of the work is done', async () => {
    const id = ids.issue();
    const worker = scripted({}, [async () => 'onward']);
    expect(await through(worker, { ...first(id), headers: attempt(3, 2) })).toBe('onward');
    expect((await comesBack(id)).headers).toMatchObject(attempt(1, 0));
  });

  it('a lock that is let go buries nothing', async () => {
    const id = ids.issue();
    const lock = 4_711;
    const worker = scripted({}, [
      async (em) => {
        await sql`set local lock_timeout = '20ms'`.execute(em.getKysely());
        await sql`select pg_advisory_xact_lock(${lock})`.execute(em.getKysely());
      },
    ]);
    await h.database.em.fork().transactional(async (em) => {
      await sql`select pg_advisory_xact_lock(${lock})`.execute(em.getKysely());
      expect(await through(worker, first(id))).toBe('retried');
    });
    expect(await through(worker, await comesBack(id))).toBe('done');
  });

  it('a connection that is lost uses up no attempt, neither of a message nor of its contention', async () => {
    const id = ids.issue();
    const worker = scripted({ attempts: 1, contentions: 1 }, [cutOff]);
    expect(await through(worker, first(id))).toBe('postponed');
    const back = await comesBack(id);
    expect(back.headers).toMatchObject(attempt(0));
    expect(await through(worker, back)).toBe('postponed');
    expect((await comesBack(id)).headers).toMatchObject(attempt(0));
  });
});

describe('a batch with one message that always exceeds its time', () => {
  const data = z.strictObject({ slow: z.boolean() });
  const made = event('test.made', data);
  const message = (id: string, slowly = false) => incoming(envelope(made, { slow: slowly }, context, { id }), id);

  it('handles the others, counts that one alone, keeps it by itself from then on and buries it', async () => {
    const seen: string[][] = [];
    const outcomes: string[] = [];
    const worker = defineBatchWorker({
      name: 'batched',
      pool: 'kyc',
      schema: data,
      batch: { size: 4, waitMs: 60_000 },
      timeoutMs: 30_000,
      async handle(items) {
        seen.push(items.map(({ envelope: { id } }) => id));
        await h.database.em.fork().transactional(async (em) => {
          for (const { envelope: e } of items) {
            await sql`insert into inbox (consumer, message_id) values ('batched', ${e.id})`.execute(em.getKysely());
            if (e.data.slow) await exceed(em);
          }
        });
      },
    });
    const measure = (_: string, outcome: string) => void outcomes.push(outcome);
    const batcher = new Batcher(worker, detour(), measure, h.log, { contentions: 2 });
    const [a, b, c, d, e, f, culprit] = ['a', 'b', 'c', 'd', 'e', 'f', 'culprit'].map((n) => `${n}-${newId()}`) as [
      string,
      string,
      string,
      string,
      string,
      string,
      string,
    ];
    const handled = async () => {
      const { rows } = await sql<{ id: string }>`
        select message_id as id from inbox where consumer = 'batched' order by id`.execute(db());
      return rows.map(({ id }) => id);
    };

    await Promise.all([message(a), message(b), message(culprit, true), message(c)].map((m) => batcher.take(m)));
    expect(await handled()).toEqual([a, b, c]);
    const whole = [a, b, culprit, c];
    expect(seen).toEqual([whole, whole, whole, [a, b], [culprit, c], [culprit], [c]]);
    const back = await comesBack(culprit);
    expect(back.headers).toMatchObject(attempt(1, 1));

    seen.length = 0;
    await Promise.all([back, message(d), message(e), message(f)].map((m) => batcher.take(m)));
    expect(await handled()).toEqual([a, b, c, d, e, f]);
    expect(seen).toEqual([[d, e, f], [culprit]]);
    expect(outcomes).toEqual(['done', 'retried', 'done', 'done', 'buried']);
    const letter = await letterOf(culprit);
    expect(letter.reason).toMatch(/failed 2 times: .*statement timeout/);
  });

  it('repeats the whole batch without using up an attempt when the connection is lost', async () => {
    let calls = 0;
    const worker = defineBatchWorker({
      name: 'cut-off',
      pool: 'kyc',
      schema: data,
      batch: { size: 2, waitMs: 60_000 },
      timeoutMs: 30_000,
      async handle(items) {
        expect(items).toHaveLength(2);
        calls += 1;
        if (calls <= 4) await h.database.em.fork().transactional((em) => cutOff(em));
      },
    });
    const outcomes: string[] = [];
    const measure = (_: string, outcome: string) => void outcomes.push(outcome);
    const batcher = new Batcher(worker, detour(), measure, h.log, { contentions: 1 });
    await Promise.all([message(newId()), message(newId())].map((m) => batcher.take(m)));
    expect(outcomes).toEqual(['done']);
    expect(calls).toBe(5);
  });
});
