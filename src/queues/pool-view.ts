import { sql } from 'kysely';
import { type Config, POOLS, type Pool } from '../config.ts';
import { countDeadLetters } from '../domain/dead-letters/dead-letters.ts';
import type { AlarmQueue } from '../domain/messages/emit.ts';
import { type PoolSettings, readPoolSettings } from '../domain/pools/settings.ts';
import { currentTime } from '../services/clock.ts';
import type { Database, EntityManager } from '../services/database.ts';
import { withDeadline } from '../services/service.ts';
import { ALARM_QUEUES } from './alarms.ts';
import { Backlog } from './backlog.ts';
import type { Messaging } from './messaging.ts';
import { type Beat, readBeats } from './presence.ts';
import { ALARM_TABLES } from './reconcile.ts';
import { BROKER_POOLS, type BrokerPool } from './topology.ts';

export interface WorkerPresence {
  id: string;
  host: string;
  pid: number;
  version: string;
  in_flight: number;
  seen_at: string;
}

export interface PoolState {
  pool: Pool;
  /** Work in flight per process: what is set, else what the processes were started with. */
  concurrency: number;
  paused: boolean;
  /** Messages and alarms that nobody has taken. */
  backlog: number;
  /** How long the oldest of what waits has waited at most; 0 when nothing does. */
  oldest_age_ms: number;
  in_flight: number;
  dead_letters: number;
  workers: WorkerPresence[];
}

const isBrokerPool = (pool: Pool): pool is BrokerPool => (BROKER_POOLS as readonly Pool[]).includes(pool);

/**
 * Every pool with what is set, what waits, what runs and who works on it. What cannot be asked just now reads 0 or
 * empty, settings as they were last known.
 *
 * The age of what waits: of alarms, the oldest row that is due and not taken; of messages, see `Backlog`, from the
 * latest that any process knows. Where no process watches a queue, from when this view first saw something wait there.
 */
export class PoolView {
  readonly #messaging: Messaging;
  readonly #database: Database;
  readonly #configured: Config['concurrency'];
  readonly #backlog: Backlog;
  readonly #firstSeen = new Map<Pool, number>();
  #settings = new Map<Pool, PoolSettings>();

  constructor(deps: { messaging: Messaging; database: Database; concurrency: Config['concurrency'] }) {
    this.#messaging = deps.messaging;
    this.#database = deps.database;
    this.#configured = deps.concurrency;
    this.#backlog = new Backlog(deps.messaging);
  }

  async states(): Promise<PoolState[]> {
    const em = () => this.#database.em.fork();
    const [beats, messages, alarms, due, dead, settings] = await Promise.all([
      readBeats(this.#messaging.redis, this.#messaging.topology.namespace).catch(() => []),
      this.#backlog.look().catch(() => new Map<BrokerPool, number>()),
      this.#alarms(),
      oldestDueMs(em()).catch(() => new Map<AlarmQueue, number>()),
      countDeadLetters(em()).catch(() => new Map<string, number>()),
      readPoolSettings(em()).catch(() => this.#settings),
    ]);
    this.#settings = settings;
    return POOLS.map((pool) => {
      const set = settings.get(pool);
      const started = beats.flatMap((beat) => beat.pools.filter((p) => p.pool === pool));
      const workers = workersOf(pool, beats);
      const waiting = isBrokerPool(pool) ? (messages.get(pool) ?? 0) : 0;
      const queue = isBrokerPool(pool) ? this.#messaging.topology.queue(pool) : pool;
      return {
        pool,
        concurrency:
          set?.concurrency ??
          (started.length > 0 ? Math.max(...started.map((p) => p.configured)) : this.#configured[pool]),
        paused: set?.paused ?? false,
        backlog: waiting + (alarms.get(pool as AlarmQueue) ?? 0),
        oldest_age_ms: Math.max(due.get(pool as AlarmQueue) ?? 0, this.#age(pool, waiting, beats)),
        in_flight: workers.reduce((n, worker) => n + worker.in_flight, 0),
        dead_letters: dead.get(queue) ?? 0,
        workers,
      };
    });
  }

  #age(pool: Pool, waiting: number, beats: Beat[]): number {
    if (!isBrokerPool(pool) || waiting === 0) {
      this.#firstSeen.delete(pool);
      return 0;
    }
    const known = [this.#backlog.emptyAt(pool), ...beats.map((beat) => beat.waiting_since?.[pool])];
    const since = known.filter((at) => at !== undefined);
    const now = currentTime();
    if (!this.#firstSeen.has(pool)) this.#firstSeen.set(pool, now);
    return Math.max(0, now - (since.length > 0 ? Math.max(...since) : (this.#firstSeen.get(pool) ?? now)));
  }

  async #alarms(): Promise<Map<AlarmQueue, number>> {
    const counts = ALARM_QUEUES.map(async (queue): Promise<[AlarmQueue, number]> => {
      const found = await withDeadline(this.#messaging.alarms.counts(queue), 500, 'counting alarms').catch(
        () => undefined,
      );
      return [queue, (found?.waiting ?? 0) + (found?.delayed ?? 0)];
    });
    return new Map(await Promise.all(counts));
  }
}

const workersOf = (pool: Pool, beats: Beat[]): WorkerPresence[] =>
  beats.flatMap(({ id, host, pid, version, seen_at, pools }) =>
    pools.filter((p) => p.pool === pool).map(({ in_flight }) => ({ id, host, pid, version, in_flight, seen_at })),
  );

/** For how long the oldest row that nobody has claimed has been due, by its alarm queue. */
async function oldestDueMs(em: EntityManager): Promise<Map<AlarmQueue, number>> {
  const ages = ALARM_TABLES.map(async ({ queue, table }): Promise<[AlarmQueue, number]> => {
    const { rows } = await sql<{ ms: string | null }>`
      select floor(extract(epoch from now() - min(next_attempt_at)) * 1000) as ms from ${sql.table(table)}
      where status = 'pending' and next_attempt_at < now() and (lease_until is null or lease_until < now())`.execute(
      em.fork().getKysely(),
    );
    return [queue, Number(rows[0]?.ms ?? 0)];
  });
  return new Map(await Promise.all(ages));
}
