import type { EventEmitter } from 'node:events';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Migrator } from '@mikro-orm/migrations';
import { MikroORM, type Options } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
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
      onPoolCreated: (pool: EventEmitter) => pool.on('connect', preparing),
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

/** A connection error or a server shutting down: worth the same try again, unlike an error of the data. */
export function isTransient(error: unknown): boolean {
  let e = error as { code?: unknown; cause?: unknown; message?: unknown } | undefined;
  for (let depth = 0; e && depth < 10; depth++, e = e.cause as typeof e) {
    if (isStalePlan(e)) return true;
    const code = String(e.code ?? '');
    // SQLSTATE classes 08, 53, 57P and 40: connection, resources, shutdown, serialization and deadlock; 57014: a
    // statement that took too long, which is the load's fault more often than its own.
    if (/^(?:(?:08|53|40)[0-9A-Z]{3}|57P\d\d|57014|55P03|25P03)$/.test(code)) return true;
    if (['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH'].includes(code))
      return true;
    if (
      /Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error|connection error and is not queryable/i.test(
        String(e.message ?? ''),
      )
    )
      return true;
  }
  return false;
}
