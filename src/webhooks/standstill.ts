import { type RawBuilder, sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import type { Transact, Unit } from '../domain/messages/emit.ts';
import { SYSTEM } from '../domain/messages/envelope.ts';
import type { EntityManager } from '../services/database.ts';
import { linesOf, lockLines, releaseHeads, WAITS } from './order.ts';

/*
 * What becomes of the deliveries that wait when their endpoint stops: pending ⇄ held while it is disabled, failed when
 * it is deleted. The caller holds the endpoint's row lock.
 *
 * Oldest first and `PAGE` at a time: an endpoint may have hundreds of thousands, and nobody waits for those. Whoever
 * turns the endpoint does the first page; `settleStranded` does the rest, a transaction each, and what was just being
 * recorded. A delivery whose time comes before that is treated as its endpoint then stands.
 */

/** Deliveries per transaction. */
export const PAGE = 500;

/** Between the alarms of released deliveries, in ms: they go out oldest first, and not all at one instant. */
const SPACING_MS = 2;

const idle = sql`(d.lease_until is null or d.lease_until < now())`;

/** The oldest pending deliveries that no process is at work on become held; returns how many, at most a page. */
export async function holdPending(em: EntityManager, endpointId: string): Promise<number> {
  const { numAffectedRows } = await sql`
    update webhook_deliveries set status = 'held', reason = 'endpoint disabled', next_attempt_at = null, lease_until = null
    where status = 'pending' and id in (
      select d.id from webhook_deliveries d
      where d.endpoint_id = ${endpointId} and d.status = 'pending' and ${idle}
      order by d.created_at, d.id limit ${PAGE} for update skip locked)`.execute(em.getKysely());
  return Number(numAffectedRows ?? 0);
}

/**
 * The oldest held deliveries become due, each with an alarm, or wait for their predecessor; returns how many, at most a
 * page. `before`: how many were released just before them and still come first.
 */
export async function releaseHeld(unit: Unit, endpointId: string, before = 0): Promise<number> {
  const { rows } = await sql<{ id: string; attempts: number; generation: number; at: string }>`
    with page as (
      select id, row_number() over (order by created_at, id) - 1 as n from webhook_deliveries
      where endpoint_id = ${endpointId} and status = 'held' and ordering_key is null
      order by created_at, id limit ${PAGE}
    ), released as (
      update webhook_deliveries d set status = 'pending', reason = null, generation = generation + 1,
        next_attempt_at = now() + (${before}::int + page.n) * ${SPACING_MS}::int * interval '1 ms'
      from page where d.id = page.id and d.status = 'held'
      returning d.id, d.attempts, d.generation, (extract(epoch from d.next_attempt_at) * 1000)::bigint as at
    )
    select * from released order by at, id`.execute(unit.em.getKysely());
  for (const { id, attempts, generation, at } of rows)
    unit.emit.alarm({ queue: 'webhooks', id, attempt: attempts, generation, at: Number(at) });
  const room = PAGE - rows.length;
  return rows.length + (room > 0 ? await releaseLines(unit, endpointId, room) : 0);
}

/** Held deliveries that keep an order, from the fronts of their lines. */
async function releaseLines(unit: Unit, endpointId: string, room: number): Promise<number> {
  const db = unit.em.getKysely();
  const { rows } = await sql<{ id: string; ordering_key: string }>`
    select id, ordering_key from webhook_deliveries
    where endpoint_id = ${endpointId} and status = 'held' and ordering_key is not null
    order by position limit ${room}`.execute(db);
  if (rows.length === 0) return 0;
  const lines = linesOf(rows.map((row) => ({ endpointId, orderingKey: row.ordering_key })));
  await lockLines(unit.em, lines);
  const { numAffectedRows } = await sql`
    update webhook_deliveries set status = 'pending', reason = ${WAITS}, next_attempt_at = null, generation = generation + 1
    where id = any(${rows.map((row) => row.id)}::uuid[]) and status = 'held'`.execute(db);
  for (const alarm of await releaseHeads(unit.em, lines)) unit.emit.alarm(alarm);
  return Number(numAffectedRows ?? 0);
}

/** The oldest of what is not over becomes failed with `reason`; returns how many, at most a page. */
export async function failUnfinished(em: EntityManager, endpointId: string, reason: string): Promise<number> {
  const { numAffectedRows } = await sql`
    update webhook_deliveries set status = 'failed', reason = ${reason}, next_attempt_at = null
    where status in ('pending', 'held') and id in (
      select id from webhook_deliveries where endpoint_id = ${endpointId} and status in ('pending', 'held')
      order by created_at, id limit ${PAGE} for update skip locked)`.execute(em.getKysely());
  return Number(numAffectedRows ?? 0);
}

/**
 * How endpoints stand at this moment, and until the transaction ends: their rows are locked against enabling, disabling
 * and deleting. A deleted one is not in the answer. Take these locks first; see order.ts.
 */
export async function standings(
  em: EntityManager,
  endpointIds: readonly string[],
): Promise<Map<string, 'enabled' | 'disabled'>> {
  const { rows } = await sql<{ id: string; status: 'enabled' | 'disabled' }>`
    select id, status from webhook_endpoints
    where id = any(${[...new Set(endpointIds)]}::uuid[]) and deleted_at is null order by id for share`.execute(
    em.getKysely(),
  );
  return new Map(rows.map(({ id, status }) => [id, status]));
}

/** For so long one run of `settleStranded` begins further pages, in ms. */
const RUN_MS = 20_000;

/**
 * Does what turning an endpoint has left to do, and is the net under it: releases what is held although its endpoint is
 * enabled, holds what waits although it is disabled, fails what is not over although it is deleted. One page of each
 * endpoint in turn, until nothing is left or `runMs` are over. Returns how many deliveries. For a housekeeping timer.
 */
export async function settleStranded(transact: Transact, em: EntityManager, runMs = RUN_MS): Promise<number> {
  const end = performance.now() + runMs;
  let left = (await findStranded(em)).map((id) => ({ id, done: 0 }));
  let settled = 0;
  while (left.length > 0) {
    const further: typeof left = [];
    for (const { id, done } of left) {
      if (performance.now() >= end) return settled;
      const requestId = newId();
      const page = await transact({ requestId, correlationId: requestId, actor: SYSTEM }, (unit) =>
        settlePage(unit, id, done),
      );
      settled += page;
      if (page >= PAGE) further.push({ id, done: done + page });
    }
    left = further;
  }
  return settled;
}

async function findStranded(em: EntityManager): Promise<string[]> {
  const some = (where: RawBuilder<unknown>) =>
    sql`exists (select 1 from webhook_deliveries d where d.endpoint_id = e.id and ${where})`;
  const { rows } = await sql<{ id: string }>`
    select e.id from webhook_endpoints e where case
      when e.deleted_at is not null then ${some(sql`d.status in ('pending', 'held')`)}
      when e.status = 'enabled' then ${some(sql`d.status = 'held'`)}
      else ${some(sql`d.status = 'pending' and ${idle}`)} end`.execute(em.getKysely());
  return rows.map(({ id }) => id);
}

/** As the endpoint stands now: it may have turned since the last page. */
async function settlePage(unit: Unit, id: string, done: number): Promise<number> {
  const { rows } = await sql<{ status: 'enabled' | 'disabled'; deleted: boolean }>`
    select status, deleted_at is not null as deleted from webhook_endpoints where id = ${id} for update`.execute(
    unit.em.getKysely(),
  );
  const [endpoint] = rows;
  if (!endpoint) return 0;
  if (endpoint.deleted) return failUnfinished(unit.em, id, 'endpoint deleted');
  return endpoint.status === 'enabled' ? releaseHeld(unit, id, done) : holdPending(unit.em, id);
}
