import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Database, migrateDown, migrateUp, openDatabase } from '../../src/services/database.ts';
import { createTestDatabase } from '../harness.ts';

const FEWER_INDEXES = '20261101001700_fewer_indexes';
let orm: Database;
let drop: () => Promise<void>;
beforeEach(async () => {
  const created = await createTestDatabase();
  drop = created.drop;
  orm = await openDatabase(created.url, { entities: [], poolSize: 4 });
});
afterEach(async () => {
  await orm.close(true);
  await drop();
});

const db = () => orm.em.fork().getKysely();

/** Every index and constraint by name, with what it is and the file it lies in. */
async function schema(): Promise<{ definition: string; file?: string }[]> {
  const { rows } = await sql<{ definition: string; file: string }>`
    select pg_get_indexdef(indexrelid) as definition, pg_relation_filenode(indexrelid)::text as file
    from pg_index where indrelid in ('webhook_deliveries'::regclass, 'webhook_attempts'::regclass, 'events'::regclass)
    union all
    select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid), null
    from pg_constraint where conrelid in ('webhook_deliveries'::regclass, 'webhook_attempts'::regclass)
    order by 1`.execute(db());
  return rows;
}
const definitions = async () => (await schema()).map(({ definition }) => definition);
const fileOf = async (index: string) =>
  (await schema()).find(({ definition }) => definition.includes(` ${index} `))?.file;

async function takeBack(name: string): Promise<void> {
  for (;;) {
    const names = await migrateDown(orm);
    if (names.length === 0) throw new Error(`there is no ${name}`);
    if (names.some((each) => each.endsWith(name))) return;
  }
}

test('indexes that were built by hand before are taken over, and the schema is the same', async () => {
  const migrated = await definitions();
  await takeBack(FEWER_INDEXES);
  const before = await definitions();
  expect(before).not.toEqual(migrated);
  await sql`create unique index concurrently webhook_deliveries_event_id_endpoint_id_key
    on webhook_deliveries (event_id, endpoint_id)`.execute(db());
  await sql`create unique index concurrently webhook_attempts_nth on webhook_attempts (delivery_id, number)`.execute(
    db(),
  );
  const built = [await fileOf('webhook_deliveries_event_id_endpoint_id_key'), await fileOf('webhook_attempts_nth')];
  expect(built).toEqual([expect.any(String), expect.any(String)]);
  await migrateUp(orm);
  expect(await definitions()).toEqual(migrated);
  expect([await fileOf('webhook_deliveries_event_id_endpoint_id_key'), await fileOf('webhook_attempts_pkey')]).toEqual(
    built,
  );
  await takeBack(FEWER_INDEXES);
  expect(await definitions()).toEqual(before);
});

test('a migration does not wait long for a table in use, leaves nothing behind, and can be run again', async () => {
  const migrated = await definitions();
  await takeBack(FEWER_INDEXES);
  const before = await definitions();
  await orm.em.fork().transactional(async (em) => {
    await sql`lock table webhook_attempts in row exclusive mode`.execute(em.getKysely());
    await expect(migrateUp(orm)).rejects.toThrow(/lock timeout/);
  });
  expect(await definitions()).toEqual(before);
  await migrateUp(orm);
  expect(await definitions()).toEqual(migrated);
}, 60_000);
