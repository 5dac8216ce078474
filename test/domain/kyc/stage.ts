import { sql } from 'kysely';
import { newId } from '../../../src/domain/ids.ts';
import type { AttemptView } from '../../../src/domain/kyc/attempts.ts';
import { cancelKyc } from '../../../src/domain/kyc/cancel.ts';
import { decideKyc } from '../../../src/domain/kyc/decide.ts';
import type { DecisionInput } from '../../../src/domain/kyc/messages.ts';
import { PROVIDERS, type ProviderName } from '../../../src/domain/kyc/providers.ts';
import type { Submission } from '../../../src/domain/kyc/submission.ts';
import { submitKyc } from '../../../src/domain/kyc/submit.ts';
import type { AttemptStatus } from '../../../src/domain/kyc/transitions.ts';
import type { Transact } from '../../../src/domain/messages/emit.ts';
import type { RequestContext } from '../../../src/domain/messages/envelope.ts';
import { type Problem, Refusal } from '../../../src/domain/problem.ts';
import { createTransact } from '../../../src/queues/outbox.ts';
import { type Database, type EntityManager, openDatabase } from '../../../src/services/database.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { createTestDatabase } from '../../harness.ts';

/** A day in UTC, `days` from today. */
export const day = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);

export const submission = (document: Partial<Submission['document']> = {}): Submission => ({
  date_of_birth: '1987-04-12',
  country: 'PT',
  document: { type: 'passport', number: 'XK-4471-99812', expires_on: day(900), ...document },
});

export interface Stage {
  database: Database;
  transact: Transact;
  keyring: Keyring;
  em(): EntityManager;
  query<T>(query: ReturnType<typeof sql<T>>): Promise<T[]>;
  user(role?: string): Promise<string>;
  as(userId: string): RequestContext;
  submit(userId: string, document?: Partial<Submission['document']>, provider?: ProviderName): Promise<AttemptView>;
  cancel(userId: string): Promise<AttemptView>;
  decide(reviewerId: string, input: DecisionInput): Promise<AttemptView>;
  /** Puts an attempt in a state by hand, without any of the rules. */
  place(userId: string, status: AttemptStatus, more?: { expires_on?: string }): Promise<string>;
  /** All that was emitted about a user so far, in order. */
  emitted(userId: string): Promise<Emitted[]>;
  close(): Promise<void>;
}

export interface Emitted {
  target: string;
  type: string;
  sequence?: number;
  data: Record<string, unknown>;
}

/** A database of its own. */
export async function openStage(): Promise<Stage> {
  const { url, drop } = await createTestDatabase();
  const database = await openDatabase(url, { entities: [], poolSize: 8 });
  const transact = createTransact(database, () => undefined);
  const keyring = new Keyring(Buffer.alloc(32, 5));
  const em = () => database.em.fork();
  const query = async <T>(query: ReturnType<typeof sql<T>>) => (await query.execute(em().getKysely())).rows;
  const as = (userId: string): RequestContext => ({
    requestId: newId(),
    correlationId: newId(),
    actor: { type: 'user', id: userId },
  });
  return {
    database,
    transact,
    keyring,
    em,
    query,
    as,
    async user(role = 'user') {
      const id = newId();
      await query(sql`
        insert into users (id, email, full_name, role, is_verified)
        values (${id}, ${`${id}@example.test`}, 'Ana Martins', ${role}, true)`);
      return id;
    },
    submit: (userId, document = {}, provider = 'manual') =>
      transact(as(userId), (unit) =>
        submitKyc(unit, { userId, submission: submission(document) }, { keyring, provider: PROVIDERS[provider] }),
      ),
    cancel: (userId) => transact(as(userId), (unit) => cancelKyc(unit, { userId })),
    decide: (reviewerId, input) => transact(as(reviewerId), (unit) => decideKyc(unit, input, keyring)),
    async place(userId, status, more = {}) {
      const id = newId();
      await query(sql`
        insert into kyc_attempts (id, user_id, status, provider, expires_on, created_at)
        values (${id}, ${userId}, ${status}, 'manual', ${more.expires_on ?? null}, clock_timestamp())`);
      return id;
    },
    async emitted(userId) {
      const rows = await query(sql<{ target: string; body: string }>`select target, body from outbox order by id`);
      return rows
        .map(({ target, body }) => ({ target, ...JSON.parse(body) }))
        .filter((message) => JSON.stringify(message).includes(userId))
        .map(({ target, type, sequence, data }) => ({ target, type, data, ...(sequence ? { sequence } : {}) }));
    },
    async close() {
      await database.close(true);
      await drop();
    },
  };
}

/** The problem that `work` was refused with; fails when it was not refused. */
export async function problemOf(work: Promise<unknown>): Promise<Problem> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Refusal) return error.problem;
    throw error;
  }
  throw new Error('nothing was refused');
}
