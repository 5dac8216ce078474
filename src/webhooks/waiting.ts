import { sql } from 'kysely';
import type { Alarm } from '../domain/messages/emit.ts';
import { type EntityManager, iso } from '../services/database.ts';
import { type LineKey, lockLines, mustWait } from './order.ts';

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
}

/** What an attempt may take beyond its endpoint's timeout: signing, and the commit of its result. */
const LEASE_MARGIN_MS = 10_000;

/** What must be known of a waiting delivery before it is claimed; `undefined` when there is nothing to wait for. */
export async function findWaiting(
  em: EntityManager,
  id: string,
): Promise<{ endpointId: string; line: LineKey | undefined; cause: Cause } | undefined> {
  const { rows } = await sql<{ endpoint_id: string; ordering_key: string | null; cause: Cause }>`
    select endpoint_id, ordering_key, cause from webhook_deliveries where id = ${id} and status = 'pending' and next_attempt_at is not null`.execute(
    em.getKysely(),
  );
  const [row] = rows;
  if (!row) return undefined;
  const { endpoint_id: endpointId, ordering_key: orderingKey, cause } = row;
  return { endpointId, line: orderingKey === null ? undefined : { endpointId, orderingKey }, cause };
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
  const { rows } = await sql<{
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
  }>`
    update webhook_deliveries d set lease_until = now() + ${timeoutMs + LEASE_MARGIN_MS} * interval '1 ms'
    from events e
    where d.id = ${id} and d.status = 'pending' and d.next_attempt_at <= now() + interval '1 second'
      and (d.lease_until is null or d.lease_until < now()) and e.tenant = d.tenant and e.id = d.event_id
    returning d.id, d.endpoint_id, d.tenant, d.event_id, d.event_type, e.payload, d.correlation_id, d.attempts, d.generation, d.cause`.execute(
    db,
  );
  const row = rows[0];
  if (row) {
    return {
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
    };
  }
  const later = await sql<Later>`
    update webhook_deliveries set generation = generation + 1
    where id = ${id} and status = 'pending' and greatest(next_attempt_at, lease_until) > now()
    returning attempts, generation, greatest(next_attempt_at, lease_until) as at`.execute(db);
  return alarmFor(id, later.rows[0]);
}

/** Puts a row off that nobody has claimed; returns its new alarm. It uses up no attempt. */
export async function postpone(
  em: EntityManager,
  id: string,
  until: number,
  reason: string,
): Promise<{ again: Alarm[] } | undefined> {
  const { rows } = await sql<Later>`
    update webhook_deliveries set next_attempt_at = ${new Date(until)}, reason = ${reason}, generation = generation + 1
    where id = ${id} and status = 'pending' and (lease_until is null or lease_until < now())
    returning attempts, generation, next_attempt_at as at`.execute(em.getKysely());
  return alarmFor(id, rows[0]);
}

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
