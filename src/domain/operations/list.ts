import { type RawBuilder, sql } from 'kysely';
import { type EntityManager, iso, isoOrNull } from '../../services/database.ts';
import type { IssuedId } from '../ids.ts';
import type { Problem } from '../problem.ts';
import type { OperationRow } from './operations.ts';

export const OPERATION_STATUSES = ['accepted', 'running', 'succeeded', 'failed'] as const;

/** An operation as its caller sees it (product contract, "Commands"). */
export interface OperationRecord {
  operation_id: string;
  /** `null` while nothing is known but its id, and the id does not tell. */
  type: string | null;
  status: (typeof OPERATION_STATUSES)[number];
  result?: unknown;
  error?: Problem;
  created_at: string;
  started_at?: string;
  finished_at?: string;
}

export const operationRecord = (row: OperationRow): OperationRecord => ({
  operation_id: row.id,
  type: row.type,
  status: row.status,
  ...(row.status === 'succeeded' ? { result: row.result ?? null } : {}),
  ...(row.status === 'failed' && row.error ? { error: row.error } : {}),
  created_at: row.createdAt,
  ...(row.startedAt ? { started_at: row.startedAt } : {}),
  ...(row.finishedAt ? { finished_at: row.finishedAt } : {}),
});

/** The same without the time that a worker took: whole seconds after `created_at`, rounded up. */
export function discreetRecord(row: OperationRow): OperationRecord {
  const { started_at, finished_at, ...rest } = operationRecord(row);
  if (finished_at === undefined) return rest;
  const created = Date.parse(row.createdAt);
  const seconds = Math.max(1, Math.ceil((Date.parse(finished_at) - created) / 1000));
  return { ...rest, finished_at: new Date(created + seconds * 1000).toISOString() };
}

/** An operation that was issued and that no worker has written of yet. */
export const acceptedRecord = (id: string, issued: IssuedId | undefined): OperationRecord => ({
  operation_id: id,
  type: issued?.type ?? null,
  status: 'accepted',
  created_at: new Date(issued?.at ?? 0).toISOString(),
});

/** An operation as those who run the platform see it in a list; its result is asked for one by one. */
export interface OperationSummary {
  operation_id: string;
  type: string;
  status: OperationRow['status'];
  /** `user:<id>`, `api_key:<id>` or `anonymous`. */
  caller: string;
  request_id: string | null;
  attempts: number;
  error: Problem | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

type Row = Omit<OperationSummary, 'operation_id'> & { id: string };

export interface OperationFilter {
  type?: string | undefined;
  status?: OperationRow['status'] | undefined;
  caller?: string | undefined;
}

/** Newest first: at most `limit` operations older than the operation `before`. Ids hold the time of issue, so they sort by age. */
export async function listOperations(
  em: EntityManager,
  filter: OperationFilter,
  limit: number,
  before?: string,
): Promise<OperationSummary[]> {
  const where: RawBuilder<unknown>[] = [sql`true`];
  if (filter.type) where.push(sql`type = ${filter.type}`);
  if (filter.status) where.push(sql`status = ${filter.status}`);
  if (filter.caller) where.push(sql`caller = ${filter.caller}`);
  if (before) where.push(sql`id < ${before}`);
  const { rows } = await sql<Row>`
    select id, type, status, caller, request_id, attempts, error, created_at, started_at, finished_at
    from operations where ${sql.join(where, sql` and `)} order by id desc limit ${limit}`.execute(em.getKysely());
  return rows.map(({ id, ...row }) => ({
    operation_id: id,
    ...row,
    created_at: iso(row.created_at),
    started_at: isoOrNull(row.started_at),
    finished_at: isoOrNull(row.finished_at),
  }));
}
