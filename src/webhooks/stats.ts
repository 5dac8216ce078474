import { sql } from 'kysely';
import type { EntityManager } from '../services/database.ts';
import { getEndpoint } from './endpoints.ts';

export const MAX_STATS_DAYS = 30;

/** How an endpoint did in some time. */
export interface Stats {
  attempts: number;
  /** Attempts that were answered with 2xx, wholly. */
  delivered: number;
  failed: number;
  /** From 0 to 1; null when there was no attempt. */
  success_rate: number | null;
  /** How long half of the attempts took at most, in ms, those without an answer included; null when there was none. */
  p50_ms: number | null;
  p95_ms: number | null;
}

export interface EndpointStats {
  /** Of UTC, the oldest first, those without an attempt too. */
  days: ({ date: string } & Stats)[];
  total: Stats;
}

interface Row {
  date: string | null;
  attempts: string;
  delivered: string;
  durations: number[] | null;
}

/**
 * The attempts at an endpoint on the last `days` days of UTC, today included, of every cause. Refuses with NOT_FOUND.
 */
export async function endpointStats(
  em: EntityManager,
  { tenant, id, days }: { tenant: string; id: string; days: number },
  now: Date = new Date(),
): Promise<EndpointStats> {
  await getEndpoint(em, tenant, id);
  const today = Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate());
  const dates = Array.from({ length: days }, (_, n) => dateOf(today - (days - 1 - n) * DAY_MS));
  const { rows } = await statsQuery(id, `${dates[0]}T00:00:00Z`, dateOf(today + DAY_MS)).execute(em.getKysely());
  const byDate = new Map(rows.map((row) => [row.date, row]));
  return {
    days: dates.map((date) => ({ date, ...statsOf(byDate.get(date)) })),
    total: statsOf(byDate.get(null)),
  };
}

const DAY_MS = 86_400_000;
const dateOf = (at: number): string => new Date(at).toISOString().slice(0, 10);

/** By day, and the whole under the date null. Exported for the test that asks how it is executed. */
export const statsQuery = (endpointId: string, from: string, to: string) => sql<Row>`
  with made as (
    select (a.started_at at time zone 'UTC')::date as day, a.duration_ms,
      a.error is null and a.status_code between 200 and 299 as ok
    from webhook_deliveries d cross join lateral (
      -- The offset keeps it apart: joined as a whole, all attempts of all endpoints may be read.
      select started_at, duration_ms, error, status_code from webhook_attempts where delivery_id = d.id offset 0
    ) a
    where d.endpoint_id = ${endpointId} and a.started_at >= ${from}::timestamptz and a.started_at < ${to}::timestamptz
      and d.created_at < ${to}::timestamptz
  )
  select to_char(day, 'YYYY-MM-DD') as date, count(*) as attempts, count(*) filter (where ok) as delivered,
    percentile_disc(array[0.5, 0.95]) within group (order by duration_ms) as durations
  from made group by grouping sets ((day), ())`;

function statsOf(row: Row | undefined): Stats {
  const attempts = Number(row?.attempts ?? 0);
  const delivered = Number(row?.delivered ?? 0);
  const [p50 = null, p95 = null] = row?.durations ?? [];
  return {
    attempts,
    delivered,
    failed: attempts - delivered,
    success_rate: attempts === 0 ? null : Math.round((delivered / attempts) * 10_000) / 10_000,
    p50_ms: p50,
    p95_ms: p95,
  };
}
