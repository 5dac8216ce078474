import { readFileSync } from 'node:fs';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PAGE, REFERENCES, renderErd, tables, withErd } from '../../scripts/erd.ts';
import { type Database, openDatabase } from '../../src/services/database.ts';
import { createTestDatabase } from '../harness.ts';

describe('docs/database.md', () => {
  test('shows the entities as they are', async () => {
    const page = readFileSync(PAGE, 'utf8');
    expect(page).toBe(withErd(page, await renderErd()));
  });

  test('is written between the markers alone', () => {
    const page = 'before\n<!-- erd:begin (node scripts/erd.ts) -->\nold\n<!-- erd:end -->\nafter\n';
    expect(withErd(page, 'new')).toBe(
      'before\n<!-- erd:begin (node scripts/erd.ts) -->\n\nnew\n\n<!-- erd:end -->\nafter\n',
    );
    expect(() => withErd('no markers', 'new')).toThrow('the page has no');
  });
});

describe('the migrated database and the entities', () => {
  let orm: Database;
  let drop: () => Promise<void>;
  beforeAll(async () => {
    const created = await createTestDatabase();
    drop = created.drop;
    orm = await openDatabase(created.url, { entities: [], poolSize: 2 });
  });
  afterAll(async () => {
    await orm.close(true);
    await drop();
  });
  const db = () => orm.em.fork().getKysely();

  test('have the same tables and columns, of the same types and nullability', async () => {
    const { rows } = await sql<{ column: string }>`
      select format('%s.%s %s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                    case when a.attnotnull then '' else ' null' end) as column
      from pg_attribute a join pg_class c on c.oid = a.attrelid
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
        and a.attnum > 0 and not a.attisdropped and c.relname <> 'migrations'`.execute(db());
    const mapped = (await tables()).flatMap((table) =>
      table.props.map((property) => {
        const type = property.columnTypes[0] ?? '';
        return `${table.tableName}.${property.fieldNames[0]} ${canonical(type)}${property.nullable ? ' null' : ''}`;
      }),
    );
    const inDatabase = rows.map((row) => row.column);
    expect({ unmapped: missing(inDatabase, mapped), unmigrated: missing(mapped, inDatabase) }).toEqual({
      unmapped: [],
      unmigrated: [],
    });
  });

  test('have the same references', async () => {
    const { rows } = await sql<{ reference: string }>`
      select format('%s.%s -> %s', k.conrelid::regclass, a.attname, k.confrelid::regclass) as reference
      from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
      where k.contype = 'f'`.execute(db());
    const mapped = (await tables()).flatMap((table) =>
      table.props
        .filter((property) => property.targetMeta)
        .map((property) => `${table.tableName}.${property.fieldNames[0]} -> ${property.targetMeta?.tableName}`),
    );
    const unmapped = Object.entries(REFERENCES).map(([column, table]) => `${column} -> ${table}`);
    const inDatabase = rows.map((row) => row.reference);
    expect(missing(mapped, inDatabase)).toEqual([]);
    expect(missing(inDatabase, [...mapped, ...unmapped])).toEqual([]);
  });

  test('have every reference that the diagrams draw', async () => {
    const columns = (await tables()).flatMap((table) =>
      table.props.map((property) => `${table.tableName}.${property.fieldNames[0]}`),
    );
    expect(missing(Object.keys(REFERENCES), columns)).toEqual([]);
    const names = (await tables()).map((table) => table.tableName);
    expect(missing(Object.values(REFERENCES), names)).toEqual([]);
  });
});

const missing = (wanted: string[], present: string[]) => wanted.filter((name) => !present.includes(name));

/** The ORM's name of a type as PostgreSQL prints it. */
function canonical(type: string): string {
  const timestamp = /^timestamptz(\(\d\))?$/.exec(type);
  if (timestamp) return `timestamp${timestamp[1] ?? ''} with time zone`;
  return type === 'int' ? 'integer' : type;
}
