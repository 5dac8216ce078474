import { sql } from 'kysely';
import type { Database, EntityManager } from './database.ts';
import { SharedLook } from './shared-look.ts';

/** How long something in memory counts as current without a look at its revision, in ms. */
export const CACHE_LIFE_MS = 1000;

/** What a process may hear of new revisions; see `Notices`. */
export interface RevisionNotices {
  readonly since: number | undefined;
  onNotice(name: string, listener: () => void): void;
}

/** The things that processes keep in memory under a revision of this kind. */
export type Revised = 'api_keys' | 'event_types' | 'sessions';

/**
 * The revision of something that this process keeps in memory.
 *
 * States: *stale* → a look at PostgreSQL → *fresh* for one cache life → stale. A notice makes it stale at once, and a
 * look that began before the notice does not make it fresh. While notices may be missed (not subscribed, or for less
 * than one cache life) it is never fresh, so every call looks: pub/sub alone is never trusted.
 */
export class RevisionWatch {
  readonly #database: Database;
  readonly #name: Revised;
  readonly #notices: RevisionNotices | undefined;
  #revision = '';
  /** When the look that made it fresh began. */
  #lookedAt = Number.NEGATIVE_INFINITY;
  #noticed = 0;
  readonly #looks = new SharedLook(() => this.#read());

  /** Without `notices` every call looks. */
  constructor(database: Database, name: Revised, notices?: RevisionNotices) {
    this.#database = database;
    this.#name = name;
    this.#notices = notices;
    notices?.onNotice(name, () => {
      this.#noticed += 1;
      this.#lookedAt = Number.NEGATIVE_INFINITY;
    });
  }

  /** The revision, at most one cache life old. Rejects when PostgreSQL must be asked and cannot be. */
  async current(): Promise<string> {
    const now = performance.now();
    const since = this.#notices?.since;
    const hearing = since !== undefined && now - since >= CACHE_LIFE_MS;
    return hearing && now - this.#lookedAt < CACHE_LIFE_MS ? this.#revision : this.#looks.now();
  }

  async #read(): Promise<string> {
    const began = performance.now();
    const noticed = this.#noticed;
    const { rows } = await sql<{ revision: string }>`
      select revision from revisions where name = ${this.#name}`.execute(this.#database.em.fork().getKysely());
    this.#revision = String(rows[0]?.revision ?? '');
    if (noticed === this.#noticed) this.#lookedAt = began;
    return this.#revision;
  }
}

/** Tells every watch that something changed, with the commit. The row stays locked until then. */
export async function advanceRevision(em: EntityManager, name: Revised): Promise<void> {
  await sql`update revisions set revision = revision + 1 where name = ${name}`.execute(em.getKysely());
}
