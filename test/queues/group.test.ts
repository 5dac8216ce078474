import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { OperationIds } from '../../src/domain/ids.ts';
import { command } from '../../src/domain/messages/contracts.ts';
import { ANONYMOUS } from '../../src/domain/messages/envelope.ts';
import { done, type Outcome, reject } from '../../src/domain/messages/outcome.ts';
import type { OperationRow } from '../../src/domain/operations/operations.ts';
import { defineWorker, type Together } from '../../src/queues/worker.ts';
import type { EntityManager } from '../../src/services/database.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

/** `fault` says what goes wrong with it. */
const join = command(
  'test.join',
  z.strictObject({
    name: z.string(),
    fault: z.enum(['none', 'breaks', 'refused', 'left out', 'slow']),
  }),
);
type Join = z.infer<(typeof join)['schema']>;

const CONCURRENCY = 20;
const PATIENT_MS = 30_000;
let performed = 0;
let alone: string[] = [];
let groups: string[][] = [];
/** Holds the next group until it is let go. */
let gate: Promise<void> | undefined;
/** What a slow handler waits for, and what became of what it wrote then. */
let stalled: Promise<void> | undefined;
let late: string | undefined;

const mark = (em: EntityManager, name: string) =>
  sql`insert into inbox (consumer, message_id) values ('join', ${name})`.execute(em.getKysely());

const together: Together<Join & { tell: () => void }> = {
  name: 'joined',
  size: 8,
  timeoutMs: PATIENT_MS,
  async handle(requests, em) {
    groups.push(requests.map(({ name }) => name));
    const held = gate;
    gate = undefined;
    await held;
    const outcomes: (Outcome | undefined)[] = [];
    for (const { name, fault, tell } of requests) {
      if (fault === 'breaks') throw new Error(`${name} breaks`);
      tell();
      if (fault === 'left out') outcomes.push(undefined);
      else if (fault === 'refused') outcomes.push(reject({ code: 'CONFLICT', message: 'no' }));
      else {
        await mark(em, name);
        outcomes.push(done({ name, together: true }));
      }
      if (fault === 'slow') {
        await stalled;
        late = await mark(em, `${name} too late`).then(
          () => 'written',
          () => 'refused',
        );
      }
    }
    return outcomes;
  },
};

const workers = [
  defineWorker({
    name: 'join',
    pool: 'registration',
    takes: join,
    retry: { attempts: 1, baseMs: 100, maxMs: 200 },
    timeoutMs: 5000,
    perform: async () => {
      performed += 1;
    },
    async handle({ data: { name, fault }, em, emit }) {
      alone.push(name);
      if (fault === 'breaks') throw new Error(`${name} breaks`);
      if (fault === 'refused') return reject({ code: 'CONFLICT', message: 'no' });
      await mark(em, name);
      emit.audit({ action: 'test.joined', targets: [{ type: 'test', id: name }] });
      return done({ name, together: false });
    },
    together: {
      by: together,
      key: ({ name }) => name,
      request: ({ data, emit }) => ({
        ...data,
        tell: () => emit.audit({ action: 'test.joined', targets: [{ type: 'test', id: data.name }] }),
      }),
    },
  }),
];

let h: Harness;
const ids = new OperationIds(Buffer.alloc(32, 7));

beforeAll(async () => {
  h = await createHarness({ REGISTRATION_CONCURRENCY: String(CONCURRENCY) }, workers);
  await h.start(workers, ['registration', 'housekeeping']);
});
afterAll(() => h.close());
beforeEach(() => {
  performed = 0;
  alone = [];
  groups = [];
  gate = undefined;
  stalled = undefined;
  late = undefined;
  together.timeoutMs = PATIENT_MS;
});

async function send(data: Join, operationId = ids.issue()): Promise<OperationRow | undefined> {
  const context = { requestId: 'req-1', correlationId: operationId, actor: ANONYMOUS };
  const answer = await h.messaging.commands.send(join, data, context, { operationId, waitMs: 30_000 });
  return answer.operation;
}

/** Sends one command, holds its group until all the others wait, and lets go. Resolves with the others' operations. */
async function behind(
  first: string,
  others: (Join & { operationId?: string })[],
  timeoutMs = PATIENT_MS,
): Promise<(OperationRow | undefined)[]> {
  let open: () => void = () => undefined;
  gate = new Promise((resolve) => {
    open = resolve;
  });
  const held = send({ name: first, fault: 'none' });
  await eventually(async () => groups.length === 1 || undefined, 'the first group');
  const answers = others.map(({ operationId, ...data }) => send(data, operationId));
  await eventually(async () => performed === others.length + 1 || undefined, 'all of them in hand');
  together.timeoutMs = timeoutMs; // from the next group on
  open();
  await held;
  return Promise.all(answers);
}

const rows = async <T>(query: ReturnType<typeof sql<T>>) =>
  (await query.execute(h.database.em.fork().getKysely())).rows;
/** How often each of these names left its mark, and told of it. */
const left = async (names: string[]) => ({
  marks: (
    await rows(sql<{ id: string }>`
      select message_id as id from inbox where consumer = 'join' and message_id = any(${names}) order by 1`)
  ).map(({ id }) => id),
  told: (
    await rows(sql<{ id: string }>`
      select body::jsonb #>> '{data,targets,0,id}' as id from outbox where body::jsonb #>> '{data,targets,0,id}' = any(${names}) order by 1`)
  ).map(({ id }) => id),
});
const names = (prefix: string, count: number) => Array.from({ length: count }, (_, n) => `${prefix}-${n}`);
const plain = (name: string): Join => ({ name, fault: 'none' });

describe('commands in one transaction', () => {
  it('come together while another group is on its way, up to the size of a group', async () => {
    const crowd = names('crowd', 11);
    const operations = await behind('crowd-first', crowd.map(plain));
    expect(operations.map((it) => it?.result)).toEqual(crowd.map((name) => ({ name, together: true })));
    expect(operations.every((it) => it?.status === 'succeeded' && it.httpStatus === 200 && it.attempts === 1)).toBe(
      true,
    );
    expect(groups.map((group) => group.length)).toEqual([1, 8, 3]);
    expect(await left(crowd)).toEqual({ marks: crowd.toSorted(), told: crowd.toSorted() });
    const [{ transactions } = {}] = await rows(sql<{ transactions: number }>`
      select count(distinct xmin::text)::int as transactions from operations where id = any(${operations.map((it) => it?.id)}::uuid[])`);
    expect(transactions).toBe(2);
  });

  it('are handled one by one when one of them breaks, which alone fails', async () => {
    const crowd = names('broken', 4);
    const operations = await behind('broken-first', [...crowd.map(plain), { name: 'breaker', fault: 'breaks' }]);
    expect(operations.map((it) => it?.status)).toEqual([...crowd.map(() => 'succeeded'), 'failed']);
    expect(alone.toSorted()).toEqual(['breaker', ...crowd]);
    expect(await left([...crowd, 'breaker'])).toEqual({ marks: crowd, told: crowd });
  });

  it('leave nothing of the one that is refused', async () => {
    const operations = await behind('refused-first', [
      plain('beside'),
      { name: 'unwanted', fault: 'refused' },
      plain('besides'),
    ]);
    expect(operations.map((it) => it?.status)).toEqual(['succeeded', 'failed', 'succeeded']);
    expect(operations[1]?.error).toEqual({ code: 'CONFLICT', message: 'no' });
    expect(alone).toEqual([]);
    expect(await left(['beside', 'besides', 'unwanted'])).toEqual({
      marks: ['beside', 'besides'],
      told: ['beside', 'besides'],
    });
  });

  it('go on without the one that is left out, which is handled alone', async () => {
    const operations = await behind('left-first', [plain('stays'), { name: 'leaves', fault: 'left out' }]);
    expect(operations.map((it) => it?.result)).toEqual([
      { name: 'stays', together: true },
      { name: 'leaves', together: false },
    ]);
    expect(await left(['stays', 'leaves'])).toEqual({ marks: ['leaves', 'stays'], told: ['leaves', 'stays'] });
  });

  it('never hold two of one key', async () => {
    await behind('key-first', [plain('key-a'), { name: 'key-a', fault: 'refused' }, plain('key-b')]);
    expect(groups).toEqual([['key-first'], ['key-a', 'key-b'], ['key-a']]);
  });

  it('leave nothing when they take too long, and are handled alone', async () => {
    let wake: () => void = () => undefined;
    stalled = new Promise((resolve) => {
      wake = resolve;
    });
    const crowd = ['after', 'dawdle', 'hurry'];
    const slow = (name: string): Join => ({ name, fault: name === 'dawdle' ? 'slow' : 'none' });
    const operations = await behind('slow-first', crowd.map(slow), 300);
    expect(operations.map((it) => it?.result)).toEqual(crowd.map((name) => ({ name, together: false })));
    wake();
    await eventually(() => late, 'what is written too late');
    expect(late).toBe('refused');
    expect(await left([...crowd, 'dawdle too late'])).toEqual({ marks: crowd, told: crowd });
  });
});

describe('a command that comes twice', () => {
  it('in one crowd has its effect once, and both callers their answer', async () => {
    const operationId = ids.issue();
    const twice = { ...plain('twice'), operationId };
    const operations = await behind('twice-first', [twice, plain('neighbour'), twice]);
    expect(operations.map((it) => it?.status)).toEqual(['succeeded', 'succeeded', 'succeeded']);
    expect(await left(['twice', 'neighbour'])).toEqual({ marks: ['neighbour', 'twice'], told: ['neighbour', 'twice'] });
  });

  it('after it was done is answered from its row', async () => {
    const operationId = ids.issue();
    await send(plain('once'), operationId);
    const again = await send({ name: 'other-key', fault: 'none' }, operationId);
    expect(again).toMatchObject({ status: 'succeeded', result: { name: 'once', together: true } });
    expect(await left(['once', 'other-key'])).toEqual({ marks: ['once'], told: ['once'] });
  });
});
