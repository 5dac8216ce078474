import { sql } from 'kysely';
import { Counter, type Registry } from 'prom-client';
import { currentTime } from '../services/clock.ts';
import { type Database, type EntityManager, iso } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { tableOf } from '../services/rows.ts';
import { type Hold, Queue } from './holds.ts';
import type { Pause } from './throttle.ts';

/*
 * Breakers: an endpoint that only fails is left alone for a while. The state is in PostgreSQL, one row per endpoint
 * that ever failed, so that all processes act on the same one and no restart or loss of Redis forgets it.
 *
 *   closed ──≥ 20 attempts in the window, ≥ 90 % of them failed──► open (5 s)
 *   open ──its time is over──► one probe over all processes ──success──► closed
 *                                                            └──failure──► open, twice as long, up to 60 s
 *
 * Counting costs nothing while an endpoint only succeeds: only results of endpoints that failed within the last 60 s, as
 * this process knows, are added to the row, by the group commit that holds them. A window begins with the first
 * failure and ends after 60 s. Opening and closing bump the revision "breakers"; every process looks at it.
 *
 * The rows also carry the pauses that endpoints asked for (throttle.ts), for they are told to all processes in the same
 * way: written with the answer that begins one, seen at the next look.
 */

const MIN_ATTEMPTS = 20;
const FAILED_SHARE = 0.9;
const WINDOW_MS = 60_000;
const FIRST_BACKOFF_MS = 5000;
const MAX_BACKOFF_MS = 60_000;
/** What a probe may take beyond its endpoint's timeout. */
const PROBE_MARGIN_MS = 10_000;
/** How long others stay away while one probes, in ms, before they look again. */
const PROBING_MS = 1000;
/** How stale this process's view may be, in ms: a late look costs attempts at a broken endpoint, not order or loss. */
const LOOK_MS = 200;
/** How far apart those come back that were put off, in ms: each costs a look, and most find it open still. */
const STEP_MS = 250;

/** What became of one attempt, for its endpoint's breaker. */
export interface Verdict {
  endpointId: string;
  failed: boolean;
  /** It was the probe of an open breaker, or a manual attempt that passed one. */
  probe: boolean;
  /** The pause that the answer has begun. */
  pause?: Pause | undefined;
}

/** What a group commit did to breakers; to be taken on after the commit. */
export interface Turned {
  opened: { endpointId: string; until: number }[];
  closed: string[];
}

/** What is added to an endpoint's row. */
interface Count {
  endpoint_id: string;
  attempts: number;
  failures: number;
}

const COUNT = { endpoint_id: 'uuid', attempts: 'int', failures: 'int' } as const;
const uncounted = (endpointId: string): Count => ({ endpoint_id: endpointId, attempts: 0, failures: 0 });

interface Known {
  endpoint_id: string;
  open_until: string | null;
  paused_until: string | null;
  pause_ms: number;
}

interface Open {
  until: number;
  queue: Queue;
}

export class Breakers {
  readonly #database: Database;
  readonly #log: Logger;
  readonly #turns: Counter<'to'> | undefined;
  readonly #onPaused: (pauses: (Pause & { endpointId: string })[]) => void;
  #open = new Map<string, Open>();
  /** When an endpoint failed last, as this process knows; ms of the monotonic clock. */
  readonly #failed = new Map<string, number>();
  #revision: string | undefined;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #looking: Promise<void> | undefined;

  /** `onPaused` hears of the pauses that are recorded, at each look that finds something new. */
  constructor(
    database: Database,
    log: Logger,
    {
      metrics,
      onPaused = () => undefined,
    }: {
      metrics?: Registry | undefined;
      onPaused?: (pauses: (Pause & { endpointId: string })[]) => void;
    } = {},
  ) {
    this.#database = database;
    this.#log = log;
    this.#onPaused = onPaused;
    if (!metrics) return;
    this.#turns = new Counter({
      name: 'waybill_webhook_breaker_turns_total',
      help: 'Breakers of webhook endpoints that were opened, opened again by a failed probe, or closed.',
      labelNames: ['to'],
      registers: [metrics],
    });
  }

  /** Makes the view at most 200 ms old. */
  async refresh(): Promise<void> {
    if (performance.now() - this.#lookedAt < LOOK_MS) return;
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    await this.#looking;
  }

  /** Set while the breaker is open and it is not yet time for a probe. */
  hold(endpointId: string): Hold | undefined {
    const open = this.#open.get(endpointId);
    return open && open.until > currentTime() ? this.#holdOf(open, open.until) : undefined;
  }

  /**
   * What an attempt is that would begin now: `closed`, nothing in its way; `probe`, claimed for this process; or put
   * off, because it is not time yet or another one probes.
   */
  async admit(endpointId: string, timeoutMs: number): Promise<'closed' | 'probe' | Hold> {
    const open = this.#open.get(endpointId);
    if (!open) return 'closed';
    if (open.until > currentTime()) return this.#holdOf(open, open.until);
    const db = this.#database.em.fork().getKysely();
    const claimed = await sql`
      update webhook_breakers set probe_until = now() + ${timeoutMs + PROBE_MARGIN_MS} * interval '1 ms', updated_at = now()
      where endpoint_id = ${endpointId} and state = 'open' and open_until <= now() and (probe_until is null or probe_until < now())
      returning 1`.execute(db);
    if (claimed.rows.length > 0) return 'probe';
    const { rows } = await sql<{ open_until: string }>`
      select open_until from webhook_breakers where endpoint_id = ${endpointId} and state = 'open'`.execute(db);
    const [row] = rows;
    if (!row) return 'closed';
    open.until = Math.max(open.until, Date.parse(iso(row.open_until)));
    return this.#holdOf(open, Math.max(open.until, currentTime() + PROBING_MS));
  }

  /** A claimed probe that was not sent after all. */
  async unclaim(endpointId: string): Promise<void> {
    await sql`update webhook_breakers set probe_until = null where endpoint_id = ${endpointId} and state = 'open'`.execute(
      this.#database.em.fork().getKysely(),
    );
  }

  /** Counts a group's results in the transaction that records them; hand what it returns to `taken` after the commit. */
  async count(em: EntityManager, verdicts: readonly Verdict[]): Promise<Turned> {
    const turned: Turned = { opened: [], closed: [] };
    const counts = this.#countsOf(verdicts);
    const counted = new Set(counts.map(({ endpoint_id }) => endpoint_id));
    const probes = new Map(verdicts.filter((v) => v.probe).map((v) => [v.endpointId, v.failed]));
    if (counts.length === 0 && probes.size === 0) return turned;
    const db = em.getKysely();
    // One statement locks them all, in one order: a row that it does not find has no breaker that a probe could turn.
    const touched = [...counts, ...[...probes.keys()].flatMap((id) => (counted.has(id) ? [] : [uncounted(id)]))];
    const { rows } = await sql<{ endpoint_id: string; opens: boolean }>`
      insert into webhook_breakers as b (endpoint_id, attempts, failures)
      select endpoint_id, attempts, failures from ${tableOf(touched, COUNT)} as r (endpoint_id, attempts, failures)
      where attempts > 0 or exists (select 1 from webhook_breakers known where known.endpoint_id = r.endpoint_id)
      order by endpoint_id
      on conflict (endpoint_id) do update set updated_at = now(),
        window_started_at = case when ${FRESH} then b.window_started_at else now() end,
        attempts = case when ${FRESH} then b.attempts else 0 end + excluded.attempts,
        failures = case when ${FRESH} then b.failures else 0 end + excluded.failures
      returning endpoint_id,
        state = 'closed' and attempts >= ${MIN_ATTEMPTS} and failures >= ${FAILED_SHARE}::float8 * attempts as opens`.execute(
      db,
    );
    for (const { endpoint_id, opens } of rows) {
      if (!opens) continue;
      const until = await this.#openAfter(em, endpoint_id, FIRST_BACKOFF_MS);
      turned.opened.push({ endpointId: endpoint_id, until });
    }
    for (const { endpoint_id: endpointId } of rows) {
      const failed = probes.get(endpointId);
      if (failed) {
        const until = await this.#probeFailed(em, endpointId);
        if (until !== undefined) turned.opened.push({ endpointId, until });
      } else if (failed === false && (await this.#close(em, endpointId))) turned.closed.push(endpointId);
    }
    const paused = await this.#pause(em, verdicts);
    if (paused || turned.opened.length + turned.closed.length > 0)
      await sql`update revisions set revision = revision + 1 where name = 'breakers'`.execute(db);
    return turned;
  }

  /** Records pauses; their endpoints' rows are there and locked, since a throttled answer is counted as a failure. */
  async #pause(em: EntityManager, verdicts: readonly Verdict[]): Promise<boolean> {
    const pauses = verdicts.flatMap(({ endpointId, pause }) =>
      pause ? [{ endpointId, until: new Date(pause.until).toISOString(), backoffMs: pause.backoffMs }] : [],
    );
    if (pauses.length === 0) return false;
    const row = { endpointId: 'uuid', until: 'timestamptz', backoffMs: 'int' } as const;
    await sql`
      update webhook_breakers b set updated_at = now(),
        paused_until = greatest(b.paused_until, p.until), pause_ms = p.backoff_ms
      from (
        select endpoint_id, max(until) as until, max(backoff_ms) as backoff_ms
        from ${tableOf(pauses, row)} as given (endpoint_id, until, backoff_ms) group by endpoint_id
      ) p where p.endpoint_id = b.endpoint_id`.execute(em.getKysely());
    return true;
  }

  /** Takes on what a commit has done. */
  taken({ opened, closed }: Turned): void {
    for (const { endpointId, until } of opened) {
      const again = this.#open.get(endpointId);
      this.#open.set(endpointId, { until, queue: again?.queue ?? new Queue() });
      this.#turns?.inc({ to: again ? 'reopened' : 'open' });
      this.#log.warn(
        { endpoint: endpointId, until: new Date(until).toISOString() },
        'the breaker of an endpoint opens',
      );
    }
    for (const endpointId of closed) {
      this.#open.delete(endpointId);
      this.#failed.delete(endpointId);
      this.#turns?.inc({ to: 'closed' });
      this.#log.info({ endpoint: endpointId }, 'the breaker of an endpoint closes');
    }
  }

  /** Attempts and failures by endpoint, of those that failed lately; this is also where failures are remembered. */
  #countsOf(verdicts: readonly Verdict[]): Count[] {
    const now = performance.now();
    for (const { endpointId, failed } of verdicts) if (failed) this.#failed.set(endpointId, now);
    if (this.#failed.size === 0) return [];
    const counts = new Map<string, Count>();
    for (const { endpointId, failed } of verdicts) {
      const last = this.#failed.get(endpointId);
      if (last === undefined) continue;
      if (now - last > WINDOW_MS) {
        this.#failed.delete(endpointId);
        continue;
      }
      const count = counts.get(endpointId) ?? uncounted(endpointId);
      count.attempts += 1;
      if (failed) count.failures += 1;
      counts.set(endpointId, count);
    }
    return [...counts.values()];
  }

  async #openAfter(em: EntityManager, endpointId: string, backoffMs: number): Promise<number> {
    const { rows } = await sql<{ open_until: string }>`
      update webhook_breakers set state = 'open', backoff_ms = ${backoffMs}, probe_until = null, updated_at = now(),
        open_until = clock_timestamp() + ${backoffMs} * interval '1 ms'
      where endpoint_id = ${endpointId} returning open_until`.execute(em.getKysely());
    return Date.parse(iso(rows[0]?.open_until ?? new Date()));
  }

  /** `undefined` when it is closed already. A manual attempt before its time is no probe and changes nothing. */
  async #probeFailed(em: EntityManager, endpointId: string): Promise<number | undefined> {
    const { rows } = await sql<{ backoff_ms: number }>`
      select backoff_ms from webhook_breakers
      where endpoint_id = ${endpointId} and state = 'open' and open_until <= now() and probe_until is not null for update`.execute(
      em.getKysely(),
    );
    const [row] = rows;
    return row && this.#openAfter(em, endpointId, Math.min(2 * row.backoff_ms, MAX_BACKOFF_MS));
  }

  async #close(em: EntityManager, endpointId: string): Promise<boolean> {
    const { rows } = await sql`
      update webhook_breakers set state = 'closed', backoff_ms = 0, open_until = null, probe_until = null,
        attempts = 0, failures = 0, window_started_at = now(), updated_at = now()
      where endpoint_id = ${endpointId} and state = 'open' returning 1`.execute(em.getKysely());
    return rows.length > 0;
  }

  #holdOf(open: Open, from: number): Hold {
    const until = open.queue.next(Math.max(from, currentTime() + STEP_MS), STEP_MS);
    return { until, reason: `${OPEN_UNTIL} ${new Date(open.until).toISOString()}` };
  }

  async #look(): Promise<void> {
    const { rows } = await sql<{ revision: string; known: Known[] | null }>`
      select revision, case when revision is distinct from ${this.#revision ?? null}::bigint then (
        select coalesce(json_agg(json_build_object('endpoint_id', endpoint_id, 'pause_ms', pause_ms,
          'open_until', case when state = 'open' then open_until end, 'paused_until', case when paused_until > now() then paused_until end)), '[]')
        from webhook_breakers where state = 'open' or paused_until > now()
      ) end as known
      from revisions where name = 'breakers'`.execute(this.#database.em.fork().getKysely());
    const [row] = rows;
    this.#lookedAt = performance.now();
    if (!row?.known) return;
    this.#revision = row.revision;
    this.#open = new Map(
      row.known.flatMap(({ endpoint_id, open_until }): [string, Open][] =>
        open_until === null
          ? []
          : [
              [
                endpoint_id,
                { until: Date.parse(iso(open_until)), queue: this.#open.get(endpoint_id)?.queue ?? new Queue() },
              ],
            ],
      ),
    );
    this.#onPaused(
      row.known.flatMap(({ endpoint_id, paused_until, pause_ms }) =>
        paused_until === null
          ? []
          : [{ endpointId: endpoint_id, until: Date.parse(iso(paused_until)), backoffMs: pause_ms }],
      ),
    );
  }
}

const OPEN_UNTIL = 'breaker open until';
const FRESH = sql`b.window_started_at > now() - ${WINDOW_MS} * interval '1 ms'`;

/** A row that waits, as its alarm needs it; `at` in ms since the epoch. */
export interface Awaited {
  id: string;
  attempts: number;
  generation: number;
  at: number;
}

/**
 * Has the oldest that waits for a breaker come back when it may be probed, `at`: with many of them put off one after
 * another, the next one may be minutes away. `undefined` when none waits beyond that time.
 */
export async function advanceOldest(em: EntityManager, endpointId: string, at: number): Promise<Awaited | undefined> {
  const time = new Date(at).toISOString();
  const { rows } = await sql<Omit<Awaited, 'at'>>`
    update webhook_deliveries d set generation = generation + 1, next_attempt_at = ${time}::timestamptz
    from (
      select id from webhook_deliveries
      where endpoint_id = ${endpointId} and status = 'pending' and reason like ${`${OPEN_UNTIL} %`}
        and next_attempt_at > ${time}::timestamptz and (lease_until is null or lease_until < now())
      order by created_at, id limit 1 for update skip locked
    ) oldest
    where d.id = oldest.id
    returning d.id, d.attempts, d.generation`.execute(em.getKysely());
  return rows[0] && { ...rows[0], at };
}

/** Deliveries per page when a breaker closes. */
const PAGE = 500;

/**
 * Brings back what waits for a breaker that has closed, the oldest first and `stepMs` apart; calls `each` with the
 * alarms of a page, after its commit.
 */
export async function bringBack(
  em: EntityManager,
  endpointId: string,
  stepMs: number,
  each: (rows: Awaited[]) => Promise<void>,
): Promise<void> {
  for (let done = 0; ; ) {
    const { rows } = await sql<{ id: string; attempts: number; generation: number; next_attempt_at: string }>`
      update webhook_deliveries d set generation = generation + 1, reason = 'waits its turn after an open breaker',
        next_attempt_at = now() + (${done * stepMs}::float8 + waiting.n * ${stepMs}::float8) * interval '1 ms'
      from (
        select id, row_number() over (order by created_at, id) as n from webhook_deliveries
        where endpoint_id = ${endpointId} and status = 'pending' and reason like ${`${OPEN_UNTIL} %`}
          and (lease_until is null or lease_until < now())
        order by created_at, id limit ${PAGE}
      ) waiting
      where d.id = waiting.id and d.status = 'pending'
      returning d.id, d.attempts, d.generation, d.next_attempt_at`.execute(em.getKysely());
    if (rows.length === 0) return;
    await each(rows.map(({ next_attempt_at, ...row }) => ({ ...row, at: Date.parse(iso(next_attempt_at)) })));
    done += rows.length;
    if (rows.length < PAGE) return;
  }
}
