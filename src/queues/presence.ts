import { hostname } from 'node:os';
import type { Redis } from 'ioredis';
import type { Pool } from '../config.ts';
import { currentTime } from '../services/clock.ts';
import { pause, type Service, withDeadline } from '../services/service.ts';
import { Backlog } from './backlog.ts';
import type { Messaging } from './messaging.ts';
import type { RunningPool } from './pools.ts';
import { BROKER_POOLS, type BrokerPool } from './topology.ts';

const BEAT_MS = 2000;
/** A process that has been silent for so long counts as gone. */
const SILENCE_MS = 7000;

/** What a process tells of itself and its pools. */
export interface Beat {
  id: string;
  host: string;
  pid: number;
  version: string;
  seen_at: string;
  /** `configured`: the concurrency that the process was started with. */
  pools: { pool: Pool; configured: number; in_flight: number }[];
  /** Whatever waits in a pool's queue was published after this, in ms since the epoch (see `Backlog`). */
  waiting_since: Partial<Record<BrokerPool, number>>;
}

/** Tells every 2 s which pools this process runs, how busy they are, and what it knows of their queues. */
export class Presence implements Service {
  readonly name = 'presence';
  readonly #redis: Redis;
  readonly #key: string;
  readonly #pools: RunningPool[];
  readonly #watched: BrokerPool[];
  readonly #backlog: Backlog;
  readonly #self: { id: string; host: string; pid: number; version: string };
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(messaging: Messaging, pools: RunningPool[], self: { id: string; version: string }) {
    this.#redis = messaging.redis;
    this.#key = presenceKey(messaging.topology.namespace);
    this.#pools = pools;
    // Housekeeping looks after every queue, also of a pool that nobody runs just now.
    const all = pools.some(({ pool }) => pool === 'housekeeping');
    this.#watched = BROKER_POOLS.filter((name) => all || pools.some(({ pool }) => pool === name));
    this.#backlog = new Backlog(messaging);
    this.#self = { ...self, host: hostname(), pid: process.pid };
  }

  async start(): Promise<void> {
    this.#running ??= this.#beat();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    if (this.#redis.status === 'ready') await this.#redis.hdel(this.#key, this.#self.id).catch(() => undefined);
  }

  async #beat(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      if (this.#redis.status === 'ready') {
        await withDeadline(this.#backlog.look(this.#watched), 1000, 'looking at the queues').catch(() => undefined);
        await this.#redis.hset(this.#key, this.#self.id, JSON.stringify(this.#tell())).catch(() => undefined);
      }
      await pause(BEAT_MS, this.#stopping.signal);
    }
  }

  #tell(): Beat {
    const taken = new Map(this.#pools.map((pool) => [pool.pool as string, pool.lastPublishedAt()]));
    const since = this.#watched.map((pool) => [
      pool,
      Math.max(taken.get(pool) ?? 0, this.#backlog.emptyAt(pool) ?? 0) || undefined,
    ]);
    return {
      ...this.#self,
      seen_at: new Date(currentTime()).toISOString(),
      pools: this.#pools.map((p) => ({ pool: p.pool, configured: p.configured, in_flight: p.inFlight() })),
      waiting_since: Object.fromEntries(since),
    };
  }
}

const presenceKey = (namespace: string): string => `${namespace}:presence`;

/** The last beat of every process that is there; those of processes that are gone are removed. */
export async function readBeats(redis: Redis, namespace: string): Promise<Beat[]> {
  const key = presenceKey(namespace);
  const all = await withDeadline(redis.hgetall(key), 500, 'reading presence');
  const fresh: Beat[] = [];
  for (const [id, text] of Object.entries(all)) {
    const beat = JSON.parse(text) as Beat;
    if (Date.parse(beat.seen_at) > currentTime() - SILENCE_MS) fresh.push(beat);
    else redis.hdel(key, id).catch(() => undefined);
  }
  return fresh;
}
