import { type RawBuilder, sql } from 'kysely';
import type { Transact, Unit } from '../domain/messages/emit.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import { refuse } from '../domain/problem.ts';
import { type EntityManager, iso } from '../services/database.ts';
import { type DeliveryRecord, type DeliveryStatus, deliveryById } from './deliveries.ts';
import { linesOf, lockLines, releaseHeads, WAITS } from './order.ts';
import { standings } from './standstill.ts';
import type { Cause } from './waiting.ts';

/*
 * Sending again by hand:
 *
 *   pending (nobody is at work on it) | failed | delivered ──► pending, due now, its next attempt of cause "manual"
 *
 * The numbers of the attempts go on, and the schedule begins anew: an attempt by hand that fails is followed by all of
 * those that a fresh delivery gets. The locks are taken in the order that order.ts names: endpoint rows, lines,
 * deliveries.
 */

/** Between two deliveries that are sent again together, in ms: they go out oldest first, and not all at one instant. */
export const SPACING_MS = 2;
/** Deliveries per transaction: short locks, and what is done stays done. */
export const PAGE = 500;
/** The most that one request sends again. */
export const MAX_RESENT = 10_000;

/** What must be known of a delivery to send it again. */
export interface Resendable {
  id: string;
  endpoint_id: string;
  event_id: string;
  ordering_key: string | null;
}

/** Which deliveries are to be sent again; at least one member is set. Times are RFC 3339, and exclusive. */
export interface RetryFilter {
  endpoint_id?: string | undefined;
  /** When absent: all but the delivered ones. */
  status?: DeliveryStatus | undefined;
  event_type?: string | undefined;
  /** The whole reason. */
  reason?: string | undefined;
  created_after?: string | undefined;
  created_before?: string | undefined;
}

const UNLEASED = sql`(d.lease_until is null or d.lease_until < now())`;
const HAS_EVENT = sql`exists (select 1 from events e where e.tenant = d.tenant and e.id = d.event_id)`;

/**
 * Sends one delivery again, whatever its state, past an open breaker. Refuses with NOT_FOUND, and with CONFLICT when
 * its endpoint is disabled or deleted, it is on its way at this moment, or its event is past its retention.
 */
export async function retryDelivery(unit: Unit, input: { tenant: string; id: string }): Promise<DeliveryRecord> {
  const { em } = unit;
  const { rows } = await sql<Resendable & { has_event: boolean }>`
    select d.id, d.endpoint_id, d.event_id, d.ordering_key, ${HAS_EVENT} as has_event from webhook_deliveries d
    where d.id = ${input.id} and d.tenant = ${input.tenant}`.execute(em.getKysely());
  const delivery = rows[0] ?? refuse('NOT_FOUND', 'there is no such delivery');
  const standing = (await standings(em, [delivery.endpoint_id])).get(delivery.endpoint_id);
  if (standing === undefined) refuse('CONFLICT', 'the endpoint of this delivery is deleted');
  if (standing === 'disabled')
    refuse('CONFLICT', 'the endpoint of this delivery is disabled: enabling it releases what is held');
  if (!delivery.has_event) refuse('CONFLICT', 'the event of this delivery is past its retention');
  await lockOrder(em, [delivery]);
  // Waits for whoever holds the row this instant; `sendAgain` would pass it over.
  await sql`select 1 from webhook_deliveries where id = ${delivery.id} for update`.execute(em.getKysely());
  const [done] = await sendAgain(unit, [delivery], 'manual');
  if (!done) refuse('CONFLICT', 'this delivery is on its way at this moment');
  auditRetry(unit, delivery);
  return deliveryById(em, input.tenant, delivery.id);
}

/**
 * Deliveries that match and can be sent again, the oldest first, at most `limit`, and how many there are in all. Those
 * of a disabled or deleted endpoint, those on their way and those whose event is gone do not count.
 */
export async function matchRetries(
  em: EntityManager,
  tenant: string,
  filter: RetryFilter,
  limit: number,
): Promise<{ found: Resendable[]; matched: number }> {
  const { endpoint_id, status, event_type, reason, created_after, created_before } = filter;
  const where: RawBuilder<unknown>[] = [sql`d.tenant = ${tenant}`, UNLEASED, HAS_EVENT];
  where.push(status === undefined ? sql`d.status <> 'delivered'` : sql`d.status = ${status}`);
  if (endpoint_id !== undefined) where.push(sql`d.endpoint_id = ${endpoint_id}`);
  if (event_type !== undefined) where.push(sql`d.event_type = ${event_type}`);
  if (reason !== undefined) where.push(sql`d.reason = ${reason}`);
  if (created_after !== undefined) where.push(sql`d.created_at > ${created_after}::timestamptz`);
  if (created_before !== undefined) where.push(sql`d.created_at < ${created_before}::timestamptz`);
  const { rows } = await sql<Resendable & { matched: string }>`
    select d.id, d.endpoint_id, d.event_id, d.ordering_key, count(*) over () as matched
    from webhook_deliveries d
    join webhook_endpoints p on p.id = d.endpoint_id and p.status = 'enabled' and p.deleted_at is null
    where ${sql.join(where, sql` and `)}
    order by d.created_at, d.id limit ${limit}`.execute(em.getKysely());
  return { found: rows, matched: Number(rows[0]?.matched ?? 0) };
}

/**
 * Sends these again in their order, `SPACING_MS` apart, each with its audit record; returns how many. What was taken up
 * by somebody meanwhile, or has lost its endpoint, is left as it is. A failure leaves what was done before it.
 */
export async function retryDeliveries(
  transact: Transact,
  context: RequestContext,
  found: readonly Resendable[],
): Promise<number> {
  let done = 0;
  for (let at = 0; at < found.length; at += PAGE) {
    const page = found.slice(at, at + PAGE);
    done += await transact(context, async (unit) => {
      const standing = await standings(
        unit.em,
        page.map((delivery) => delivery.endpoint_id),
      );
      const open = page.filter((delivery) => standing.get(delivery.endpoint_id) === 'enabled');
      await lockOrder(unit.em, open);
      const places = open.map((delivery) => at + page.indexOf(delivery));
      const ids = new Set(await sendAgain(unit, open, 'manual', places));
      for (const delivery of open) if (ids.has(delivery.id)) auditRetry(unit, delivery);
      return ids.size;
    });
  }
  return done;
}

/** Locks the lines of those that keep an order. */
export const lockOrder = (em: EntityManager, deliveries: readonly Resendable[]): Promise<void> =>
  lockLines(em, linesIn(deliveries));

const linesIn = (deliveries: readonly Resendable[]) =>
  linesOf(
    deliveries.flatMap(({ endpoint_id, ordering_key }) =>
      ordering_key === null ? [] : [{ endpointId: endpoint_id, orderingKey: ordering_key }],
    ),
  );

const REASONS: Record<Exclude<Cause, 'schedule' | 'test'>, string> = {
  manual: 'sent again by hand',
  recover: 'recovered',
};

/**
 * Makes deliveries due again, each at its place times `SPACING_MS` from now, and those that keep an order when
 * their turn comes; returns the ids of those that were free. The caller holds their endpoints' locks, has found them
 * enabled, and has locked their lines. Rows that somebody else holds are passed over, so this never waits for one.
 */
export async function sendAgain(
  unit: Unit,
  deliveries: readonly Resendable[],
  cause: keyof typeof REASONS,
  places: readonly number[] = deliveries.map((_, n) => n),
): Promise<string[]> {
  if (deliveries.length === 0) return [];
  const { rows } = await sql<{ id: string; attempts: number; generation: number; next_attempt_at: string | null }>`
    update webhook_deliveries d set status = 'pending', cause = ${cause}, generation = generation + 1, delivered_at = null, lease_until = null, schedule_from = d.attempts,
      reason = case when d.ordering_key is null then ${REASONS[cause]} else ${WAITS} end,
      next_attempt_at = case when d.ordering_key is null then now() + free.place * ${SPACING_MS}::int * interval '1 ms' end
    from (
      select d.id, given.place from unnest(${deliveries.map(({ id }) => id)}::uuid[], ${[...places]}::int[]) as given (id, place)
      join webhook_deliveries d on d.id = given.id
      where ${UNLEASED} and (${cause} <> 'recover' or d.status = 'failed') for update of d skip locked
    ) free
    where d.id = free.id
    returning d.id, d.attempts, d.generation, d.next_attempt_at`.execute(unit.em.getKysely());
  for (const { id, attempts, generation, next_attempt_at } of rows) {
    if (next_attempt_at === null) continue;
    unit.emit.alarm({ queue: 'webhooks', id, attempt: attempts, generation, at: Date.parse(iso(next_attempt_at)) });
  }
  for (const alarm of await releaseHeads(unit.em, linesIn(deliveries))) unit.emit.alarm(alarm);
  return rows.map(({ id }) => id);
}

const auditRetry = (unit: Unit, delivery: Resendable): void =>
  unit.emit.audit({
    action: 'webhook.delivery.retried',
    targets: [{ type: 'webhook_delivery', id: delivery.id }],
    metadata: { endpoint_id: delivery.endpoint_id, event_id: delivery.event_id },
  });
