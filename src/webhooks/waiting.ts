import { sql } from 'kysely';
import type { Alarm } from '../domain/messages/emit.ts';
import { type EntityManager, iso } from '../services/database.ts';
import { BUSY } from './holds.ts';
import { type LineKey, lockLines, mustWait } from './order.ts';
import type { Pulled } from './pump.ts';

/** Why an attempt is made: by its schedule, by hand, to recover a stretch of time, as a test. */
export type Cause = 'schedule' | 'manual' | 'recover' | 'test';

/** A delivery whose time has come, claimed for this process, with its event's exact payload. */
export interface Due {
  id: string;
  endpointId: string;
  tenant: string;
  eventId: string;
  eventType: string;
  payload: string;
  correlation: string | null;
  attempts: number;
  generation: number;
  cause: Cause;
  /** Attempts that were made before its present schedule began. */
  scheduleFrom: number;
  /** `lease_until` as this claim has set it, by which its result knows the row; absent while there is no row. */
  lease?: string;
}

/** What an attempt may take beyond its endpoint's timeout: signing, and the commit of its result. */
export const LEASE_MARGIN_MS = 10_000;

/** What must be known of a waiting delivery before it is claimed. */
export interface Waiting {
  endpointId: string;
  line: LineKey | undefined;
  cause: Cause;
  /** It waits for its endpoint to have room. */
  parked: boolean;
}

/** `undefined` when there is nothing to wait for. */
export async function findWaiting(em: EntityManager, id: string): Promise<Waiting | undefined> {
  const { rows } = await sql<{ endpoint_id: string; ordering_key: string | null; cause: Cause; parked: boolean }>`
    select endpoint_id, ordering_key, cause, reason is not distinct from ${BUSY} as parked from webhook_deliveries
    where id = ${id} and status = 'pending' and next_attempt_at is not null`.execute(em.getKysely());
  const [row] = rows;
  if (!row) return undefined;
  const { endpoint_id: endpointId, ordering_key: orderingKey, cause, parked } = row;
  return { endpointId, line: orderingKey === null ? undefined : { endpointId, orderingKey }, cause, parked };
}

/** `claimDue` for a delivery that keeps an order: it is claimed only when its turn has come. */
export function claimInOrder(
  em: EntityManager,
  id: string,
  line: LineKey,
  timeoutMs: number,
): Promise<Due | { again: Alarm[] } | undefined> {
  return em.transactional(async (tx) => {
    await lockLines(tx, [line]);
    const heads = await mustWait(tx, line, id);
    return heads ? { again: heads } : claimDue(tx, id, timeoutMs);
  });
}

/**
 * Claims a row when it is due and nobody has it: `lease_until` then keeps other processes off it. `undefined` when
 * there is nothing to do any more; `{ again }` when it is leased or not due yet: the alarms to set instead, under a new
 * generation, since the alarm that rang still has the old job id.
 */
export async function claimDue(
  em: EntityManager,
  id: string,
  timeoutMs: number,
): Promise<Due | { again: Alarm[] } | undefined> {
  const db = em.getKysely();
  const { rows } = await sql<ClaimedRow>`
    update webhook_deliveries d set lease_until = now() + ${timeoutMs + LEASE_MARGIN_MS} * interval '1 ms'
    from events e
    where d.id = ${id} and d.status = 'pending' and (d.next_attempt_at <= now() + interval '1 second' or d.reason = ${BUSY})
      and (d.lease_until is null or d.lease_until < now()) and e.tenant = d.tenant and e.id = d.event_id
    returning ${CLAIMED}`.execute(db);
  const row = rows[0];
  if (row) return dueOf(row);
  const later = await sql<Later>`
    update webhook_deliveries set generation = generation + 1
    where id = ${id} and status = 'pending' and greatest(next_attempt_at, lease_until) > now()
    returning attempts, generation, greatest(next_attempt_at, lease_until) as at`.execute(db);
  return alarmFor(id, later.rows[0]);
}

/**
 * Claims up to `limit` of an endpoint's parked deliveries: the urgent ones first, then the oldest. `again` are the alarms
 * of those whose turn in their order has not come. Whoever holds a row this instant is not waited for.
 */
export async function claimParked(
  em: EntityManager,
  endpointId: string,
  { limit, timeoutMs }: { limit: number; timeoutMs: number },
): Promise<Pulled<{ due: Due; line: LineKey | undefined }> & { again: Alarm[] }> {
  const db = em.getKysely();
  const { rows: found } = await sql<{ id: string; ordering_key: string | null }>`
    select id, ordering_key from webhook_deliveries d
    where endpoint_id = ${endpointId} and status = 'pending' and reason = ${sql.lit(BUSY)}
      and (lease_until is null or lease_until < now())
    order by (cause not in ('manual', 'test')), id limit ${limit}`.execute(db);
  const free = found.flatMap(({ id, ordering_key }) => (ordering_key === null ? [id] : []));
  const claimed = new Map<string, { due: Due; line: LineKey | undefined }>();
  const again: Alarm[] = [];
  if (free.length > 0) {
    const { rows } = await sql<ClaimedRow>`
      update webhook_deliveries d set lease_until = now() + ${timeoutMs + LEASE_MARGIN_MS} * interval '1 ms'
      from (
        select id from webhook_deliveries
        where id = any(${free}::uuid[]) and status = 'pending' and reason = ${BUSY} and (lease_until is null or lease_until < now())
        for update skip locked
      ) free, events e
      where d.id = free.id and e.tenant = d.tenant and e.id = d.event_id
      returning ${CLAIMED}`.execute(db);
    for (const row of rows) claimed.set(row.id, { due: dueOf(row), line: undefined });
  }
  for (const { id, ordering_key: orderingKey } of found) {
    if (orderingKey === null) continue;
    const line = { endpointId, orderingKey };
    const due = await claimInOrder(em, id, line, timeoutMs);
    if (due && 'again' in due) again.push(...due.again);
    else if (due) claimed.set(id, { due, line });
  }
  // As they were found: `returning` keeps no order.
  const parcels = found.flatMap(({ id }) => claimed.get(id) ?? []);
  return { parcels, again, more: found.length === limit };
}

/**
 * Puts a row off that nobody has claimed; returns its new alarm. It uses up no attempt. One whose alarm rang before its
 * time (a host's clock was ahead) keeps its time and its reason: as `BUSY` it could be claimed at once.
 */
export async function postpone(
  em: EntityManager,
  id: string,
  until: number,
  reason: string,
): Promise<{ again: Alarm[] } | undefined> {
  const { rows } = await sql<Later>`
    update webhook_deliveries set generation = generation + 1, next_attempt_at = greatest(next_attempt_at, ${new Date(until)}),
      reason = case when next_attempt_at > now() + interval '1 second' and reason is distinct from ${BUSY} then reason else ${reason} end
    where id = ${id} and status = 'pending' and (lease_until is null or lease_until < now())
    returning attempts, generation, next_attempt_at as at`.execute(em.getKysely());
  return alarmFor(id, rows[0]);
}

interface ClaimedRow {
  id: string;
  endpoint_id: string;
  tenant: string;
  event_id: string;
  event_type: string;
  payload: string;
  correlation_id: string | null;
  attempts: number;
  generation: number;
  cause: Cause;
  schedule_from: number;
  lease: string;
}

const CLAIMED = sql`d.id, d.endpoint_id, d.tenant, d.event_id, d.event_type, e.payload, d.correlation_id, d.attempts, d.generation,
  d.cause, d.schedule_from, d.lease_until::text as lease`;

const dueOf = (row: ClaimedRow): Due => ({
  id: row.id,
  endpointId: row.endpoint_id,
  tenant: row.tenant,
  eventId: row.event_id,
  eventType: row.event_type,
  payload: row.payload,
  correlation: row.correlation_id,
  attempts: row.attempts,
  generation: row.generation,
  cause: row.cause,
  scheduleFrom: row.schedule_from,
  lease: row.lease,
});

interface Later {
  attempts: number;
  generation: number;
  at: string;
}

const alarmFor = (id: string, row: Later | undefined): { again: Alarm[] } | undefined =>
  row && {
    again: [
      {
        queue: 'webhooks',
        id,
        attempt: row.attempts,
        generation: row.generation,
        at: Date.parse(iso(row.at)) + 20,
      },
    ],
  };
