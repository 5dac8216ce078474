import { poolsRevision, readPoolSettings } from '../domain/pools/settings.ts';
import type { Database } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import type { RevisionNotices } from '../services/revision.ts';
import { pause, type Service, withDeadline } from '../services/service.ts';
import type { RunningPool } from './pools.ts';

/** How often the revision is read, whether or not a notice came. */
const LOOK_MS = 1000;
const LOOK_DEADLINE_MS = 5000;

/** The name under which changes are announced. */
export const POOLS_NOTICE = 'pools';

/**
 * Keeps the pools of this process as operators have set them.
 *
 *   unknown (every pool held) ──settings read──► current ──another revision──► current …
 *
 * The settings are PostgreSQL's; a notice only makes the next look come sooner. Start it before the pools: one that is
 * paused must not take a single message after a restart. While PostgreSQL is away everything stays as it is.
 */
export class PoolWatcher implements Service {
  readonly name = 'pool settings';
  readonly #deps: {
    database: Database;
    notices?: Pick<RevisionNotices, 'onNotice'>;
    pools: RunningPool[];
    log: Logger;
  };
  readonly #stopping = new AbortController();
  #napping = new AbortController();
  #revision: string | undefined;
  #running: Promise<void> | undefined;

  constructor(deps: {
    database: Database;
    notices?: Pick<RevisionNotices, 'onNotice'>;
    pools: RunningPool[];
    log: Logger;
  }) {
    this.#deps = { ...deps, log: deps.log.child({ service: 'pool settings' }) };
    deps.notices?.onNotice(POOLS_NOTICE, () => this.#napping.abort());
  }

  async start(): Promise<void> {
    if (this.#running) return;
    await this.#look().catch((error: Error) => this.#hold(error));
    this.#running = this.#loop();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#napping.abort();
    await this.#running;
  }

  async #loop(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      await pause(LOOK_MS, this.#napping.signal);
      // Made anew before the look: a notice that comes during it cuts the next nap short.
      this.#napping = new AbortController();
      if (this.#stopping.signal.aborted) return;
      await this.#look().catch((error: Error) =>
        this.#deps.log.debug({ error: error.message }, 'the settings stay as they are'),
      );
    }
  }

  /** Reads the revision, and when it is another one, the settings. */
  async #look(): Promise<void> {
    const em = this.#deps.database.em.fork();
    const revision = await withDeadline(poolsRevision(em), LOOK_DEADLINE_MS, 'reading the revision of the pools');
    if (revision === this.#revision) return;
    const settings = await withDeadline(readPoolSettings(em), LOOK_DEADLINE_MS, 'reading the settings of the pools');
    for (const pool of this.#deps.pools) {
      const set = settings.get(pool.pool);
      const next = { concurrency: set?.concurrency ?? pool.configured, paused: set?.paused ?? false };
      if (next.concurrency === pool.concurrency && next.paused === pool.paused) continue;
      await pool.apply(next);
      this.#deps.log.info({ pool: pool.pool, ...next }, 'the pool is set anew');
    }
    this.#revision = revision;
  }

  /** Nobody knows which pools are paused: none takes work until it is known. */
  async #hold(error: Error): Promise<void> {
    this.#deps.log.warn({ error: error.message }, 'the settings of the pools cannot be read yet');
    for (const pool of this.#deps.pools) {
      if (pool.pool !== 'housekeeping') await pool.apply({ concurrency: pool.concurrency, paused: true });
    }
  }
}
