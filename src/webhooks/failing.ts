import { sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import type { Transact } from '../domain/messages/emit.ts';
import { SYSTEM } from '../domain/messages/envelope.ts';
import { currentTime } from '../services/clock.ts';
import { type Database, iso } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';
import type { Logger } from '../services/logger.ts';
import { disableAndTell } from './owner.ts';

/** An endpoint that did nothing but fail for so long is disabled; 5 days in ms. */
export const DISABLE_AFTER_MS = 5 * 86_400_000;

/** How often a failing endpoint's row is looked at again, in ms. */
const LOOK_MS = 60_000;

/*
 * Since when an endpoint only fails: `webhook_endpoints.failing_since`.
 *
 *   null ──first failed attempt──► since then ──a success──► null
 *                                       └──a failed attempt after 5 days──► disabled
 *
 * Only the turns touch the row, and what this process knows of failing endpoints spares it a query per attempt. Another
 * process may have seen a success meanwhile, so the deliveries are asked before an endpoint is disabled.
 */
export class FailureWatch {
  readonly #deps: {
    database: Database;
    transact: Transact;
    keyring: Keyring;
    disableAfterMs: number;
    log: Logger;
  };
  /** Endpoints that fail: when the row was looked at, ms of the monotonic clock, and since when they fail. */
  readonly #failing = new Map<string, { lookedAt: number; since: number }>();

  constructor(deps: {
    database: Database;
    transact: Transact;
    keyring: Keyring;
    disableAfterMs: number;
    log: Logger;
  }) {
    this.#deps = deps;
  }

  /** After a recorded success. */
  async succeeded(endpointId: string): Promise<void> {
    if (!this.#failing.delete(endpointId)) return;
    await this.#quietly(async () => {
      await sql`update webhook_endpoints set failing_since = null where id = ${endpointId} and failing_since is not null`.execute(
        this.#deps.database.em.fork().getKysely(),
      );
    });
  }

  /** After a recorded failed attempt. */
  async failed(endpointId: string): Promise<void> {
    const known = this.#failing.get(endpointId);
    const now = performance.now();
    if (known && now - known.lookedAt < LOOK_MS && currentTime() - known.since < this.#deps.disableAfterMs) return;
    this.#failing.set(endpointId, { lookedAt: now, since: known?.since ?? currentTime() });
    await this.#quietly(async () => {
      const since = await this.#since(endpointId);
      if (since === undefined) return;
      this.#failing.set(endpointId, { lookedAt: now, since });
      if (currentTime() - since >= this.#deps.disableAfterMs) await this.#disable(endpointId);
    });
  }

  async #since(endpointId: string): Promise<number | undefined> {
    const db = this.#deps.database.em.fork().getKysely();
    await sql`
      update webhook_endpoints set failing_since = now()
      where id = ${endpointId} and failing_since is null and status = 'enabled'`.execute(db);
    const { rows } = await sql<{ failing_since: string | null }>`
      select failing_since from webhook_endpoints where id = ${endpointId} and status = 'enabled' and deleted_at is null`.execute(
      db,
    );
    const since = rows[0]?.failing_since;
    return since ? Date.parse(iso(since)) : undefined;
  }

  async #disable(endpointId: string): Promise<void> {
    const { transact, keyring, disableAfterMs, log } = this.#deps;
    const id = newId();
    const days = describe(disableAfterMs);
    const reason = `only failures for ${days}`;
    const disabled = await transact({ requestId: id, correlationId: id, actor: SYSTEM }, async (unit) => {
      const db = unit.em.getKysely();
      const { rows } = await sql`
        select 1 from webhook_endpoints
        where id = ${endpointId} and status = 'enabled' and deleted_at is null
          and failing_since <= now() - ${disableAfterMs} * interval '1 ms' for update`.execute(db);
      if (rows.length === 0) return false;
      const success = await sql`
        update webhook_endpoints e set failing_since = null
        where e.id = ${endpointId} and exists (
          select 1 from webhook_deliveries d
          where d.endpoint_id = e.id and d.status = 'delivered' and d.delivered_at >= e.failing_since)
        returning 1`.execute(db);
      if (success.rows.length > 0) return false;
      return disableAndTell(unit, endpointId, { reason, why: `every delivery has failed for ${days}` }, keyring);
    });
    this.#failing.delete(endpointId);
    if (disabled) log.warn({ endpoint: endpointId, reason }, 'an endpoint is disabled');
  }

  /** What is missed here is made up for by the next attempt; the delivery itself is recorded. */
  async #quietly(work: () => Promise<void>): Promise<void> {
    await work().catch((error: Error) =>
      this.#deps.log.warn({ error: error.message }, 'an endpoint that fails is looked at again later'),
    );
  }
}

function describe(ms: number): string {
  const days = Math.round(ms / 86_400_000);
  if (days >= 1) return days === 1 ? '1 day' : `${days} days`;
  return `${Math.round(ms / 1000)} seconds`;
}
