import type { LoadResult } from './load/client.ts';
import { Peer } from './peer.ts';
import type { Platform } from './platform.ts';

/** Rows per statement of a fill. */
const STEP = 100_000;

/** Fills events, deliveries, attempts, audit rows and users by SQL until each table has so many rows, and analyses them. */
export async function growTo(platform: Platform, rows: number): Promise<void> {
  const { db } = platform;
  for (const [table, statement] of Object.entries(FILLS)) {
    const have = await platform.count(`select count(*) from ${table}`);
    for (let from = have; from < rows; from += STEP) {
      await db.query(statement, [from + 1, Math.min(rows, from + STEP)]);
    }
  }
  await db.query('vacuum analyze');
}

/** `$1` to `$2`: the numbers of the rows. Ids and times grow with them, as those of real rows do. */
const id = (salt: string) => `(lpad(to_hex(n), 12, '0') || substr(md5('${salt}' || n), 1, 20))::uuid`;
const at = `now() - interval '20 days' + n * interval '100 milliseconds'`;
const FILLS: Record<string, string> = {
  events: `insert into events (tenant, id, type, source, payload, time, correlation_id, actor, created_at)
    select 'default', ${id('e')}::text, 'bench.old', 'client', repeat('x', 170), ${at}, ${id('e')}::text, 'system', ${at}
    from generate_series($1::bigint, $2::bigint) n`,
  webhook_deliveries: `insert into webhook_deliveries
      (id, tenant, endpoint_id, event_id, event_type, status, attempts, delivered_at, correlation_id, created_at)
    select ${id('d')}, 'default', md5('ep' || n % 200)::uuid, ${id('e')}::text, 'bench.old', 'delivered', 1, ${at}, ${id('e')}::text, ${at}
    from generate_series($1::bigint, $2::bigint) n`,
  webhook_attempts: `insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms, status_code)
    select ${id('a')}, ${id('d')}, 1, ${at}, 3, 204 from generate_series($1::bigint, $2::bigint) n`,
  // Unsealed, under checkpoints that do not exist: what counts here is the size of the table and of its indexes.
  audit_events: `insert into audit_events (id, recorded_at, checkpoint, leaf_index, leaf, occurred_at, action, actor_type,
      actor_id, targets, metadata, personal, outcome, operation_id)
    select ${id('l')}, now(), -n, 0, '\\x00', now(), 'user.updated', 'user', ${id('u')}::text,
      jsonb_build_array(jsonb_build_object('type', 'user', 'id', ${id('u')})), '{}', '{}', 'success', ${id('o')}::text
    from generate_series($1::bigint, $2::bigint) n`,
  users: `insert into users (id, email, full_name, is_verified, created_at)
    select ${id('u')}, 'old-' || n || '@bench.example', 'Ada Bench', true, ${at}
    from generate_series($1::bigint, $2::bigint) n on conflict do nothing`,
};

/** Microseconds of wall time per registration with hashes as cheap as they get. */
export async function registrationCost(platform: Platform): Promise<number> {
  const cheap = { ARGON2_MEMORY_KIB: '1024', ARGON2_PARALLELISM: '1' };
  const client = new Peer('load/client.ts');
  try {
    const { url } = await platform.api(cheap);
    await platform.start(['worker', 'registration'], cheap);
    const options = { url, tokens: [], load: 'register', connections: 16, warmSeconds: 1, seconds: 3 };
    const { count, seconds, failures, firstFailure } = await client.ask<LoadResult>('run', options);
    if (failures > 0) throw new Error(`${failures} registrations failed: ${firstFailure}`);
    return (seconds * 1e6) / count;
  } finally {
    await client.stop();
  }
}
