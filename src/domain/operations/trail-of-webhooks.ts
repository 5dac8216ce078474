import { sql } from 'kysely';
import { iso, isoOrNull } from '../../services/database.ts';
import { type HopSource, ofScope, READ } from './hop.ts';

interface AttemptRow {
  delivery_id: string;
  event_id: string;
  event_type: string;
  endpoint_id: string;
  url: string | null;
  number: number;
  started_at: string;
  duration_ms: number;
  status_code: number | null;
  error: string | null;
}

/** Each attempt to deliver. Its error may name an address, so only admins and operators see it. */
export const attemptHops: HopSource = async (em, scope, full) => {
  const { rows } = await sql<AttemptRow>`
    select a.delivery_id, d.event_id, d.event_type, d.endpoint_id, p.url, a.number, a.started_at, a.duration_ms,
      a.status_code, a.error
    from events e
    join webhook_deliveries d on d.event_id = e.id and d.tenant = e.tenant
    join webhook_attempts a on a.delivery_id = d.id
    left join webhook_endpoints p on p.id = d.endpoint_id
    where ${ofScope(scope)} order by a.started_at, a.id limit ${READ}`.execute(em.getKysely());
  return rows.map((row) => ({
    at: iso(row.started_at),
    kind: 'webhook.attempted',
    status: row.status_code !== null && row.status_code >= 200 && row.status_code < 300 ? 'delivered' : 'failed',
    ref: row.delivery_id,
    detail: {
      event_id: row.event_id,
      type: row.event_type,
      attempt: row.number,
      status_code: row.status_code,
      ...(full ? { endpoint_id: row.endpoint_id, url: row.url, error: row.error } : {}),
    },
    duration_ms: row.duration_ms,
  }));
};

interface DeliveryRow {
  id: string;
  event_id: string;
  event_type: string;
  endpoint_id: string;
  url: string | null;
  status: 'pending' | 'held' | 'failed';
  reason: string | null;
  attempts: number;
  next_attempt_at: string | null;
  since: string;
}

/** Deliveries that did not arrive, since their last attempt or since they exist: what they wait for, or why they ended. */
export const undeliveredHops: HopSource = async (em, scope, full) => {
  const { rows } = await sql<DeliveryRow>`
    select d.id, d.event_id, d.event_type, d.endpoint_id, p.url, d.status, d.reason, d.attempts, d.next_attempt_at,
      greatest(d.created_at, l.ended) as since
    from events e
    join webhook_deliveries d on d.event_id = e.id and d.tenant = e.tenant
    left join webhook_endpoints p on p.id = d.endpoint_id
    left join lateral (
      select max(a.started_at + a.duration_ms * interval '1 millisecond') as ended
      from webhook_attempts a where a.delivery_id = d.id) l on true
    where ${ofScope(scope)} and d.status in ('pending', 'held', 'failed') order by since, d.id limit ${READ}`.execute(
    em.getKysely(),
  );
  return rows.map((row) => ({
    at: iso(row.since),
    kind: `webhook.${row.status}`,
    status: row.status,
    ref: row.id,
    detail: {
      event_id: row.event_id,
      type: row.event_type,
      attempts: row.attempts,
      next_attempt_at: isoOrNull(row.next_attempt_at),
      ...(full ? { reason: row.reason, endpoint_id: row.endpoint_id, url: row.url } : {}),
    },
  }));
};
