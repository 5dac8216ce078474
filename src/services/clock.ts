import { sql } from 'kysely';
import type { Database } from './database.ts';
import { pause, withDeadline } from './service.ts';

/*
 * The platform's time is PostgreSQL's. What is due, how old something is and when a token ends are told by columns of
 * the database and compared in many processes, so all of them go by its clock; between two looks at it a process goes
 * by its monotonic clock. A host whose wall clock jumps (set by hand, a wrong time server, a restored machine) so
 * changes nothing: no wait ends early or grows by an hour, no expired token is good again.
 *
 *   unset (the host's clock) ──first look──► set ──every 2 s──► set anew
 *
 * One per process, like the clock that it stands for.
 */

const LOOK_MS = 2000;
/** A look that took longer says too little about now. */
const PRECISE_MS = 500;
const LOOK_DEADLINE_MS = 5000;

/** The database's time at 0 of the monotonic clock. */
let origin: number | undefined;

/** Ms since the epoch, as whole as `Date.now()`: by PostgreSQL's clock once a `DatabaseClock` has started, else by the host's. */
export const currentTime = (): number => (origin === undefined ? Date.now() : Math.floor(origin + performance.now()));

/** Keeps `currentTime` at PostgreSQL's. While PostgreSQL is away the monotonic clock goes on alone. */
export class DatabaseClock {
  readonly #database: Database;
  readonly #stopping = new AbortController();
  #started = false;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Resolves when the time is PostgreSQL's; rejects when it cannot be asked. */
  async start(): Promise<void> {
    if (this.#started) return;
    this.#started = true;
    await this.look();
    void this.#keep();
  }

  /** A look that is under way ends with the database's connections. */
  stop(): void {
    this.#stopping.abort();
  }

  /** Sets the time once. */
  async look(): Promise<void> {
    const began = performance.now();
    const { rows } = await withDeadline(
      sql<{ ms: number }>`select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms`.execute(
        this.#database.em.fork().getKysely(),
      ),
      LOOK_DEADLINE_MS,
      "reading PostgreSQL's clock",
    );
    const ended = performance.now();
    const ms = Number(rows[0]?.ms);
    if (origin === undefined || ended - began < PRECISE_MS) origin = ms - (began + ended) / 2;
  }

  async #keep(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      await pause(LOOK_MS, this.#stopping.signal);
      if (!this.#stopping.signal.aborted) await this.look().catch(() => undefined); // the pool logs its own outages
    }
  }
}
