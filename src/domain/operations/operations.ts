import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { iso, isoOrNull } from '../../services/database.ts';
import { tableOf } from '../../services/rows.ts';
import type { Problem } from '../problem.ts';

/** An operation as its row: what became of one command. */
export interface OperationRow {
  id: string;
  type: string;
  status: 'running' | 'succeeded' | 'failed';
  /** `user:<id>`, `api_key:<id>` or `anonymous`. */
  caller: string;
  requestId: string | null;
  result: unknown;
  /** The HTTP status of a waiting caller when it succeeded. */
  httpStatus: number | null;
  error: Problem | null;
  attempts: number;
  createdAt: string;
  startedAt: string | null;
  finishedAt: string | null;
}

interface Row {
  id: string;
  type: string;
  status: OperationRow['status'];
  caller: string;
  request_id: string | null;
  result: unknown;
  http_status: number | null;
  error: Problem | null;
  attempts: number;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

const fromRow = (row: Row): OperationRow => ({
  id: row.id,
  type: row.type,
  status: row.status,
  caller: row.caller,
  requestId: row.request_id,
  result: row.result,
  httpStatus: row.http_status,
  error: row.error,
  attempts: row.attempts,
  createdAt: iso(row.created_at),
  startedAt: isoOrNull(row.started_at),
  finishedAt: isoOrNull(row.finished_at),
});

export const findOperation = async (em: EntityManager, id: string): Promise<OperationRow | undefined> =>
  (await findOperations(em, [id])).values().next().value;

/** Those of the operations that have a row, by id. */
export async function findOperations(em: EntityManager, ids: string[]): Promise<Map<string, OperationRow>> {
  const { rows } = await sql<Row>`select * from operations where id = any(${ids}::uuid[])`.execute(em.getKysely());
  return new Map(rows.map((row) => [row.id, fromRow(row)]));
}

export interface OperationStart {
  id: string;
  type: string;
  caller: string;
  requestId: string | null;
  createdAt: Date;
  startedAt: Date;
}

/**
 * The operation row is a command's inbox: whoever creates or locks it owns the command for this transaction.
 * Returns the finished operation when the work was done before, `undefined` when it is ours to do.
 */
export async function claimOperation(em: EntityManager, start: OperationStart): Promise<OperationRow | undefined> {
  const { rows } = await sql<Row>`
    insert into operations (id, type, status, caller, request_id, created_at, started_at)
    values (${start.id}, ${start.type}, 'running', ${start.caller}, ${start.requestId}, ${start.createdAt}, ${start.startedAt})
    on conflict (id) do update set started_at = coalesce(operations.started_at, excluded.started_at)
    returning *`.execute(em.getKysely());
  const row = rows[0];
  return row && row.status !== 'running' ? fromRow(row) : undefined;
}

/** What a finished operation ends with. */
export type OperationEnd =
  | { status: 'succeeded'; result: unknown; httpStatus: number }
  | { status: 'failed'; error: Problem };

export async function finishOperation(
  em: EntityManager,
  id: string,
  end: OperationEnd,
  attempts: number,
): Promise<void> {
  const result = end.status === 'succeeded' ? JSON.stringify(end.result ?? null) : null;
  const error = end.status === 'failed' ? JSON.stringify(end.error) : null;
  await sql`
    update operations set status = ${end.status}, result = ${result}::jsonb, error = ${error}::jsonb,
      http_status = ${end.status === 'succeeded' ? end.httpStatus : null}, attempts = ${attempts}, finished_at = clock_timestamp()
    where id = ${id}`.execute(em.getKysely());
}

/**
 * Inserts operations that were begun and finished within this transaction, by their first attempt. Returns whether none
 * of them was there before: false means that another transaction has them, and this one must be taken back.
 */
export async function insertFinished(
  em: EntityManager,
  operations: readonly { start: OperationStart; end: OperationEnd }[],
): Promise<boolean> {
  if (operations.length === 0) return true;
  const rows = operations.map(({ start, end }) => ({
    ...start,
    status: end.status,
    result: end.status === 'succeeded' ? JSON.stringify(end.result ?? null) : null,
    error: end.status === 'failed' ? JSON.stringify(end.error) : null,
    httpStatus: end.status === 'succeeded' ? end.httpStatus : null,
  }));
  const { rows: inserted } = await sql`
    insert into operations (id, type, caller, request_id, created_at, started_at, status, result, error, http_status, attempts, finished_at)
    select o.*, 1, clock_timestamp() from ${tableOf(rows, {
      id: 'uuid',
      type: 'text',
      caller: 'text',
      requestId: 'text',
      createdAt: 'timestamptz',
      startedAt: 'timestamptz',
      status: 'text',
      result: 'jsonb',
      error: 'jsonb',
      httpStatus: 'int',
    })} as o
    on conflict (id) do nothing returning 1`.execute(em.getKysely());
  return inserted.length === rows.length;
}

/** Marks a try that failed and will be repeated; an operation that is finished stays as it is. */
export async function noteAttempt(em: EntityManager, start: OperationStart, attempts: number): Promise<void> {
  await sql`
    insert into operations (id, type, status, caller, request_id, attempts, created_at, started_at)
    values (${start.id}, ${start.type}, 'running', ${start.caller}, ${start.requestId}, ${attempts}, ${start.createdAt}, ${start.startedAt})
    on conflict (id) do update set attempts = greatest(operations.attempts, excluded.attempts) where operations.status = 'running'`.execute(
    em.getKysely(),
  );
}

/** An operation whose command ended in the dead letters has failed, whether or not a worker ever saw it. */
export async function failDeadOperation(
  em: EntityManager,
  start: OperationStart,
  error: Problem,
  attempts: number,
): Promise<void> {
  await sql`
    insert into operations (id, type, status, caller, request_id, attempts, created_at, started_at, error, finished_at)
    values (${start.id}, ${start.type}, 'failed', ${start.caller}, ${start.requestId}, ${attempts}, ${start.createdAt}, ${start.startedAt}, ${JSON.stringify(error)}::jsonb, clock_timestamp())
    on conflict (id) do update set status = 'failed', error = excluded.error, attempts = greatest(operations.attempts, excluded.attempts), finished_at = excluded.finished_at
    where operations.status = 'running'`.execute(em.getKysely());
}
