import { sql } from 'kysely';
import type { Database } from '../../services/database.ts';

/** A key's last use is written at most this often. */
const EVERY_MS = 60_000;

/**
 * When keys were last used: noted in memory, written in one statement per `flush`. The note of a key goes from *due* (in
 * `#due`) to *written* (in `#written`), and a use within a minute of that is not noted again.
 */
export class KeyUsage {
  readonly #database: Database;
  readonly #due = new Map<string, number>();
  readonly #written = new Map<string, number>();

  constructor(database: Database) {
    this.#database = database;
  }

  note(keyId: string, now: number = Date.now()): void {
    if (now - (this.#written.get(keyId) ?? Number.NEGATIVE_INFINITY) >= EVERY_MS) this.#due.set(keyId, now);
  }

  /** Writes what is due. On failure it stays due. */
  async flush(now: number = Date.now()): Promise<void> {
    for (const [id, at] of this.#written) if (now - at >= EVERY_MS) this.#written.delete(id);
    const due = [...this.#due];
    if (due.length === 0) return;
    const ids = due.map(([id]) => id);
    const times = due.map(([, at]) => new Date(at).toISOString());
    // Other processes write too: the minute is the key's, not the process's.
    await sql`
      update api_keys k set last_used_at = u.at
      from unnest(${ids}::uuid[], ${times}::timestamptz[]) as u (id, at)
      where k.id = u.id and (k.last_used_at is null or k.last_used_at <= u.at - make_interval(secs => ${EVERY_MS / 1000}))`.execute(
      this.#database.em.fork().getKysely(),
    );
    for (const [id, at] of due) {
      this.#written.set(id, at);
      if (this.#due.get(id) === at) this.#due.delete(id);
    }
  }
}
