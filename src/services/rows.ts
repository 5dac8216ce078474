import { type RawBuilder, sql } from 'kysely';

type Type = 'uuid' | 'text' | 'int' | 'timestamptz' | 'date' | 'bool' | 'bytea' | 'jsonb';

/**
 * Rows as a table of a query: `select … from ${tableOf(rows, { id: 'uuid', status: 'text' })} as r (id, status)`, one
 * array per column, whatever their number the same prepared statement. PostgreSQL takes a fifth less time for it than
 * for the same rows as JSON (500 deliveries and attempts, November 2026).
 */
export function tableOf<T>(rows: readonly T[], columns: { [Column in keyof T & string]?: Type }): RawBuilder<unknown> {
  const names = Object.keys(columns) as (keyof T & string)[];
  const arrays = names.map((name) => sql`${rows.map((row) => row[name] ?? null)}::${sql.raw(`${columns[name]}[]`)}`);
  return sql`unnest(${sql.join(arrays)})`;
}
