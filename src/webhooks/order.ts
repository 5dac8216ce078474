import { crc32 } from 'node:zlib';
import { sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import type { Alarm, Transact } from '../domain/messages/emit.ts';
import { SYSTEM } from '../domain/messages/envelope.ts';
import { currentTime } from '../services/clock.ts';
import type { EntityManager } from '../services/database.ts';

/*
 * The order of deliveries per endpoint and ordering key.
 *
 * A delivery that keeps an order has both `ordering_key` and `position` (a sequence, in the order of acceptance). Of one
 * line (endpoint and key) the unfinished one with the smallest position is the head; the others wait with
 * `next_attempt_at` null:
 *
 *   waiting ──it became the head──► due ──attempt failed──► due later … ──delivered | failed──► the next one becomes the head
 *
 * A held head lets nobody pass. Whoever adds to a line, ends something of it or claims from it first takes the line's
 * advisory lock, so that none misses what another is about to commit. The order of locks everywhere: endpoint rows,
 * lines (ascending), deliveries, breakers.
 */

export interface LineKey {
  endpointId: string;
  orderingKey: string;
}

/** Class of the advisory locks of lines, and how many there are: a transaction on many lines holds no more than these. */
const LOCK_CLASS = 7_120_010;
const BUCKETS = 256;

export const WAITS = 'waits for its predecessor';

/** Waits until nobody else works on these lines, and keeps it so until the transaction ends. */
export async function lockLines(em: EntityManager, lines: readonly LineKey[]): Promise<void> {
  if (lines.length === 0) return;
  const buckets = [...new Set(lines.map((line) => crc32(`${line.endpointId}\n${line.orderingKey}`) % BUCKETS))];
  buckets.sort((a, b) => a - b);
  await sql`select pg_advisory_xact_lock(${LOCK_CLASS}, bucket) from unnest(${buckets}::int[]) as bucket`.execute(
    em.getKysely(),
  );
}

/** A delivery to be added to its line. */
export interface OrderedRow {
  id: string;
  tenant: string;
  endpoint_id: string;
  event_id: string;
  event_type: string;
  correlation_id: string | null;
  ordering_key: string;
  status: 'pending' | 'held';
  reason: string;
}

/** Adds deliveries to the ends of their lines, in the order given; returns the alarms of those that became heads. */
export async function appendToLines(em: EntityManager, rows: readonly OrderedRow[]): Promise<Alarm[]> {
  if (rows.length === 0) return [];
  const lines = linesOf(rows.map((row) => ({ endpointId: row.endpoint_id, orderingKey: row.ordering_key })));
  await lockLines(em, lines);
  await sql`
    insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, correlation_id, ordering_key, position)
    select id, tenant, endpoint_id, event_id, event_type, status, reason, correlation_id, ordering_key, nextval('webhook_delivery_position')
    from (
      select r.* from rows from (jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as (id uuid, tenant text, endpoint_id uuid,
        event_id text, event_type text, status text, reason text, correlation_id text, ordering_key text))
        with ordinality as r (id, tenant, endpoint_id, event_id, event_type, status, reason, correlation_id, ordering_key, n)
      order by r.n
    ) given
    on conflict do nothing`.execute(em.getKysely());
  return releaseHeads(em, lines);
}

/** Makes the heads of these lines due that are not yet; returns their alarms, to be set after the commit. Lock the lines first. */
export async function releaseHeads(em: EntityManager, lines: readonly LineKey[]): Promise<Alarm[]> {
  if (lines.length === 0) return [];
  const { rows } = await sql<{ id: string; attempts: number; generation: number }>`
    update webhook_deliveries d set next_attempt_at = now(), reason = null, generation = generation + 1
    from (
      select head.id from unnest(${lines.map((l) => l.endpointId)}::uuid[], ${lines.map((l) => l.orderingKey)}::text[]) as line (endpoint_id, ordering_key)
      cross join lateral (
        select id, status, next_attempt_at from webhook_deliveries o
        where o.endpoint_id = line.endpoint_id and o.ordering_key = line.ordering_key and o.status in ('pending', 'held')
        order by o.position limit 1
      ) head
      where head.status = 'pending' and head.next_attempt_at is null
    ) due
    where d.id = due.id returning d.id, d.attempts, d.generation`.execute(em.getKysely());
  const now = currentTime();
  return rows.map((row) => ({
    queue: 'webhooks',
    id: row.id,
    attempt: row.attempts,
    generation: row.generation,
    at: now,
  }));
}

/**
 * Whether a due delivery must not start: something before it in its line is unfinished, or another of its line is on
 * its way (a failed one may have been sent again by hand). It then waits, and the head is made due instead; returns
 * that one's alarm. `undefined` when it may start. The caller has locked the line.
 */
export async function mustWait(em: EntityManager, line: LineKey, id: string): Promise<Alarm[] | undefined> {
  const db = em.getKysely();
  const { rows } = await sql`
    select 1 from webhook_deliveries d join webhook_deliveries o
      on o.endpoint_id = d.endpoint_id and o.ordering_key = d.ordering_key and o.status in ('pending', 'held') and o.id <> d.id
    where d.id = ${id} and (o.position < d.position or o.lease_until > now()) limit 1`.execute(db);
  if (rows.length === 0) return undefined;
  await sql`
    update webhook_deliveries set next_attempt_at = null, reason = ${WAITS}, generation = generation + 1
    where id = ${id} and status = 'pending' and (lease_until is null or lease_until < now())`.execute(db);
  const busy = await sql`
    select 1 from webhook_deliveries where endpoint_id = ${line.endpointId} and ordering_key = ${line.orderingKey}
      and status = 'pending' and lease_until > now() limit 1`.execute(db);
  // The one on its way makes the head due when it ends.
  return busy.rows.length > 0 ? [] : releaseHeads(em, [line]);
}

/** Lines per run of the sweep. */
const SWEEP = 500;

/**
 * The net under the hand-over from one delivery to the next: makes heads due that wait although nothing is before them.
 * Returns how many. For a housekeeping timer.
 */
export async function releaseWaiting(transact: Transact, em: EntityManager): Promise<number> {
  const { rows } = await sql<{ endpoint_id: string; ordering_key: string }>`
    select endpoint_id, ordering_key from (
      select distinct on (endpoint_id, ordering_key) endpoint_id, ordering_key, status, next_attempt_at
      from webhook_deliveries where ordering_key is not null and status in ('pending', 'held')
      order by endpoint_id, ordering_key, position
    ) head
    where status = 'pending' and next_attempt_at is null limit ${SWEEP}`.execute(em.getKysely());
  if (rows.length === 0) return 0;
  const lines = rows.map((row) => ({ endpointId: row.endpoint_id, orderingKey: row.ordering_key }));
  const id = newId();
  return transact({ requestId: id, correlationId: id, actor: SYSTEM }, async (unit) => {
    await lockLines(unit.em, lines);
    const alarms = await releaseHeads(unit.em, lines);
    for (const alarm of alarms) unit.emit.alarm(alarm);
    return alarms.length;
  });
}

/** Each line once. */
export function linesOf(given: readonly LineKey[]): LineKey[] {
  return [...new Map(given.map((line) => [`${line.endpointId}\n${line.orderingKey}`, line])).values()];
}
