import { sql } from 'kysely';
import { beyond, type Page, pageOf, positionColumn } from '../domain/cursor.ts';
import { refuse } from '../domain/problem.ts';
import { type EntityManager, iso, isoOrNull } from '../services/database.ts';
import type { Cause } from './waiting.ts';

export const DELIVERY_STATUSES = ['pending', 'delivered', 'failed', 'held'] as const;
export const CAUSES = ['schedule', 'manual', 'recover', 'test'] as const satisfies readonly Cause[];
export type DeliveryStatus = (typeof DELIVERY_STATUSES)[number];

/** A delivery as the API shows it. */
export interface DeliveryRecord {
  id: string;
  event_id: string;
  endpoint_id: string;
  event_type: string;
  status: DeliveryStatus;
  /** Why it waits, is held or failed; null once it was delivered. */
  reason: string | null;
  attempt_count: number;
  /** Null unless it is pending. */
  next_attempt_at: string | null;
  delivered_at: string | null;
  created_at: string;
}

export interface AttemptRecord {
  id: string;
  /** From 1. */
  number: number;
  started_at: string;
  duration_ms: number;
  /** Null when no answer came. */
  status_code: number | null;
  /** A word such as `timeout`; null when an answer came whole. */
  error: string | null;
  /** At most 16 KiB of the answer. */
  response_body: string | null;
  /** Why it was made. */
  cause: Cause;
}

export interface DeliveryWithAttempts extends DeliveryRecord {
  attempts: AttemptRecord[];
}

export interface DeliveryFilter {
  endpoint_id?: string | undefined;
  status?: DeliveryStatus | undefined;
  event_type?: string | undefined;
  event_id?: string | undefined;
  /** The whole reason. */
  reason?: string | undefined;
  limit: number;
  cursor?: string | undefined;
}

interface Row extends Omit<DeliveryRecord, 'attempt_count'> {
  attempts: number;
}

const COLUMNS = sql`id, event_id, endpoint_id, event_type, status, reason, attempts, next_attempt_at, delivered_at, created_at`;

/** Deliveries of one event that its page shows at most. */
const MAX_OF_EVENT = 1000;

/** A tenant's deliveries, the newest first. Refuses with VALIDATION_ERROR a cursor of another list. */
export async function listDeliveries(
  em: EntityManager,
  tenant: string,
  filter: DeliveryFilter,
): Promise<Page<DeliveryRecord>> {
  const where = [sql`tenant = ${tenant}`];
  if (filter.endpoint_id !== undefined) where.push(sql`endpoint_id = ${filter.endpoint_id}`);
  if (filter.status !== undefined) where.push(sql`status = ${filter.status}`);
  if (filter.event_type !== undefined) where.push(sql`event_type = ${filter.event_type}`);
  if (filter.event_id !== undefined) where.push(sql`event_id = ${filter.event_id}`);
  if (filter.reason !== undefined) where.push(sql`reason = ${filter.reason}`);
  if (filter.cursor !== undefined) where.push(beyond(filter.cursor));
  const { rows } = await sql<Row & { position: string }>`
    select ${COLUMNS}, ${positionColumn} from webhook_deliveries where ${sql.join(where, sql` and `)}
    order by created_at desc, id desc limit ${filter.limit + 1}`.execute(em.getKysely());
  return pageOf(rows, filter.limit, view);
}

/** One delivery with every attempt, in their order. Refuses with NOT_FOUND another tenant's. */
export async function getDelivery(em: EntityManager, tenant: string, id: string): Promise<DeliveryWithAttempts> {
  const { rows } = await sql<Row>`
    select ${COLUMNS} from webhook_deliveries where id = ${id} and tenant = ${tenant}`.execute(em.getKysely());
  const [delivery] = await withAttempts(em, rows);
  return delivery ?? refuse('NOT_FOUND', 'there is no such delivery');
}

/** One delivery without its attempts. Refuses with NOT_FOUND another tenant's. */
export async function deliveryById(em: EntityManager, tenant: string, id: string): Promise<DeliveryRecord> {
  const { rows } = await sql<Row>`
    select ${COLUMNS} from webhook_deliveries where id = ${id} and tenant = ${tenant}`.execute(em.getKysely());
  return view(rows[0] ?? refuse('NOT_FOUND', 'there is no such delivery'));
}

/** What became of one event: its deliveries with their attempts, the oldest first, at most 1,000. */
export async function eventDeliveries(
  em: EntityManager,
  tenant: string,
  eventId: string,
): Promise<DeliveryWithAttempts[]> {
  const { rows } = await sql<Row>`
    select ${COLUMNS} from webhook_deliveries where event_id = ${eventId} and tenant = ${tenant}
    order by created_at, id limit ${MAX_OF_EVENT}`.execute(em.getKysely());
  return withAttempts(em, rows);
}

async function withAttempts(em: EntityManager, deliveries: Row[]): Promise<DeliveryWithAttempts[]> {
  if (deliveries.length === 0) return [];
  const { rows } = await sql<AttemptRecord & { delivery_id: string }>`
    select id, delivery_id, number, started_at, duration_ms, status_code, error, response_body, cause from webhook_attempts
    where delivery_id = any(${deliveries.map(({ id }) => id)}::uuid[]) order by delivery_id, number`.execute(
    em.getKysely(),
  );
  const byDelivery = Map.groupBy(rows, (row) => row.delivery_id);
  return deliveries.map((row) => ({
    ...view(row),
    attempts: (byDelivery.get(row.id) ?? []).map(({ delivery_id, ...attempt }) => ({
      ...attempt,
      started_at: iso(attempt.started_at),
    })),
  }));
}

const view = (row: Row): DeliveryRecord => ({
  id: row.id,
  event_id: row.event_id,
  endpoint_id: row.endpoint_id,
  event_type: row.event_type,
  status: row.status,
  reason: row.reason,
  attempt_count: row.attempts,
  next_attempt_at: row.status === 'pending' ? isoOrNull(row.next_attempt_at) : null,
  delivered_at: isoOrNull(row.delivered_at),
  created_at: iso(row.created_at),
});
