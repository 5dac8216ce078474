import { sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import type { Transact, Unit } from '../domain/messages/emit.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import { refuse } from '../domain/problem.ts';
import { currentTime } from '../services/clock.ts';
import type { EntityManager } from '../services/database.ts';
import { ON_ITS_WAY_MS } from './chunk.ts';
import { appendToLines, WAITS } from './order.ts';
import { lockOrder, MAX_RESENT, PAGE, SPACING_MS, sendAgain } from './resend.ts';

/** How far back an endpoint can be recovered, in ms. */
export const MAX_RECOVERY_MS = 14 * 86_400_000;

export interface RecoveryInput {
  tenant: string;
  /** Of the endpoint. */
  id: string;
  /** RFC 3339; at most `MAX_RECOVERY_MS` ago. */
  since: string;
  /** RFC 3339; now when absent. */
  until?: string | undefined;
}

export interface Recovery {
  /** Deliveries that are on their way now. */
  recovered: number;
  /** The limit of one request was reached: the same request again goes on. */
  has_more: boolean;
}

/** What a webhook endpoint asks for, as its row says. */
interface Wanted {
  event_types: string[];
  channels: string[];
  ordered: boolean;
  created_at: string;
}

/** What an endpoint should have got and has not: a delivery that failed, or an event that never became one. */
interface Gap {
  /** Of the failed delivery; null for an event without one. */
  id: string | null;
  event_id: string;
  event_type: string;
  correlation_id: string | null;
  ordering_key: string | null;
}

/**
 * Sends an endpoint again, oldest first, everything of a stretch of time that failed, and everything that matches it as
 * it is now and was never sent to it: from before it existed, or before it asked for this type. At most 10,000 at once.
 * What is pending or held comes by itself and is left alone.
 *
 * Refuses with NOT_FOUND, with CONFLICT when the endpoint is disabled, and with VALIDATION_ERROR a stretch that ends
 * before it begins, begins in the future or more than 14 days ago. A failure leaves what was recovered before it.
 */
export async function recoverEndpoint(
  transact: Transact,
  context: RequestContext,
  input: RecoveryInput,
  limit: number = MAX_RESENT,
): Promise<Recovery> {
  const wanted = await transact(context, ({ em }) => lockEnabled(em, input));
  checkStretch(input);
  // Looked for once, since a look passes all that was delivered, and without the endpoint's lock, since it takes long.
  // One more tells whether something is left.
  const gaps = await transact(context, ({ em }) => findGaps(em, input, wanted, limit + 1));
  let recovered = 0;
  for (let from = 0; from < Math.min(gaps.length, limit); from += PAGE) {
    const page = gaps.slice(from, Math.min(from + PAGE, limit));
    recovered += await transact(context, async (unit) => {
      await lockEnabled(unit.em, input);
      const done = await close(unit, input, wanted, page, from);
      if (done > 0) audit(unit, input, done);
      return done;
    });
  }
  return { recovered, has_more: gaps.length > limit };
}

function checkStretch({ since, until }: RecoveryInput): void {
  const now = currentTime();
  const from = Date.parse(since);
  if (from < now - MAX_RECOVERY_MS) refuse('VALIDATION_ERROR', 'since must be at most 14 days ago', { field: 'since' });
  if (from > now) refuse('VALIDATION_ERROR', 'since must be in the past', { field: 'since' });
  if (until !== undefined && Date.parse(until) <= from)
    refuse('VALIDATION_ERROR', 'until must be after since', { field: 'until' });
}

/** Keeps the endpoint from being disabled, deleted or changed until the transaction ends. */
async function lockEnabled(em: EntityManager, { tenant, id }: RecoveryInput): Promise<Wanted> {
  const { rows } = await sql<Wanted & { status: string }>`
    select status, event_types, channels, ordered, created_at::text as created_at from webhook_endpoints
    where id = ${id} and tenant = ${tenant} and deleted_at is null for share`.execute(em.getKysely());
  const endpoint = rows[0] ?? refuse('NOT_FOUND', 'there is no such endpoint');
  if (endpoint.status === 'disabled') refuse('CONFLICT', 'this endpoint is disabled: enable it first');
  return endpoint;
}

async function findGaps(
  em: EntityManager,
  { tenant, id, since, until }: RecoveryInput,
  wanted: Wanted,
  limit: number,
): Promise<Gap[]> {
  const stretch = sql`created_at >= ${since}::timestamptz and created_at < coalesce(${until ?? null}::timestamptz, now())`;
  const everything = wanted.event_types.length === 0 || wanted.event_types.includes('*');
  const prefixes = wanted.event_types
    .filter((pattern) => pattern.endsWith('.*'))
    .map((pattern) => pattern.slice(0, -1));
  const { rows } = await sql<Gap>`
    select gap.id, event_id, event_type, correlation_id, ordering_key from (
      (select d.id, d.event_id, d.event_type, d.correlation_id, d.ordering_key, d.created_at as at
       from webhook_deliveries d
       where d.endpoint_id = ${id} and d.status = 'failed' and ${stretch}
         and exists (select 1 from events e where e.tenant = d.tenant and e.id = d.event_id)
       order by d.created_at, d.event_id limit ${limit})
      union all
      (select null::uuid, e.id, e.type, e.correlation_id, e.ordering_key, e.created_at
       from events e
       where e.tenant = ${tenant} and e.source <> 'test' and ${stretch}
         and (${everything} or e.type = any(${wanted.event_types}) or exists (select 1 from unnest(${prefixes}::text[]) p where starts_with(e.type, p)))
         and (${wanted.channels.length === 0} or e.channels && ${wanted.channels}::text[])
         and (e.created_at < ${wanted.created_at}::timestamptz or e.created_at < now() - ${ON_ITS_WAY_MS} * interval '1 ms')
         and not exists (select 1 from webhook_deliveries d where d.endpoint_id = ${id} and d.event_id = e.id)
       order by e.created_at, e.id limit ${limit})
    ) gap
    order by gap.at, event_id limit ${limit}`.execute(em.getKysely());
  return rows;
}

/** Failed deliveries become due again, events without one get theirs; returns how many. */
async function close(
  unit: Unit,
  { tenant, id }: RecoveryInput,
  { ordered }: Wanted,
  gaps: readonly Gap[],
  from: number,
): Promise<number> {
  const placed = gaps.map((gap, n) => ({ ...gap, endpoint_id: id, place: from + n }));
  const failed = placed.flatMap((gap) => (gap.id === null ? [] : [{ ...gap, id: gap.id }]));
  const missing = placed
    .filter((gap) => gap.id === null)
    .map((gap) => ({ ...gap, id: newId(), tenant, ordering_key: ordered ? gap.ordering_key : null }));
  await lockOrder(unit.em, [...failed, ...missing]);
  const again = await sendAgain(
    unit,
    failed,
    'recover',
    failed.map(({ place }) => place),
  );
  const fresh = missing.filter((row) => row.ordering_key === null);
  const lined = missing.flatMap((row) =>
    row.ordering_key === null
      ? []
      : [{ ...row, ordering_key: row.ordering_key, status: 'pending' as const, reason: WAITS }],
  );
  const added = await insertDue(unit, fresh);
  for (const alarm of await appendToLines(unit.em, lined)) unit.emit.alarm(alarm);
  const { rows } = await sql`
    update webhook_deliveries set cause = 'recover' where id = any(${lined.map((row) => row.id)}::uuid[]) returning 1`.execute(
    unit.em.getKysely(),
  );
  return again.length + added + rows.length;
}

async function insertDue(
  unit: Unit,
  rows: readonly {
    id: string;
    tenant: string;
    endpoint_id: string;
    event_id: string;
    event_type: string;
    correlation_id: string | null;
    place: number;
  }[],
): Promise<number> {
  if (rows.length === 0) return 0;
  const inserted = await sql<{ id: string; at: string }>`
    insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, correlation_id, status, reason, cause, next_attempt_at)
    select r.id, r.tenant, r.endpoint_id, r.event_id, r.event_type, r.correlation_id, 'pending', 'recovered', 'recover',
      now() + r.place * ${SPACING_MS}::int * interval '1 ms'
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as r (id uuid, tenant text, endpoint_id uuid, event_id text, event_type text, correlation_id text, place int)
    on conflict do nothing returning id, (extract(epoch from next_attempt_at) * 1000)::bigint as at`.execute(
    unit.em.getKysely(),
  );
  for (const { id, at } of inserted.rows)
    unit.emit.alarm({ queue: 'webhooks', id, attempt: 0, generation: 0, at: Number(at) });
  return inserted.rows.length;
}

const audit = (unit: Unit, { id, since, until }: RecoveryInput, recovered: number): void =>
  unit.emit.audit({
    action: 'webhook.endpoint.recovered',
    targets: [{ type: 'webhook_endpoint', id }],
    metadata: { since, ...(until === undefined ? {} : { until }), recovered },
  });
