import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import {
  createDatabaseIfMissing,
  type Database,
  isContention,
  iso,
  isoOrNull,
  isTransient,
  migrateDown,
  migrateUp,
  migrationStatus,
  openDatabase,
} from '../../src/services/database.ts';
import { createProxy } from '../queues/proxy.ts';

describe('isTransient', () => {
  const coded = (code: unknown, message = '') => Object.assign(new Error(message), { code });

  test.each([
    ['08006', 'connection_failure'],
    ['08P01', 'protocol_violation'],
    ['53300', 'too_many_connections'],
    ['57P01', 'admin_shutdown'],
    ['57P03', 'cannot_connect_now'],
    ['57014', 'query_canceled, by statement_timeout'],
    ['40001', 'serialization_failure'],
    ['40P01', 'deadlock_detected'],
    ['55P03', 'lock_not_available'],
    ['25P03', 'idle_in_transaction_session_timeout'],
    ['ECONNREFUSED', 'connection refused'],
    ['ECONNRESET', 'connection reset'],
    ['EPIPE', 'broken pipe'],
    ['ETIMEDOUT', 'timed out'],
    ['ENOTFOUND', 'no such host'],
    ['EAI_AGAIN', 'resolver is away'],
    ['EHOSTUNREACH', 'no route'],
  ])('%s (%s) is', (code) => {
    expect(isTransient(coded(code))).toBe(true);
    expect(isTransient(new Error('outer', { cause: coded(code) }))).toBe(true);
  });

  test.each([
    'Connection terminated unexpectedly',
    'timeout exceeded when trying to connect',
    'Client has encountered a connection error and is not queryable',
  ])('%j is', (message) => expect(isTransient(new Error(message))).toBe(true));

  test.each<[unknown, string]>([
    ['23505', 'unique_violation'],
    ['23502', 'not_null_violation'],
    ['22P02', 'invalid_text_representation'],
    ['42P01', 'undefined_table'],
    [404, 'a status of another protocol'],
    ['4000', 'no SQLSTATE'],
    ['ENOENT', 'no such file'],
  ])('%s (%s) is not', (code) => {
    expect(isTransient(coded(code))).toBe(false);
  });

  test('nothing, a text and an error that is its own cause are not', () => {
    expect(isTransient(undefined)).toBe(false);
    expect(isTransient('08006')).toBe(false);
    const own = new Error('own');
    own.cause = own;
    expect(isTransient(own)).toBe(false);
  });
});

describe('isContention', () => {
  const coded = (code: string, cause?: unknown) => Object.assign(new Error('no', { cause }), { code });

  test.each([
    ['57014', 'query_canceled, by statement_timeout'],
    ['40001', 'serialization_failure'],
    ['40P01', 'deadlock_detected'],
    ['53200', 'out_of_memory'],
    ['55P03', 'lock_not_available'],
    ['25P03', 'idle_in_transaction_session_timeout'],
  ])('%s (%s) is, and transient', (code) => {
    expect(isContention(coded(code))).toBe(true);
    expect(isContention(coded('', coded(code)))).toBe(true);
    expect(isTransient(coded(code))).toBe(true);
  });

  test.each([
    ['53300', 'too_many_connections'],
    ['53000', 'insufficient_resources'],
    ['53100', 'disk_full'],
    ['08006', 'connection_failure'],
    ['57P01', 'admin_shutdown'],
    ['ECONNRESET', 'connection reset'],
    ['23505', 'unique_violation'],
  ])('%s (%s) is not', (code) => expect(isContention(coded(code))).toBe(false));

  test('nor is one on a connection that was lost, nor waiting for one', () => {
    expect(isContention(coded('57014', new Error('Connection terminated unexpectedly')))).toBe(false);
    expect(isContention(new Error('timeout exceeded when trying to connect'))).toBe(false);
    expect(isContention(undefined)).toBe(false);
  });
});

test.each([
  ['2026-11-01 10:00:00.123456+00', '2026-11-01T10:00:00.123Z'],
  ['2026-11-01 10:00:00+02', '2026-11-01T08:00:00.000Z'],
  [new Date(0), '1970-01-01T00:00:00.000Z'],
])('%j is %s', (value, text) => {
  expect(iso(value)).toBe(text);
  expect(isoOrNull(value)).toBe(text);
});

test('no time is null', () => {
  expect([isoOrNull(null), isoOrNull(undefined)]).toEqual([null, null]);
});

describe('a database', () => {
  const name = `wb_test_${randomBytes(6).toString('hex')}`;
  const url = new URL(inject('databaseUrl'));
  let admin: Database;
  beforeAll(async () => {
    url.pathname = '/postgres';
    admin = await openDatabase(url.toString(), { entities: [], poolSize: 1 });
    url.pathname = `/${name}`;
  });
  afterAll(async () => {
    await sql`drop database if exists ${sql.id(name)} with (force)`.execute(admin.em.fork().getKysely());
    await admin.close(true);
  });

  /** What exists in the schema beside the migrations table. */
  const objects = async (orm: Database) => {
    const { rows } = await sql<{ name: string }>`
      select relname as name from pg_class where relnamespace = 'public'::regnamespace and relname not like 'migrations%'
      union all select proname from pg_proc where pronamespace = 'public'::regnamespace`.execute(
      orm.em.fork().getKysely(),
    );
    return rows.map((row) => row.name);
  };

  test('is created once, also when several ask at the same time', async () => {
    const created = await Promise.all([1, 2, 3].map(() => createDatabaseIfMissing(url.toString())));
    expect(created.filter(Boolean)).toHaveLength(1);
    expect(await createDatabaseIfMissing(url.toString())).toBe(false);
  });

  test('is migrated once by processes that start at the same time, back by one, back to nothing and up again', async () => {
    const opened = await Promise.all([1, 2].map(() => openDatabase(url.toString(), { entities: [], poolSize: 3 })));
    const [one, two] = opened as [Database, Database];
    try {
      const before = await migrationStatus(one);
      expect(before.length).toBeGreaterThan(0);
      expect(before.every((migration) => migration.executedAt === null)).toBe(true);
      const steps: string[] = [];
      const done = await Promise.all([
        migrateUp(one, (step) => steps.push(step)),
        migrateUp(two, (step) => steps.push(step)),
      ]);
      expect(done.flat()).toEqual(before.map((migration) => migration.name));
      expect(steps).toEqual(done.flat());
      expect((await migrationStatus(two)).every((migration) => migration.executedAt !== null)).toBe(true);
      const full = (await objects(one)).sort();

      expect(await migrateDown(one)).toEqual(before.slice(-1).map((migration) => migration.name));
      expect(await migrateUp(two)).toEqual(before.slice(-1).map((migration) => migration.name));
      expect((await migrateDown(one, true)).sort()).toEqual(before.map((migration) => migration.name).sort());
      expect(await objects(one)).toEqual([]);
      await migrateUp(one);
      expect((await objects(one)).sort()).toEqual(full);
    } finally {
      for (const orm of opened) await orm.close(true);
    }
  });

  test('waits with a migration for whoever migrates', async () => {
    const orm = await openDatabase(url.toString(), { entities: [], poolSize: 3 });
    try {
      let migrating: Promise<unknown> = Promise.resolve();
      await orm.em.fork().transactional(async (em) => {
        await sql`select pg_advisory_xact_lock(7120001)`.execute(em.getKysely());
        migrating = migrateUp(orm);
        for (;;) {
          const { rows } = await sql`
            select 1 from pg_locks l join pg_database d on d.oid = l.database
            where d.datname = ${name} and l.locktype = 'advisory' and not l.granted`.execute(em.getKysely());
          if (rows.length > 0) break;
        }
      });
      await expect(migrating).resolves.toEqual([]);
    } finally {
      await orm.close(true);
    }
  });
});

test('a connection that is lost inside a transaction gives its place in the pool back', async () => {
  const orm = await openDatabase(inject('databaseUrl'), { entities: [], poolSize: 1 });
  const cutOff = () =>
    orm.em.fork().transactional(async (outer) =>
      outer.transactional(async (em) => {
        await sql`select pg_terminate_backend(pg_backend_pid())`.execute(em.getKysely());
      }),
    );
  for (let n = 0; n < 3; n += 1) await expect(cutOff()).rejects.toMatchObject({ code: '57P01' });
  const { rows } = await sql`select 1 as one`.execute(orm.em.fork().getKysely());
  expect(rows).toEqual([{ one: 1 }]);
  await orm.close(true);
});

test('so does one on which no transaction could begin', async () => {
  const proxy = await createProxy(inject('databaseUrl'));
  const orm = await openDatabase(proxy.url, { entities: [], poolSize: 1, silenceMs: 4000 });
  const one = () => orm.em.fork().transactional((em) => sql`select 1 as one`.execute(em.getKysely()));
  await one();
  proxy.mute();
  await expect(one()).rejects.toThrow(/Connection terminated/);
  proxy.open();
  expect((await one()).rows).toEqual([{ one: 1 }]);
  await orm.close(true);
  await proxy.close();
});
