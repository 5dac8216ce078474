import { sql } from 'kysely';
import type { Pool } from '../../config.ts';
import type { EntityManager } from '../../services/database.ts';
import type { Unit } from '../messages/emit.ts';
import { actorText } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';

/** What an operator has set of a pool; it counts before the command line, and that before the environment. */
export interface PoolSettings {
  /** Work in flight per process; `null` when nobody has set it. */
  concurrency: number | null;
  paused: boolean;
}

/** The same bounds as `<POOL>_CONCURRENCY`. */
export const MAX_CONCURRENCY = 10_000;

/** Counts up with every change of a pool's settings. */
export async function poolsRevision(em: EntityManager): Promise<string> {
  const { rows } = await sql<{ revision: string }>`select revision from revisions where name = 'pools'`.execute(
    em.getKysely(),
  );
  return String(rows[0]?.revision ?? '');
}

/** What is set, by pool. Never anything of `housekeeping`, which must run as it is. */
export async function readPoolSettings(em: EntityManager): Promise<Map<Pool, PoolSettings>> {
  const { rows } = await sql<PoolSettings & { pool: Pool }>`
    select pool, concurrency, paused from pool_settings where pool <> 'housekeeping'`.execute(em.getKysely());
  return new Map(rows.map(({ pool, ...settings }) => [pool, settings]));
}

/**
 * Sets what is given of a pool and leaves the rest; `concurrency: null` goes back to what each process was started
 * with. Refuses CONFLICT for `housekeeping`: the outbox relay must run, and its work is one at a time by its locks.
 */
export async function changePool(
  unit: Unit,
  pool: Pool,
  change: { concurrency?: number | null | undefined; paused?: boolean | undefined },
): Promise<PoolSettings> {
  if (pool === 'housekeeping') {
    refuse('CONFLICT', 'the pool housekeeping cannot be changed: it publishes what the others have done', {
      field: change.paused === undefined ? 'concurrency' : 'paused',
    });
  }
  const { concurrency, paused } = change;
  const { rows } = await sql<PoolSettings>`
    insert into pool_settings (pool, concurrency, paused, updated_by)
    values (${pool}, ${concurrency ?? null}, ${paused ?? false}, ${actorText(unit.emit.context.actor)})
    on conflict (pool) do update set
      concurrency = case when ${concurrency !== undefined} then excluded.concurrency else pool_settings.concurrency end,
      paused = case when ${paused !== undefined} then excluded.paused else pool_settings.paused end,
      updated_at = now(), updated_by = excluded.updated_by
    returning concurrency, paused`.execute(unit.em.getKysely());
  await sql`update revisions set revision = revision + 1 where name = 'pools'`.execute(unit.em.getKysely());
  unit.emit.audit({
    action: 'pool.changed',
    targets: [{ type: 'pool', id: pool }],
    metadata: {
      ...(concurrency === undefined ? {} : { concurrency: concurrency ?? 'as started' }),
      ...(paused === undefined ? {} : { paused }),
    },
  });
  return rows[0] ?? { concurrency: concurrency ?? null, paused: paused ?? false };
}
