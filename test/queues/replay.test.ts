import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { discardDeadLetter } from '../../src/domain/dead-letters/resolve.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { command } from '../../src/domain/messages/contracts.ts';
import { type RequestContext, SYSTEM } from '../../src/domain/messages/envelope.ts';
import { discard, done } from '../../src/domain/messages/outcome.ts';
import { findOperation } from '../../src/domain/operations/operations.ts';
import { BrokerUnavailable } from '../../src/queues/gateway.ts';
import { Replay } from '../../src/queues/replay.ts';
import { defineWorker } from '../../src/queues/worker.ts';
import { SealError } from '../../src/services/keyring.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

const fragile = command('test.fragile', z.strictObject({ name: z.string() }));
const secret = command('test.secret', z.strictObject({ sealed: z.string() }));
const retry = { attempts: 1, baseMs: 100, maxMs: 200 };

/** While it is set, `fragile` fails. */
let broken = true;
const attemptsSeen: number[] = [];

const workers = [
  defineWorker<{ name: string }>({
    name: 'fragile',
    pool: 'registration',
    takes: fragile,
    retry,
    timeoutMs: 5000,
    async handle({ data, em, attempt, envelope }) {
      attemptsSeen.push(attempt);
      if (broken) throw new Error('the disk is full');
      // The effect: it can be seen how often it happened.
      await sql`insert into inbox (consumer, message_id) values (${`effect-${newId()}`}, ${envelope.id})`.execute(
        em.getKysely(),
      );
      return done({ hello: data.name });
    },
  }),
  defineWorker<{ sealed: string }, string | SealError>({
    name: 'secret',
    pool: 'registration',
    takes: secret,
    retry,
    timeoutMs: 5000,
    async perform({ data }) {
      try {
        return await h.keyring.open('command', data.sealed);
      } catch (error) {
        if (error instanceof SealError) return error;
        throw error;
      }
    },
    handle: async ({ performed }) => (performed instanceof SealError ? discard(performed.message) : done(performed)),
  }),
];

let h: Harness;
let replay: Replay;
const ids = new OperationIds(Buffer.alloc(32, 7));
const context = (): RequestContext => ({ requestId: 'req-1', correlationId: newId(), actor: SYSTEM });
const db = () => h.database.em.fork().getKysely();
const operation = (id: string) => findOperation(h.database.em.fork(), id);

beforeAll(async () => {
  h = await createHarness({}, workers);
  await h.start(workers, ['registration', 'housekeeping']);
  replay = new Replay({ database: h.database, messaging: h.messaging });
});
afterAll(() => h.close());

interface Letter {
  id: string;
  status: string;
  reason: string;
  attempts: number;
}

async function lettersOf(messageId: string): Promise<Letter[]> {
  const { rows } = await sql<Letter>`
    select id, status, reason, attempts from dead_letters where message_id = ${messageId} order by created_at`.execute(
    db(),
  );
  return rows;
}

async function effects(messageId: string): Promise<number> {
  const { rows } = await sql<{ n: string }>`select count(*) as n from inbox where message_id = ${messageId}`.execute(
    db(),
  );
  return Number(rows[0]?.n);
}

/** Sends a command that dies; returns its operation and its letter. */
async function die(): Promise<{ operationId: string; letter: Letter }> {
  broken = true;
  const operationId = ids.issue();
  const answer = await h.messaging.commands.send(
    fragile,
    { name: 'Ada' },
    { requestId: 'req-1', correlationId: operationId, actor: SYSTEM },
    { operationId, waitMs: 10_000 },
  );
  expect(answer.operation?.status).toBe('failed');
  const [letter] = await lettersOf(operationId);
  if (!letter) throw new Error('no dead letter');
  return { operationId, letter };
}

const finished = (id: string) =>
  eventually(async () => {
    const row = await operation(id);
    return row && row.status !== 'running' ? row : undefined;
  }, 'the operation is finished');

async function auditOf(letterId: string): Promise<{ action: string; metadata: Record<string, unknown> }[]> {
  const { rows } = await sql<{ body: string }>`select body from outbox where target = 'audit' order by id`.execute(
    db(),
  );
  return rows
    .map(({ body }) => JSON.parse(body).data)
    .filter((record) => record.targets.some((target: { id: string }) => target.id === letterId));
}

describe('a replay', () => {
  it('lets the operation of a dead command succeed once its worker works again', async () => {
    const { operationId, letter } = await die();
    expect(letter.reason).toContain('the disk is full');
    broken = false;
    attemptsSeen.length = 0;
    const record = await replay.one(context(), letter.id);
    expect(record).toMatchObject({ id: letter.id, status: 'replayed', resolved_at: expect.stringMatching(/Z$/) });
    expect(await finished(operationId)).toMatchObject({ status: 'succeeded', result: { hello: 'Ada' }, error: null });
    expect(attemptsSeen).toEqual([1]); // counted anew
    expect(await effects(operationId)).toBe(1);
    expect(await lettersOf(operationId)).toHaveLength(1);
    expect(await auditOf(letter.id)).toMatchObject([
      { action: 'dead_letter.replayed', metadata: { queue: h.messaging.topology.queue('registration') } },
    ]);
  });

  it('asked for twice, one after the other or from two processes at once, has one effect', async () => {
    const { operationId, letter } = await die();
    broken = false;
    const other = new Replay({ database: h.database, messaging: h.messaging });
    const results = await Promise.allSettled(
      Array.from({ length: 6 }, (_, n) => (n % 2 === 0 ? replay : other).one(context(), letter.id)),
    );
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason.problem).toMatchObject({ code: 'CONFLICT' });
    }
    await expect(replay.one(context(), letter.id)).rejects.toThrow('was replayed already');
    expect(await replay.many(context(), [letter.id])).toBe(0);
    expect((await finished(operationId)).status).toBe('succeeded');
    expect(await effects(operationId)).toBe(1);
    expect(await auditOf(letter.id)).toHaveLength(1);
  });

  it('after a process that died between publishing and marking does not do the work again', async () => {
    const { operationId, letter } = await die();
    broken = false;
    await replay.one(context(), letter.id);
    await finished(operationId);
    await sql`update dead_letters set status = 'dead', resolved_at = null where id = ${letter.id}`.execute(db());
    attemptsSeen.length = 0;
    await replay.one(context(), letter.id);
    // The queue is in order: once a later command is done, the second copy was answered.
    await h.messaging.commands.send(fragile, { name: 'later' }, context(), { operationId: ids.issue(), waitMs: 5000 });
    expect(attemptsSeen).toHaveLength(1);
    expect(await effects(operationId)).toBe(1);
    expect((await operation(operationId))?.result).toEqual({ hello: 'Ada' });
  });

  it('of what still fails is a dead letter again, and its operation has failed', async () => {
    const { operationId, letter } = await die();
    await replay.one(context(), letter.id);
    const letters = await eventually(async () => {
      const found = await lettersOf(operationId);
      return found.length === 2 ? found : undefined;
    }, 'the second letter');
    expect(letters.map(({ status }) => status)).toEqual(['replayed', 'dead']);
    expect((await finished(operationId)).status).toBe('failed');
  });

  it('of an expired secret fails with that reason', async () => {
    const operationId = ids.issue();
    const sealed = await h.keyring.seal('command', 'hush', { expiresIn: -60 });
    const body = Buffer.from(
      JSON.stringify({
        specversion: '1.0',
        id: operationId,
        source: 'test',
        type: secret.type,
        time: new Date().toISOString(),
        data: { sealed },
        correlationid: operationId,
        actor: 'anonymous',
      }),
    );
    const id = newId();
    await sql`insert into operations (id, type, status, caller, created_at, finished_at, error)
      values (${operationId}, ${secret.type}, 'failed', 'anonymous', now(), now(), '{"code":"INTERNAL_ERROR","message":"x"}')`.execute(
      db(),
    );
    await sql`insert into dead_letters (id, queue, worker, message_type, message_id, correlation_id, reason, attempts, body)
      values (${id}, ${h.messaging.topology.queue('registration')}, 'secret', ${secret.type}, ${operationId}, ${operationId}, 'gave up', 1, ${body})`.execute(
      db(),
    );
    await replay.one(context(), id);
    const again = await eventually(
      async () => (await lettersOf(operationId)).find((letter) => letter.status === 'dead'),
      'dead again',
    );
    expect(again.reason).toBe('the sealed value has expired');
    expect((await operation(operationId))?.error).toMatchObject({ message: 'the sealed value has expired' });
  });

  it('leaves what a worker has refused as it is', async () => {
    const { operationId, letter } = await die();
    broken = false;
    await sql`update operations set error = '{"code":"CONFLICT","message":"in use"}' where id = ${operationId}`.execute(
      db(),
    );
    await replay.one(context(), letter.id);
    await h.messaging.commands.send(fragile, { name: 'later' }, context(), { operationId: ids.issue(), waitMs: 5000 });
    expect(await operation(operationId)).toMatchObject({ status: 'failed', error: { code: 'CONFLICT' } });
    expect(await effects(operationId)).toBe(0);
  });

  it('into a queue that is gone is refused, and leaves letter and operation as they were', async () => {
    const { operationId, letter } = await die();
    const before = await operation(operationId);
    for (const queue of ['wb_gone.v0', 'q'.repeat(256)]) {
      await sql`update dead_letters set queue = ${queue} where id = ${letter.id}`.execute(db());
      await expect(replay.one(context(), letter.id)).rejects.toMatchObject({ problem: { code: 'CONFLICT' } });
      expect(await replay.many(context(), [letter.id])).toBe(0);
    }
    expect((await lettersOf(operationId))[0]?.status).toBe('dead');
    const { finishedAt: _was, ...rest } = before ?? { finishedAt: null };
    expect(await operation(operationId)).toMatchObject(rest);
    expect(await auditOf(letter.id)).toEqual([]);
  });

  it('without a broker is refused, and the letter can be replayed later', async () => {
    const { operationId, letter } = await die();
    broken = false;
    const publisher = {
      publish: async () => {
        // The worker could take it from here on: the operation is open, in a transaction that is over.
        expect((await operation(operationId))?.status).toBe('running');
        throw new BrokerUnavailable('RabbitMQ is out of reach');
      },
    } as unknown as Harness['messaging']['publisher'];
    const { topology, transact } = h.messaging;
    const cut = new Replay({ database: h.database, messaging: { publisher, topology, transact } });
    await expect(cut.one(context(), letter.id)).rejects.toBeInstanceOf(BrokerUnavailable);
    await expect(cut.many(context(), [letter.id])).rejects.toBeInstanceOf(BrokerUnavailable);
    expect((await lettersOf(operationId))[0]?.status).toBe('dead');
    expect(await operation(operationId)).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR' } });
    await replay.one(context(), letter.id);
    expect((await finished(operationId)).status).toBe('succeeded');
  });

  it('brings many back, each once', async () => {
    const dead = [];
    for (let n = 0; n < 4; n += 1) dead.push(await die());
    broken = false;
    const all = dead.map(({ letter }) => letter.id);
    const counts = await Promise.all([replay.many(context(), all), replay.many(context(), all.toReversed())]);
    expect(counts.reduce((a, b) => a + b)).toBe(4);
    for (const { operationId } of dead) {
      expect((await finished(operationId)).status).toBe('succeeded');
      expect(await effects(operationId)).toBe(1);
    }
  });

  it('passes on nothing of a stranger’s headers', async () => {
    const { operationId, letter } = await die();
    broken = false;
    await sql`update dead_letters set headers = '{"CC":["elsewhere"],"x-waybill-attempt":7,"x-delivery-count":3}' where id = ${letter.id}`.execute(
      db(),
    );
    attemptsSeen.length = 0;
    await replay.one(context(), letter.id);
    expect((await finished(operationId)).status).toBe('succeeded');
    expect(attemptsSeen).toEqual([1]);
  });

  it('of an unknown letter is refused', async () => {
    await expect(replay.one(context(), newId())).rejects.toMatchObject({ problem: { code: 'NOT_FOUND' } });
  });
});

describe('a discard', () => {
  it('ends what a replay had opened before its process died', async () => {
    const { operationId, letter } = await die();
    await sql`update operations set status = 'running', error = null, finished_at = null where id = ${operationId}`.execute(
      db(),
    );
    const discarded = await h.messaging.transact(context(), (unit) => discardDeadLetter(unit, letter.id, 'a test'));
    expect(discarded.status).toBe('discarded');
    expect(await operation(operationId)).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR' } });
    await expect(replay.one(context(), letter.id)).rejects.toThrow('was discarded already');
    expect(await auditOf(letter.id)).toMatchObject([
      { action: 'dead_letter.discarded', metadata: { reason: 'a test', message_id: operationId } },
    ]);
  });

  it('leaves an operation alone that another letter’s replay is working on', async () => {
    const { operationId, letter } = await die();
    await sql`insert into dead_letters (id, queue, message_type, message_id, reason, body, status)
      values (${newId()}, 'q', ${fragile.type}, ${operationId}, 'first', '', 'replayed')`.execute(db());
    await sql`update operations set status = 'running', error = null, finished_at = null where id = ${operationId}`.execute(
      db(),
    );
    await h.messaging.transact(context(), (unit) => discardDeadLetter(unit, letter.id));
    expect((await operation(operationId))?.status).toBe('running');
  });
});
