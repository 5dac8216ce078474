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
/** A table that somebody has locked for longer is left to the next round. */
const LOCK_MS = 2000;

/** What is purged: rows of `table` older than an age, as far as `only` holds. */
interface Rule {
  table: string;
  /** What the age is told by: a time, a UUIDv7, or the `created_at` of a table that has an index of it per tenant. */
  by: { time: string } | { id: string } | 'tenant';
  ageMs: number;
  only?: RawBuilder<unknown>;
}

const DAY = 86_400_000;

function rules(retention: Config['retention']): Rule[] {
  return [
    // Before the operations, or what is left of a finished one would pass for one under way.
    { table: 'audit_verifications', by: { time: 'updated_at' }, ageMs: retention.operations },
    { table: 'operations', by: { time: 'finished_at' }, ageMs: retention.operations },
    { table: 'idempotency_keys', by: { time: 'created_at' }, ageMs: 2 * DAY },
    { table: 'inbox', by: { time: 'handled_at' }, ageMs: retention.inbox },
    { table: 'emails', by: { time: 'created_at' }, ageMs: retention.emails, only: sql`status <> 'pending'` },
    {
      table: 'webhook_attempts',
      by: { id: 'delivery_id' },
      ageMs: retention.events,
      only: sql`not exists (select 1 from webhook_deliveries d where d.id = webhook_attempts.delivery_id and d.status in ('pending', 'held'))`,
    },
    {
      table: 'webhook_deliveries',

      by: { id: 'id' },
      ageMs: retention.events,
      only: sql`status in ('delivered', 'failed')`,
    },
    {
      table: 'events',
      by: 'tenant',
      ageMs: retention.events,
      only: sql`not exists (select 1 from webhook_deliveries d where d.event_id = events.id and d.tenant = events.tenant and d.status in ('pending', 'held'))`,
    },
    { table: 'dead_letters', by: { time: 'created_at' }, ageMs: retention.deadLetters },
    { table: 'kyc_callbacks', by: { time: 'received_at' }, ageMs: retention.events },
    { table: 'webhook_secrets', by: { time: 'expires_at' }, ageMs: 0 },
    { table: 'user_tokens', by: { time: 'expires_at' }, ageMs: 7 * DAY },
    { table: 'sessions', by: { time: 'expires_at' }, ageMs: 7 * DAY },
    // The audit log keeps who made and revoked them.
    { table: 'api_keys', by: { time: 'revoked_at' }, ageMs: 90 * DAY },
    { table: 'api_keys', by: { time: 'expires_at' }, ageMs: 90 * DAY },
    { table: 'signin_locks', by: { time: 'last_failure_at' }, ageMs: 2 * DAY },
  ];
}

/** The statement that takes one batch, by table. */
export const purgeQueries = (retention: Config['retention']): Map<string, RawBuilder<unknown>> =>
  new Map(rules(retention).map((rule) => [rule.table, batchOf(rule)]));

/** Deletes finished rows by age, in batches, every minute, in one process at a time. */
export class Purge implements Service {
  readonly name = 'purge';
  readonly #database: Database;
  readonly #rules: Rule[];
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  /** The last round left more than it took. */
  #behind = false;

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

  /**
   * One round over every table. A table that cannot be purged is left to the next round and holds no other up. Returns how
   * many rows went, by table.
   */
  async round(): Promise<Record<string, number>> {
    const gone: Record<string, number> = {};
    this.#behind = false;
    for (const rule of this.#rules) {
      try {
        await this.#apply(rule, gone);
      } catch (error) {
        this.#log.warn({ error: (error as Error).message, table: rule.table }, 'purging later');
      }
    }
    return gone;
  }

  async #apply(rule: Rule, gone: Record<string, number>): Promise<void> {
    for (let n = 0; n < MAX_BATCHES && !this.#stopping.signal.aborted; n += 1) {
      const count = await this.#batch(rule);
      if (count > 0) gone[rule.table] = (gone[rule.table] ?? 0) + count;
      if (count < BATCH) break;
      if (n === MAX_BATCHES - 1) this.#behind = true;
    }
  }

  async #batch(rule: Rule): Promise<number> {
    return this.#database.em.fork().transactional(async (em) => {
      const db = em.getKysely();
      const lock = await sql<{ got: boolean }>`select pg_try_advisory_xact_lock(${PURGE_LOCK}) as got`.execute(db);
      if (!lock.rows[0]?.got) return 0;
      await sql`select set_config('lock_timeout', ${String(LOCK_MS)}, true)`.execute(db);
      const result = await batchOf(rule).execute(db);
      return Number(result.numAffectedRows ?? 0);
    });
  }

  async #loop(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      const gone = await this.round();
      if (Object.keys(gone).length > 0) this.#log.info({ gone }, 'purged old rows');
      // What is more than a round takes does not wait: rows may come faster than one round a minute lets them go.
      if (!this.#behind) await pause(EVERY_MS, this.#stopping.signal);
    }
  }
}

/** By the rows' places: whatever the planner thinks of their number, it goes straight to them. */
const batchOf = (rule: Rule): RawBuilder<unknown> =>
  sql`delete from ${sql.table(rule.table)} where ctid = any(array(${rule.by === 'tenant' ? oldByTenant(rule) : old(rule)}))`;

function old(rule: Rule): RawBuilder<unknown> {
  const before = sql`now() - ${rule.ageMs} * interval '1 ms'`;
  const isOld =
    rule.by === 'tenant'
      ? sql`tenant = tenants.tenant and created_at < ${before}`
      : 'time' in rule.by
        ? sql`${sql.ref(rule.by.time)} < ${before}`
        : // A UUIDv7 (RFC 9562, section 5.7) begins with its time in ms.
          sql`${sql.ref(rule.by.id)} < (lpad(to_hex((extract(epoch from ${before}) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid`;
  return sql`select ctid from ${sql.table(rule.table)} where ${isOld} and ${rule.only ?? sql`true`} limit ${BATCH}`;
}

/** Leaps from tenant to tenant over the index that begins with it. */
function oldByTenant(rule: Rule): RawBuilder<unknown> {
  const table = sql.table(rule.table);
  return sql`
    with recursive tenants as (
      (select tenant from ${table} order by tenant limit 1)
      union all
      select (select tenant from ${table} t where t.tenant > tenants.tenant order by tenant limit 1)
      from tenants where tenants.tenant is not null
    )
    select old.ctid from tenants cross join lateral (${old(rule)}) as old limit ${BATCH}`;
}
