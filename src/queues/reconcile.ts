import type { Redis } from 'ioredis';
import { sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import type { Alarm, AlarmQueue } from '../domain/messages/emit.ts';
import { currentTime } from '../services/clock.ts';
import { type Database, iso } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { pause, type Service, withDeadline } from '../services/service.ts';
import type { Alarms } from './alarms.ts';

/** A table whose pending rows wait for an alarm. */
export interface AlarmTable {
  queue: AlarmQueue;
  table: 'emails' | 'webhook_deliveries';
}

export const ALARM_TABLES: AlarmTable[] = [
  { queue: 'email', table: 'emails' },
  { queue: 'webhooks', table: 'webhook_deliveries' },
];

/** How often Redis is asked whether it is still the one that held the alarms. */
const EPOCH_CHECK_MS = 2000;
const SWEEP_MS = 10_000;
/** A row this long past its time has lost its alarm. */
const OVERDUE = sql`next_attempt_at < now() - interval '30 seconds' and (lease_until is null or lease_until < now())`;
const PAGE = 1000;
/** The reason of deliveries that are parked for a busy endpoint, as their indexes have it. */
const PARKED = sql.lit('endpoint busy');

interface Row {
  id: string;
  attempts: number;
  generation: number;
  at: string | null;
}

/**
 * Sets alarms again that Redis lost. Two nets:
 * - Redis carries an epoch key, and a `run_id` per start. When either changed, every pending row gets its alarm again,
 *   in pages, and the epoch is written last, so that a reconciliation cut short is begun anew.
 * - Every 10 s up to 1,000 rows per table that are 30 s overdue and not leased get one. Of the deliveries that are parked
 *   for a busy endpoint only the first one does: it sets their whole line going, and the line may be overdue for hours.
 * Any process may run it at any time: an alarm that still waits is the same job id, and the row decides what is due.
 */
export class Reconciler implements Service {
  readonly name = 'reconciler';
  readonly #deps: { database: Database; redis: Redis; alarms: Alarms; namespace: string; log: Logger };
  readonly #stopping = new AbortController();
  #running: Promise<unknown> | undefined;
  #known: string | undefined;

  constructor(deps: { database: Database; redis: Redis; alarms: Alarms; namespace: string; log: Logger }) {
    this.#deps = { ...deps, log: deps.log.child({ service: 'reconciler' }) };
  }

  async start(): Promise<void> {
    this.#running ??= Promise.all([
      this.#every(EPOCH_CHECK_MS, () => this.checkEpoch()),
      this.#every(SWEEP_MS, () => this.sweep()),
    ]);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  /** Sets every alarm again when Redis is not the one it was. Returns how many. */
  async checkEpoch(): Promise<number> {
    const { redis, namespace } = this.#deps;
    if (redis.status !== 'ready') return 0;
    const key = `${namespace}:epoch`;
    const [info, epoch] = await withDeadline(
      Promise.all([redis.info('server'), redis.get(key)]),
      2000,
      'asking Redis for its epoch',
    );
    const runId = /run_id:(\w+)/.exec(info)?.[1] ?? '';
    const now = `${runId}:${epoch ?? ''}`;
    if (epoch && this.#known === now) return 0;
    const first = this.#known === undefined;
    const next = epoch ?? newId();
    const count = await this.#setAll();
    await withDeadline(redis.set(key, next), 2000, 'telling Redis its epoch');
    this.#known = `${runId}:${next}`;
    if (count > 0 || !first) this.#deps.log.info({ count, first }, 'alarms set again from the rows');
    return count;
  }

  /** Sets the alarms of overdue rows again. Returns how many. */
  async sweep(): Promise<number> {
    let count = 0;
    for (const { queue, table } of ALARM_TABLES) {
      const lines = table === 'webhook_deliveries';
      const { rows } = await sql<Row>`
        select id, attempts, generation, next_attempt_at as at from ${sql.table(table)}
        where status = 'pending' and ${OVERDUE} ${lines ? sql`and reason is distinct from ${PARKED}` : sql``}
        order by next_attempt_at limit ${PAGE}`.execute(this.#deps.database.em.fork().getKysely());
      count += await this.#ring(queue, rows);
      if (lines) count += await this.#sweepLines(queue);
    }
    if (count > 0) this.#deps.log.info({ count }, 'alarms of overdue rows set again');
    return count;
  }

  /** Endpoint by endpoint along the index of parked deliveries, so that the length of a line does not matter. */
  async #sweepLines(queue: AlarmQueue): Promise<number> {
    const parked = sql`status = 'pending' and reason = ${PARKED}`;
    let count = 0;
    for (let after: string | null = null; ; ) {
      const { rows } = await sql<Row & { endpoint_id: string }>`
        with recursive lines (endpoint_id, n) as (
          (select endpoint_id, 1 from webhook_deliveries
            where ${parked} and (${after}::uuid is null or endpoint_id > ${after}::uuid) order by endpoint_id limit 1)
          union all
          select next.endpoint_id, lines.n + 1 from lines cross join lateral (
            select endpoint_id from webhook_deliveries
            where ${parked} and endpoint_id > lines.endpoint_id order by endpoint_id limit 1
          ) next where lines.n < ${PAGE}
        )
        select lines.endpoint_id, first.id, first.attempts, first.generation, case when ${OVERDUE} then first.next_attempt_at end as at
        from lines left join lateral (
          select id, attempts, generation, next_attempt_at, lease_until from webhook_deliveries
          where ${parked} and endpoint_id = lines.endpoint_id and (lease_until is null or lease_until < now())
          order by (cause not in ('manual', 'test')), id limit 1
        ) first on true order by lines.endpoint_id`.execute(this.#deps.database.em.fork().getKysely());
      count += await this.#ring(
        queue,
        rows.filter(({ at }) => at !== null),
      );
      if (rows.length < PAGE) return count;
      after = rows.at(-1)?.endpoint_id ?? null;
    }
  }

  async #ring(queue: AlarmQueue, rows: Row[]): Promise<number> {
    if (rows.length > 0) await this.#deps.alarms.ringNow(rows.map((row) => alarmOf(queue, row)));
    return rows.length;
  }

  async #setAll(): Promise<number> {
    let count = 0;
    for (const { queue, table } of ALARM_TABLES) {
      let after = '00000000-0000-0000-0000-000000000000';
      for (;;) {
        const { rows } = await sql<Row>`
          select id, attempts, generation, greatest(next_attempt_at, lease_until) as at from ${sql.table(table)}
          where status = 'pending' and id > ${after} order by id limit ${PAGE}`.execute(
          this.#deps.database.em.fork().getKysely(),
        );
        if (rows.length === 0) break;
        await this.#deps.alarms.set(rows.map((row) => alarmOf(queue, row)));
        count += rows.length;
        after = rows.at(-1)?.id ?? after;
      }
    }
    return count;
  }

  async #every(ms: number, work: () => Promise<unknown>): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      try {
        await work();
      } catch (error) {
        this.#deps.log.debug({ error: (error as Error).message }, 'reconciling later');
      }
      await pause(ms, this.#stopping.signal);
    }
  }
}

const alarmOf = (queue: AlarmQueue, row: Row): Alarm => ({
  queue,
  id: row.id,
  attempt: row.attempts,
  generation: row.generation,
  at: row.at ? Date.parse(iso(row.at)) : currentTime(),
});
