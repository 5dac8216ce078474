import { type RawBuilder, sql } from 'kysely';
import { type EntityManager, iso, isoOrNull } from '../../services/database.ts';
import { beyond, type Page, pageOf, positionColumn } from '../cursor.ts';
import { refuse } from '../problem.ts';

export const DEAD_LETTER_STATUSES = ['dead', 'replayed', 'discarded'] as const;
export type DeadLetterStatus = (typeof DEAD_LETTER_STATUSES)[number];

/** A dead letter as an operator sees it in a list. */
export interface DeadLetterRecord {
  id: string;
  /** Where it died, and where a replay brings it. */
  queue: string;
  worker: string | null;
  message_type: string | null;
  message_id: string | null;
  /** The operation, or the request, that it belongs to. */
  operation_id: string | null;
  reason: string;
  attempts: number;
  first_error: string | null;
  last_error: string | null;
  status: DeadLetterStatus;
  created_at: string;
  /** When it was replayed or discarded. */
  resolved_at: string | null;
}

export interface DeadLetterDetail extends DeadLetterRecord {
  headers: Record<string, unknown>;
  /** Parsed when it is JSON, else text; what is sealed stays sealed. */
  body: unknown;
  body_bytes: number;
  /** Only the first 256 KiB are shown, as text. */
  body_truncated: boolean;
}

/** Which dead letters; every condition that is given must hold. */
export interface DeadLetterFilter {
  queue?: string | undefined;
  worker?: string | undefined;
  type?: string | undefined;
  /** A part of the reason, whatever its case. */
  reason?: string | undefined;
  message_id?: string | undefined;
  correlation_id?: string | undefined;
  /** RFC 3339, itself included. */
  created_after?: string | undefined;
  /** RFC 3339, itself excluded. */
  created_before?: string | undefined;
}

export type DeadLetterRow = Omit<DeadLetterRecord, 'operation_id'> & { correlation_id: string | null };

export const DEAD_LETTER_COLUMNS = sql`id, queue, worker, message_type, message_id, correlation_id, reason, attempts,
  first_error, last_error, status, created_at, resolved_at`;

const SHOWN_BYTES = 256 * 1024;

export const deadLetterRecord = (row: DeadLetterRow): DeadLetterRecord => ({
  id: row.id,
  queue: row.queue,
  worker: row.worker,
  message_type: row.message_type,
  message_id: row.message_id,
  operation_id: row.correlation_id,
  reason: row.reason,
  attempts: row.attempts,
  first_error: row.first_error,
  last_error: row.last_error,
  status: row.status,
  created_at: iso(row.created_at),
  resolved_at: isoOrNull(row.resolved_at),
});

function conditions(filter: DeadLetterFilter, status: DeadLetterStatus): RawBuilder<unknown>[] {
  const all: RawBuilder<unknown>[] = [sql`status = ${status}`];
  if (filter.queue !== undefined) all.push(sql`queue = ${filter.queue}`);
  if (filter.worker !== undefined) all.push(sql`worker = ${filter.worker}`);
  if (filter.type !== undefined) all.push(sql`message_type = ${filter.type}`);
  if (filter.reason !== undefined) all.push(sql`position(lower(${filter.reason}) in lower(reason)) > 0`);
  if (filter.message_id !== undefined) all.push(sql`message_id = ${filter.message_id}`);
  if (filter.correlation_id !== undefined) all.push(sql`correlation_id = ${filter.correlation_id}`);
  if (filter.created_after !== undefined) all.push(sql`created_at >= ${new Date(filter.created_after)}`);
  if (filter.created_before !== undefined) all.push(sql`created_at < ${new Date(filter.created_before)}`);
  return all;
}

/** The newest first. Refuses with VALIDATION_ERROR a cursor of another list. */
export async function listDeadLetters(
  em: EntityManager,
  filter: DeadLetterFilter,
  page: { status: DeadLetterStatus; limit: number; cursor?: string | undefined },
): Promise<Page<DeadLetterRecord>> {
  const where = conditions(filter, page.status);
  if (page.cursor !== undefined) where.push(beyond(page.cursor));
  const { rows } = await sql<DeadLetterRow & { position: string }>`
    select ${DEAD_LETTER_COLUMNS}, ${positionColumn} from dead_letters where ${sql.join(where, sql` and `)}
    order by created_at desc, id desc limit ${page.limit + 1}`.execute(em.getKysely());
  return pageOf(rows, page.limit, deadLetterRecord);
}

/** One with its message. Refuses with NOT_FOUND. */
export async function getDeadLetter(em: EntityManager, id: string): Promise<DeadLetterDetail> {
  const { rows } = await sql<DeadLetterRow & { headers: Record<string, unknown>; body: Buffer; bytes: number }>`
    select ${DEAD_LETTER_COLUMNS}, headers, substring(body from 1 for ${SHOWN_BYTES}::int) as body, length(body) as bytes
    from dead_letters where id = ${id}`.execute(em.getKysely());
  const row = rows[0];
  if (!row) return refuse('NOT_FOUND', 'there is no such dead letter');
  const truncated = row.bytes > row.body.length;
  return {
    ...deadLetterRecord(row),
    headers: row.headers,
    body: truncated ? row.body.toString('utf8') : parsed(row.body),
    body_bytes: row.bytes,
    body_truncated: truncated,
  };
}

function parsed(body: Buffer): unknown {
  const text = body.toString('utf8');
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** The ids of those that wait for a decision, the oldest first, at most `limit`, and how many there are in all. */
export async function matchDeadLetters(
  em: EntityManager,
  filter: DeadLetterFilter,
  limit: number,
): Promise<{ ids: string[]; matched: number }> {
  const where = sql.join(conditions(filter, 'dead'), sql` and `);
  const db = em.getKysely();
  const [ids, count] = await Promise.all([
    sql<{ id: string }>`select id from dead_letters where ${where} order by created_at, id limit ${limit}`.execute(db),
    sql<{ n: string }>`select count(*) as n from dead_letters where ${where}`.execute(db),
  ]);
  return { ids: ids.rows.map((row) => row.id), matched: Number(count.rows[0]?.n ?? 0) };
}
