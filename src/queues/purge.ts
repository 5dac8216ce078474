import { type RawBuilder, sql } from 'kysely';
import type { Config } from '../config.ts';
import type { Database } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { pause, type Service } from '../services/service.ts';

/** One purge at a time over all processes; a transaction lock, so that a dead process lets go. */
const PURGE_LOCK = 7_120_003;
const EVERY_MS = 60_000;
/** Rows per transaction: short locks, and the next batch follows at once while there is more. */
const BATCH = 1000;
const MAX_BATCHES = 100;

/** What is purged: rows of `table` older than an age by `column`, as far as `only` holds. */
interface Rule {
  table: string;
  key: string[];
  column: string;
  ageMs: number;
  only?: RawBuilder<unknown>;
}

const DAY = 86_400_000;

function rules(retention: Config['retention']): Rule[] {
  const id = ['id'];
  return [
    { table: 'operations', key: id, column: 'finished_at', ageMs: retention.operations },
    { table: 'idempotency_keys', key: ['scope', 'key'], column: 'created_at', ageMs: 2 * DAY },
    { table: 'inbox', key: ['consumer', 'message_id'], column: 'handled_at', ageMs: retention.inbox },
    { table: 'emails', key: id, column: 'created_at', ageMs: retention.emails, only: sql`status <> 'pending'` },
    { table: 'webhook_attempts', key: id, column: 'started_at', ageMs: retention.events },
    {
      table: 'webhook_deliveries',
      key: id,
      column: 'created_at',
      ageMs: retention.events,
      only: sql`status in ('delivered', 'failed')`,
    },
    {
      table: 'events',
      key: ['tenant', 'id'],
      column: 'created_at',
      ageMs: retention.events,
      only: sql`not exists (select 1 from webhook_deliveries d where d.event_id = events.id and d.tenant = events.tenant and d.status in ('pending', 'held'))`,
    },
    { table: 'dead_letters', key: id, column: 'created_at', ageMs: retention.deadLetters },
    { table: 'kyc_callbacks', key: id, column: 'received_at', ageMs: retention.events },
    { table: 'webhook_secrets', key: id, column: 'expires_at', ageMs: 0 },
    { table: 'user_tokens', key: id, column: 'expires_at', ageMs: 7 * DAY },
    { table: 'sessions', key: id, column: 'expires_at', ageMs: 7 * DAY },
    { table: 'signin_locks', key: ['key'], column: 'last_failure_at', ageMs: 2 * DAY },
  ];
}

/** Deletes finished rows by age, in batches, every minute, in one process at a time. */
export class Purge implements Service {
  readonly name = 'purge';
  readonly #database: Database;
  readonly #rules: Rule[];
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(database: Database, retention: Config['retention'], log: Logger) {
    this.#database = database;
    this.#rules = rules(retention);
    this.#log = log.child({ service: 'purge' });
  }

  async start(): Promise<void> {
    this.#running ??= this.#loop();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  /** One round over every table. Returns how many rows went, by table. */
  async round(): Promise<Record<string, number>> {
    const gone: Record<string, number> = {};
    for (const rule of this.#rules) {
      for (let n = 0; n < MAX_BATCHES && !this.#stopping.signal.aborted; n += 1) {
        const count = await this.#batch(rule);
        if (count > 0) gone[rule.table] = (gone[rule.table] ?? 0) + count;
        if (count < BATCH) break;
      }
    }
    return gone;
  }

  async #batch(rule: Rule): Promise<number> {
    return this.#database.em.fork().transactional(async (em) => {
      const db = em.getKysely();
      const lock = await sql<{ got: boolean }>`select pg_try_advisory_xact_lock(${PURGE_LOCK}) as got`.execute(db);
      if (!lock.rows[0]?.got) return 0;
      const key = sql.join(rule.key.map((column) => sql.ref(column)));
      const result = await sql`
        delete from ${sql.table(rule.table)} where (${key}) in (
          select ${key} from ${sql.table(rule.table)}
          where ${sql.ref(rule.column)} < now() - ${rule.ageMs} * interval '1 ms' and ${rule.only ?? sql`true`}
          limit ${BATCH})`.execute(db);
      return Number(result.numAffectedRows ?? 0);
    });
  }

  async #loop(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      try {
        const gone = await this.round();
        if (Object.keys(gone).length > 0) this.#log.info({ gone }, 'purged old rows');
      } catch (error) {
        this.#log.warn({ error: (error as Error).message }, 'purging later');
      }
      await pause(EVERY_MS, this.#stopping.signal);
    }
  }
}
