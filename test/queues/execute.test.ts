import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { OperationIds } from '../../src/domain/ids.ts';
import { command } from '../../src/domain/messages/contracts.ts';
import { ANONYMOUS, type RequestContext } from '../../src/domain/messages/envelope.ts';
import { done, reject, retryIn } from '../../src/domain/messages/outcome.ts';
import { findOperation } from '../../src/domain/operations/operations.ts';
import { trail } from '../../src/domain/operations/trail.ts';
import { defineWorker } from '../../src/queues/worker.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

const greet = command('test.greet', z.strictObject({ name: z.string() }));
const refuseAll = command('test.refuse', z.strictObject({}));
const flaky = command('test.flaky', z.strictObject({ failures: z.number().int() }));
const broken = command('test.broken', z.strictObject({}));
const patient = command('test.patient', z.strictObject({}));
const followed = command('test.followed', z.strictObject({}));
const seen = Promise.withResolvers<void>();

let handled = 0;
const workers = [
  defineWorker({
    name: 'greet',
    pool: 'registration',
    takes: greet,
    retry: { attempts: 3, baseMs: 100, maxMs: 1000 },
    timeoutMs: 5000,
    perform: async ({ data }) => `hello ${data.name}`,
    handle: async ({ performed }) => {
      handled += 1;
      return done({ text: performed }, 201);
    },
  }),
  defineWorker({
    name: 'refuse',
    pool: 'registration',
    takes: refuseAll,
    retry: { attempts: 3, baseMs: 100, maxMs: 1000 },
    timeoutMs: 5000,
    handle: async ({ em, emit }) => {
      await sql`insert into inbox (consumer, message_id) values ('refuse', 'left behind')`.execute(em.getKysely());
      emit.audit({ action: 'test.refused' });
      return reject({ code: 'CONFLICT', message: 'no', field: 'email' });
    },
  }),
  defineWorker({
    name: 'flaky',
    pool: 'registration',
    takes: flaky,
    retry: { attempts: 3, baseMs: 100, maxMs: 200 },
    timeoutMs: 5000,
    handle: async ({ data, attempt }) => {
      if (attempt <= data.failures) throw new Error(`failed on attempt ${attempt}`);
      return done({ attempt });
    },
  }),
  defineWorker({
    name: 'broken',
    pool: 'registration',
    takes: broken,
    retry: { attempts: 1, baseMs: 100, maxMs: 200 },
    timeoutMs: 5000,
    handle: async () => {
      throw new Error('always');
    },
  }),
  defineWorker({
    name: 'patient',
    pool: 'registration',
    takes: patient,
    retry: { attempts: 3, baseMs: 100, maxMs: 200 },
    timeoutMs: 5000,
    handle: async ({ attempt }) => (attempt === 1 ? retryIn(500, 'not yet') : done({ attempt })),
  }),
  defineWorker({
    name: 'followed',
    pool: 'registration',
    takes: followed,
    retry: { attempts: 3, baseMs: 100, maxMs: 200 },
    timeoutMs: 60_000,
    handle: async ({ attempt }) => {
      if (attempt === 1) throw new Error('not yet');
      await seen.promise;
      return done({ attempt });
    },
  }),
];

let h: Harness;
const ids = new OperationIds(Buffer.alloc(32, 7));
const contextFor = (operationId: string): RequestContext => ({
  requestId: 'req-1',
  correlationId: operationId,
  actor: ANONYMOUS,
});

beforeAll(async () => {
  h = await createHarness({}, workers);
  await h.start(workers, ['registration', 'housekeeping']);
});
afterAll(() => h.close());

describe('the pipeline', () => {
  it('answers a waiting caller with the result and its status', async () => {
    const operationId = ids.issue();
    const answer = await h.messaging.commands.send(greet, { name: 'Ada' }, contextFor(operationId), {
      operationId,
      waitMs: 5000,
    });
    expect(answer.operation).toMatchObject({
      status: 'succeeded',
      httpStatus: 201,
      result: { text: 'hello Ada' },
      caller: 'anonymous',
      type: 'test.greet',
    });
  });

  it('does the work of one operation once, however often its command is published', async () => {
    const before = handled;
    const operationId = ids.issue();
    const answers = await Promise.all(
      Array.from({ length: 5 }, () =>
        h.messaging.commands.send(greet, { name: 'twice' }, contextFor(operationId), { operationId, waitMs: 5000 }),
      ),
    );
    expect(answers.every((a) => a.operation?.status === 'succeeded')).toBe(true);
    expect(handled - before).toBe(1);
  });

  it('takes back what a handler did before it refused, and remembers the refusal', async () => {
    const operationId = ids.issue();
    const answer = await h.messaging.commands.send(refuseAll, {}, contextFor(operationId), {
      operationId,
      waitMs: 5000,
    });
    expect(answer.operation).toMatchObject({ status: 'failed', error: { code: 'CONFLICT', field: 'email' } });
    const left = await sql`select 1 from inbox where message_id = 'left behind' union all select 1 from outbox`.execute(
      h.database.em.fork().getKysely(),
    );
    expect(left.rows).toEqual([]);
  });

  it('tries again after an exception', async () => {
    const operationId = ids.issue();
    const answer = await h.messaging.commands.send(flaky, { failures: 1 }, contextFor(operationId), {
      operationId,
      waitMs: 10_000,
    });
    expect(answer.operation).toMatchObject({ status: 'succeeded', result: { attempt: 2 }, attempts: 2 });
  });

  it('comes back when the handler asks for it', async () => {
    const operationId = ids.issue();
    const answer = await h.messaging.commands.send(patient, {}, contextFor(operationId), {
      operationId,
      waitMs: 10_000,
    });
    expect(answer.operation).toMatchObject({ status: 'succeeded', result: { attempt: 2 } });
  });

  it('shows a retry in the trail while it is under way, and how many there were after it', async () => {
    const operationId = ids.issue();
    await h.messaging.commands.send(followed, {}, contextFor(operationId), { operationId, waitMs: 0 });
    const handledHop = async () => {
      const fork = () => h.database.em.fork();
      const row = await findOperation(fork(), operationId);
      const { hops } = await trail(fork, {
        correlationId: operationId,
        operation: { id: operationId, row },
        full: true,
      });
      return hops.find(({ kind }) => kind === 'command.handled');
    };
    expect(await eventually(handledHop, 'the first attempt is noted', 30_000)).toMatchObject({
      status: 'running',
      detail: { attempts: 1 },
    });
    seen.resolve();
    const ended = await eventually(
      async () => {
        const hop = await handledHop();
        return hop?.status === 'running' ? undefined : hop;
      },
      'it ends',
      60_000,
    );
    expect(ended).toMatchObject({ status: 'succeeded', detail: { attempts: 2 } });
  }, 120_000);

  it('buries what fails for good, and fails its operation', async () => {
    const operationId = ids.issue();
    const answer = await h.messaging.commands.send(broken, {}, contextFor(operationId), {
      operationId,
      waitMs: 10_000,
    });
    expect(answer.operation).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR' } });
    const { rows } = await sql<{
      reason: string;
      worker: string;
    }>`select reason, worker from dead_letters where message_id = ${operationId}`.execute(
      h.database.em.fork().getKysely(),
    );
    expect(rows).toEqual([{ reason: 'gave up after 1 attempts: always', worker: 'broken' }]);
  });

  it.each([
    ['not JSON', Buffer.from('{"a":'), /^not JSON/],
    ['not UTF-8', Buffer.from([0xff, 0xfe, 0x00]), /^not UTF-8/],
    ['no envelope', Buffer.from('{"hello":1}'), /^not an envelope/],
    [
      'an unknown type',
      Buffer.from(
        JSON.stringify({
          specversion: '1.0',
          id: 'x',
          source: 's',
          type: 'nobody.takes',
          time: new Date().toISOString(),
          data: {},
        }),
      ),
      /no worker takes/,
    ],
    [
      'data that breaks the contract',
      Buffer.from(
        JSON.stringify({
          specversion: '1.0',
          id: 'x',
          source: 's',
          type: 'test.greet',
          time: new Date().toISOString(),
          data: { name: 5 },
        }),
      ),
      /^not a test.greet: name/,
    ],
  ])('buries %s with the reason while its neighbours are handled', async (what, body, reason) => {
    const messageId = `poison-${what}`;
    const operationId = ids.issue();
    await h.messaging.publisher.publish({
      exchange: h.messaging.topology.commands,
      routingKey: 'test.greet',
      body,
      messageId,
      type: 'test.greet',
    });
    const neighbour = await h.messaging.commands.send(greet, { name: 'neighbour' }, contextFor(operationId), {
      operationId,
      waitMs: 5000,
    });
    expect(neighbour.operation?.status).toBe('succeeded');
    const row = await eventually(async () => {
      const { rows } = await sql<{
        reason: string;
      }>`select reason from dead_letters where message_id = ${messageId}`.execute(h.database.em.fork().getKysely());
      return rows[0];
    }, 'the dead letter');
    expect(row.reason).toMatch(reason);
  });
});
