import { sql } from 'kysely';
import { currentTime } from '../../services/clock.ts';
import type { Database } from '../../services/database.ts';
import type { Logger } from '../../services/logger.ts';
import { CACHE_LIFE_MS, type RevisionNotices, RevisionWatch } from '../../services/revision.ts';
import { pause, type Service } from '../../services/service.ts';
import { Timer } from '../../services/timer.ts';
import { hashKey, isApiKey } from './key.ts';
import type { MachineClient, Scope } from './scopes.ts';
import { KeyUsage } from './usage.ts';

/** Keys remembered per process, those that do not exist included. */
const REMEMBERED = 10_000;
const FLUSH_MS = 5000;

interface Known extends MachineClient {
  /** In ms since the epoch. */
  expiresAt: number;
}

/** Keys by their hash, all as of one revision; `undefined` for one that is unknown or revoked. */
interface Cache {
  revision: string;
  keys: Map<string, Known | undefined>;
}

export interface KeyNotices extends RevisionNotices {
  announce(name: string): Promise<boolean>;
}

/**
 * Says whose API key it is. A key that was seen before costs no round trip: it counts as long as the revision of the
 * keys stands, which is read at most once a second while notices of changes come in, and for each request otherwise.
 * A look-up that ends after the revision has moved on goes into the cache that was dropped with the old one.
 */
export class ApiKeyVerifier implements Service {
  readonly name = 'api keys';
  readonly #database: Database;
  readonly #notices: KeyNotices | undefined;
  readonly #watch: RevisionWatch;
  readonly #usage: KeyUsage;
  readonly #flushes: Timer;
  #cache: Cache = { revision: '', keys: new Map() };

  constructor(deps: { database: Database; log: Logger; notices?: KeyNotices }) {
    this.#database = deps.database;
    this.#notices = deps.notices;
    this.#watch = new RevisionWatch(deps.database, 'api_keys', deps.notices);
    this.#usage = new KeyUsage(deps.database);
    this.#flushes = new Timer('key usage', FLUSH_MS, () => this.#usage.flush(), deps.log);
  }

  start(): Promise<void> {
    return this.#flushes.start();
  }

  async stop(): Promise<void> {
    await this.#flushes.stop();
    await this.#usage.flush().catch(() => undefined);
  }

  /** `undefined` for a key that is malformed, unknown, expired or revoked. Rejects when PostgreSQL cannot be asked. */
  readonly authenticate = async (key: string): Promise<MachineClient | undefined> => {
    if (!isApiKey(key)) return undefined;
    const revision = await this.#watch.current();
    if (revision !== this.#cache.revision) this.#cache = { revision, keys: new Map() };
    const { keys } = this.#cache;
    const hash = hashKey(key);
    const name = hash.toString('base64');
    let known = keys.get(name);
    if (known === undefined && !keys.has(name)) {
      known = await this.#find(hash);
      if (keys.size >= REMEMBERED) keys.clear();
      keys.set(name, known);
    }
    if (known === undefined || known.expiresAt <= currentTime()) return undefined;
    this.#usage.note(known.keyId);
    return known;
  };

  /**
   * Tells all processes that keys were changed; call it after the commit. Resolves when the change is in force
   * everywhere: without Redis that is when every process has read the revision again.
   */
  async changed(): Promise<void> {
    if (this.#notices && !(await this.#notices.announce('api_keys'))) await pause(CACHE_LIFE_MS);
  }

  async #find(hash: Buffer): Promise<Known | undefined> {
    const { rows } = await sql<{ id: string; tenant: string; scopes: Scope[]; expires_at: string | null }>`
      select id, tenant, scopes, expires_at from api_keys where key_hash = ${hash} and revoked_at is null`.execute(
      this.#database.em.fork().getKysely(),
    );
    const [row] = rows;
    return (
      row && {
        keyId: row.id,
        tenant: row.tenant,
        scopes: row.scopes,
        expiresAt: row.expires_at === null ? Number.POSITIVE_INFINITY : Date.parse(row.expires_at),
      }
    );
  }
}
