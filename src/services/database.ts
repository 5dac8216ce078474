import type { EventEmitter } from 'node:events';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Migrator } from '@mikro-orm/migrations';
import { MikroORM, type Options } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { releasable } from './lost-connection.ts';
import { isStalePlan, preparing } from './prepared.ts';

export type { EntityManager } from '@mikro-orm/postgresql';

/** Any two processes that migrate one database at once wait for each other on this advisory lock. */
const MIGRATION_LOCK = 7_120_001;

export type Database = MikroORM;
/** What the ORM maps; `[]` for a connection that only runs SQL. */
export type Entities = NonNullable<Options['entities']>;

/**
 * Opens a pool on `url`. Nothing connects before the first query. `silenceMs`: a connection on which PostgreSQL has not
 * said a word for so long is given up, and no statement may take as long. Without it a query to a server that vanished
 * waits for TCP, a quarter of an hour, and soon every connection of the pool does.
 */
export async function openDatabase(
  url: string,
  options: { entities: Entities; poolSize?: number; applicationName?: string; silenceMs?: number },
): Promise<Database> {
  return MikroORM.init({
    clientUrl: url,
    entities: options.entities,
    extensions: [Migrator],
    pool: { min: 0, max: options.poolSize ?? 20, idleTimeoutMillis: 10_000 },
    driverOptions: {
      connectionTimeoutMillis: 5000,
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      statement_timeout: options.silenceMs ? options.silenceMs - 3000 : 300_000,
      idle_in_transaction_session_timeout: 60_000,
      application_name: options.applicationName ?? 'waybill',
      ...(options.silenceMs ? { stream: () => impatientSocket(options.silenceMs) } : {}),
      onPoolCreated: (pool: EventEmitter) => pool.on('connect', preparing).on('connect', releasable),
    },
    migrations: {
      path: fileURLToPath(new URL('../../migrations', import.meta.url)),
      glob: '!(*.d).{js,ts}',
      tableName: 'migrations',
      snapshot: false,
      allOrNothing: false,
    },
    logger: () => undefined,
    discovery: { warnWhenNoEntities: false },
  });
}

/** A socket that ends when nothing was said on it for `silenceMs`. */
function impatientSocket(silenceMs = 0): Socket {
  const socket = new Socket();
  return socket.setTimeout(silenceMs, () =>
    socket.destroy(new Error(`Connection terminated: PostgreSQL was silent for ${silenceMs} ms`)),
  );
}

/** Creates the database that `url` names when the server does not have it yet. Returns whether it did. */
export async function createDatabaseIfMissing(url: string): Promise<boolean> {
  const target = new URL(url);
  const name = decodeURIComponent(target.pathname.slice(1));
  target.pathname = '/postgres';
  const orm = await openDatabase(target.toString(), { entities: [], poolSize: 1 });
  try {
    const em = orm.em.fork();
    const { rows } = await sql`select 1 from pg_database where datname = ${name}`.execute(em.getKysely());
    if (rows.length > 0) return false;
    try {
      await sql`create database ${sql.id(name)}`.execute(em.getKysely());
      return true;
    } catch (error) {
      // Two processes starting at once: 42P04 duplicate_database, 23505 when they meet inside the catalogue.
      if (['42P04', '23505'].includes((error as { code?: string }).code ?? '')) return false;
      throw error;
    }
  } finally {
    await orm.close(true);
  }
}

export interface MigrationState {
  name: string;
  executedAt: string | null;
}

/** Runs pending migrations under an advisory lock; returns their names. `step` hears of each before it runs. */
export async function migrateUp(orm: Database, step: (name: string) => void = () => undefined): Promise<string[]> {
  return underMigrationLock(orm, async () => {
    const done: string[] = [];
    for (const { name } of await orm.migrator.getPending()) {
      step(name);
      await orm.migrator.up({ migrations: [name] });
      done.push(name);
    }
    return done;
  });
}

/** Takes the newest migration back, or all with `everything`; returns the names. */
export async function migrateDown(orm: Database, everything = false): Promise<string[]> {
  return underMigrationLock(orm, async () => {
    const done = await orm.migrator.down(everything ? { to: 0 } : undefined);
    return done.map((m) => m.name);
  });
}

/** Every migration with the time it ran, oldest first. */
export async function migrationStatus(orm: Database): Promise<MigrationState[]> {
  const executed = await orm.migrator.getExecuted();
  const pending = await orm.migrator.getPending();
  return [
    ...executed.map((row) => ({ name: row.name, executedAt: iso(row.executed_at) })),
    ...pending.map(({ name }) => ({ name, executedAt: null })),
  ];
}

async function underMigrationLock<T>(orm: Database, work: () => Promise<T>): Promise<T> {
  // The lock lives on a transaction of its own, so that a process that dies lets it go.
  return orm.em.fork().transactional(async (em) => {
    await sql`set local idle_in_transaction_session_timeout = 0`.execute(em.getKysely());
    await sql`set local statement_timeout = '300s'`.execute(em.getKysely());
    await sql`select pg_advisory_xact_lock(${MIGRATION_LOCK})`.execute(em.getKysely());
    return work();
  });
}

/** PostgreSQL's text (or a Date) as RFC 3339 UTC with milliseconds. */
export function iso(value: string | Date): string {
  return (value instanceof Date ? value : new Date(value)).toISOString();
}

/** `iso` for columns that may be null. */
export function isoOrNull(value: string | Date | null | undefined): string | null {
  return value == null ? null : iso(value);
}

/** SQLSTATE classes 08 and 57P, and of 53 what stops everybody: the server is away, shuts down or takes nobody in. */
const OUT_OF_REACH = /^(?:08[0-9A-Z]{3}|57P\d\d|53000|53100|53300)$/;
/**
 * 40: serialization and deadlock; of 53 memory and limits; 57014: a statement that took too long; 55P03: a lock
 * that was not to be had; 25P03: a transaction that stood still.
 */
const CONTENTION = /^(?:40[0-9A-Z]{3}|53[0-9A-Z]{3}|57014|55P03|25P03)$/;
const UNREACHED = ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH'];
const UNREACHED_TEXT =
  /Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error|connection error and is not queryable/i;

/** Worth the same try again, unlike an error of the data: PostgreSQL was out of reach, or the statement lost against others. */
export function isTransient(error: unknown): boolean {
  return chain(error).some((e) => isUnreached(e) || CONTENTION.test(codeOf(e)));
}

/**
 * Transient, and yet perhaps the statement's own doing, which then fails so each time: it took too long, lost a deadlock,
 * waited in vain for a lock or asked for too much. The server itself answered, which it does not while it is away.
 */
export function isContention(error: unknown): boolean {
  const errors = chain(error);
  return errors.some((e) => CONTENTION.test(codeOf(e))) && !errors.some(isUnreached);
}

type Failure = { code?: unknown; cause?: unknown; message?: unknown };

/** An error and its causes, ten at most: one may be its own. */
function chain(error: unknown): Failure[] {
  const errors: Failure[] = [];
  for (let e = error as Failure | undefined; e && errors.length < 10; e = e.cause as Failure | undefined)
    errors.push(e);
  return errors;
}

const codeOf = ({ code }: Failure): string => String(code ?? '');

const isUnreached = (e: Failure): boolean =>
  isStalePlan(e) ||
  OUT_OF_REACH.test(codeOf(e)) ||
  UNREACHED.includes(codeOf(e)) ||
  UNREACHED_TEXT.test(String(e.message ?? ''));
