import type { EntityManager } from '@mikro-orm/postgresql';
import { type RawBuilder, sql } from 'kysely';
import { type RawRow, type Reference, readField, rowColumns } from './row.ts';
import type { AuditKeys } from './sealing.ts';
import { type SubjectKey, subjectKeys } from './subject-keys.ts';

export interface AuditFilter {
  /** Actor id. */
  actor?: string | undefined;
  /** Id of one of the targets. */
  target?: string | undefined;
  action?: string | undefined;
  operation_id?: string | undefined;
  /** RFC 3339; from this time on, itself included. */
  occurred_after?: string | undefined;
  /** RFC 3339; up to this time, itself excluded. */
  occurred_before?: string | undefined;
  /** 1 to 1000, 50 when absent. */
  limit?: number | undefined;
  cursor?: string | undefined;
}

type Value = string | number | boolean | null;

/**
 * A row for the reader. A personal field is in the clear, `[erased]` once the person was erased, `[unreadable]` when
 * its key cannot be opened, or `hmac:…` when nobody known was behind it.
 */
export interface AuditEntry {
  id: string;
  occurred_at: string;
  recorded_at: string;
  action: string;
  actor: { type: string; id: string | null };
  targets: Reference[];
  context: { ip: Value; user_agent: Value; request_id: string | null; operation_id: string | null };
  metadata: Record<string, Value>;
  outcome: string;
  tenant: string | null;
  checkpoint: number;
  leaf_index: number;
}

/** The cursor was not made by this list. */
export class InvalidCursor extends Error {
  override name = 'InvalidCursor';
}

const CURSOR = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

const encodeCursor = (row: RawRow) => Buffer.from(`${row.occurred_at} ${row.id}`).toString('base64url');

function decodeCursor(cursor: string): { occurred_at: string; id: string } {
  const [, occurred_at, id] = CURSOR.exec(Buffer.from(cursor, 'base64url').toString()) ?? [];
  if (!occurred_at || !id || Number.isNaN(Date.parse(occurred_at)))
    throw new InvalidCursor('not a cursor of this list');
  return { occurred_at, id };
}

function conditions(filter: AuditFilter): RawBuilder<unknown> {
  const all: RawBuilder<unknown>[] = [sql`true`];
  if (filter.actor !== undefined) all.push(sql`actor_id = ${filter.actor}`);
  if (filter.action !== undefined) all.push(sql`action = ${filter.action}`);
  if (filter.operation_id !== undefined) all.push(sql`operation_id = ${filter.operation_id}`);
  if (filter.occurred_after !== undefined) all.push(sql`occurred_at >= ${filter.occurred_after}::timestamptz`);
  if (filter.occurred_before !== undefined) all.push(sql`occurred_at < ${filter.occurred_before}::timestamptz`);
  if (filter.target !== undefined) all.push(sql`targets @> ${JSON.stringify([{ id: filter.target }])}::jsonb`);
  if (filter.cursor !== undefined) {
    const { occurred_at, id } = decodeCursor(filter.cursor);
    all.push(sql`(occurred_at, id) < (${occurred_at}::timestamptz, ${id}::uuid)`);
  }
  return sql.join(all, sql` and `);
}

async function page(em: EntityManager, filter: AuditFilter, limit: number): Promise<RawRow[]> {
  const where = conditions(filter);
  // Set apart, or the planner may walk the whole log by time in search of a rare target.
  const source = filter.target === undefined ? sql`audit_events` : sql`hits`;
  const hits =
    filter.target === undefined ? sql`` : sql`with hits as materialized (select * from audit_events where ${where})`;
  const { rows } = await sql<RawRow>`
    ${hits} select ${rowColumns} from ${source} e where ${filter.target === undefined ? where : sql`true`}
    order by e.occurred_at desc, e.id desc limit ${limit}`.execute(em.getKysely());
  return rows;
}

function entryOf(raw: RawRow, keys: Map<string, SubjectKey>): AuditEntry {
  const personal: Record<string, string> = JSON.parse(raw.personal);
  const key = raw.subject === null ? undefined : keys.get(raw.subject);
  const read = (field: string) => readField({ id: raw.id, subject: raw.subject, personal }, field, key);
  const metadata: AuditEntry['metadata'] = JSON.parse(raw.metadata);
  for (const field of Object.keys(personal)) {
    if (field.startsWith('metadata.')) metadata[field.slice('metadata.'.length)] = read(field);
  }
  return {
    id: raw.id,
    occurred_at: raw.occurred_at,
    recorded_at: raw.recorded_at,
    action: raw.action,
    actor: { type: raw.actor_type, id: raw.actor_id },
    targets: JSON.parse(raw.targets),
    context: {
      ip: read('context.ip'),
      user_agent: read('context.user_agent'),
      request_id: raw.request_id,
      operation_id: raw.operation_id,
    },
    metadata,
    outcome: raw.outcome,
    tenant: raw.tenant,
    checkpoint: Number(raw.checkpoint),
    leaf_index: raw.leaf_index,
  };
}

/** Rows that match, newest first. `next_cursor` is null on the last page. Throws InvalidCursor. */
export async function list(
  em: EntityManager,
  filter: AuditFilter,
  keys: AuditKeys,
): Promise<{ rows: AuditEntry[]; next_cursor: string | null }> {
  const limit = Math.min(1000, Math.max(1, Math.trunc(filter.limit ?? 50)));
  const found = await page(em, filter, limit + 1);
  const shown = found.slice(0, limit);
  const subjects = shown.map((row) => row.subject).filter((subject) => subject !== null);
  const opened = await subjectKeys(em, subjects, keys);
  const last = shown.at(-1);
  return {
    rows: shown.map((row) => entryOf(row, opened)),
    next_cursor: found.length > limit && last ? encodeCursor(last) : null,
  };
}
