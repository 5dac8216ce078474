import { type RawBuilder, sql } from 'kysely';
import { isUuid } from './ids.ts';
import { refuse } from './problem.ts';

/** One page of a list that is ordered by `(created_at, id)`, the newest first. */
export interface Page<T> {
  rows: T[];
  nextCursor: string | null;
}

/** Select it as `position`: the exact place of a row, in the microseconds of PostgreSQL that a `Date` would cut off. */
export const positionColumn = sql<string>`to_char(created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as position`;

/** The condition for rows beyond the cursor. Refuses with VALIDATION_ERROR a text that `pageOf` did not make. */
export function beyond(cursor: string): RawBuilder<boolean> {
  const [at = '', id = ''] = Buffer.from(cursor, 'base64url').toString().split(' ');
  if (!isMoment(at) || !isUuid(id)) refuse('VALIDATION_ERROR', 'cursor is not one of this list', { field: 'cursor' });
  return sql<boolean>`(created_at, id) < (${at}::timestamptz, ${id}::uuid)`;
}

/** Makes a page of `limit` out of up to `limit + 1` rows. */
export function pageOf<R extends { id: string; position: string }, T>(
  found: R[],
  limit: number,
  view: (row: R) => T,
): Page<T> {
  const shown = found.slice(0, limit);
  const last = shown.at(-1);
  const more = found.length > limit && last !== undefined;
  return {
    rows: shown.map(view),
    nextCursor: more ? Buffer.from(`${last.position} ${last.id}`).toString('base64url') : null,
  };
}

/** A day or an hour that does not exist would be an error of PostgreSQL. */
function isMoment(text: string): boolean {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/.test(text)) return false;
  const at = Date.parse(text);
  return at >= 0 && new Date(at).toISOString().startsWith(text.slice(0, 19));
}
