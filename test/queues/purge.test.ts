import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { Purge, purgeQueries } from '../../src/queues/purge.ts';
import { createHarness, type Harness } from '../harness.ts';

const DAY = 86_400_000;

let harness: Harness;
let purge: Purge;
beforeAll(async () => {
  harness = await createHarness();
  purge = new Purge(harness.database, harness.config.retention, harness.log);
});
afterAll(() => harness.close());
beforeEach(() => sql`truncate events, webhook_deliveries, webhook_attempts`.execute(db()));

const db = () => harness.database.em.fork().getKysely();
const OLD = () => harness.config.retention.events + DAY;

/** A UUIDv7 as it was made so many ms ago. */
function idOf(agoMs: number): string {
  const time = (Date.now() - agoMs).toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}${newId().slice(13)}`;
}

async function event(agoMs: number, tenant = 'default'): Promise<string> {
  const id = newId();
  await sql`insert into events (tenant, id, type, source, payload, time, created_at)
    values (${tenant}, ${id}, 'payment.succeeded', 'client', '{}', now(), now() - ${agoMs} * interval '1 ms')`.execute(
    db(),
  );
  return id;
}

async function delivery(agoMs: number, status: string, eventId = newId()): Promise<string> {
  const id = idOf(agoMs);
  await sql`with one as (
      insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, created_at)
      values (${id}, 'default', ${newId()}, ${eventId}, 'payment.succeeded', ${status}, now() - ${agoMs} * interval '1 ms')
      returning id)
    insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms)
    select ${newId()}, id, 1, now() - ${agoMs} * interval '1 ms', 1 from one`.execute(db());
  return id;
}

async function left(table: string, column: string): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`select ${sql.ref(column)}::text as id from ${sql.table(table)}`.execute(
    db(),
  );
  return rows.map(({ id }) => id).sort();
}

describe('a round', () => {
  test('takes what is finished and old, and leaves the young', async () => {
    const young = await delivery(1000, 'delivered');
    await delivery(OLD(), 'delivered');
    await delivery(OLD(), 'failed');
    expect(await purge.round()).toMatchObject({ webhook_deliveries: 2, webhook_attempts: 2 });
    expect(await left('webhook_deliveries', 'id')).toEqual([young]);
    expect(await left('webhook_attempts', 'delivery_id')).toEqual([young]);
  });

  test('leaves what is owed, its attempts and its event, however old', async () => {
    const [waiting, held] = [await event(OLD()), await event(OLD())];
    const owed = [await delivery(OLD(), 'pending', waiting), await delivery(OLD(), 'held', held)].sort();
    expect(await purge.round()).toEqual({});
    expect(await left('webhook_deliveries', 'id')).toEqual(owed);
    expect(await left('webhook_attempts', 'delivery_id')).toEqual(owed);
    expect(await left('events', 'id')).toEqual([waiting, held].sort());
  });

  test('finds the old events of every tenant', async () => {
    const tenants = ['acme', 'default', 'zeta'];
    for (const tenant of tenants) await event(OLD(), tenant);
    const young = await Promise.all(tenants.map((tenant) => event(1000, tenant)));
    expect(await purge.round()).toEqual({ events: 3 });
    expect(await left('events', 'id')).toEqual(young.sort());
  });

  test('takes more than one batch', async () => {
    await sql`insert into events (tenant, id, type, source, payload, time, created_at)
      select 'default', 'many-' || n, 'payment.succeeded', 'client', '{}', now(), now() - ${OLD()} * interval '1 ms'
      from generate_series(1, 2500) n`.execute(db());
    expect(await purge.round()).toEqual({ events: 2500 });
  });

  test('goes on past a table that cannot be purged, tells of it, and takes it in the next', async () => {
    await delivery(OLD(), 'delivered');
    const old = await event(OLD());
    await sql`insert into signin_locks (key, failures, last_failure_at)
      values ('purged', 1, now() - interval '3 days')`.execute(db());
    await harness.database.em.fork().transactional(async (em) => {
      await sql`lock table events in access exclusive mode`.execute(em.getKysely());
      expect(await purge.round()).toEqual({ webhook_attempts: 1, webhook_deliveries: 1, signin_locks: 1 });
    });
    const warnings = harness.logged.map((line) => JSON.parse(line)).filter(({ msg }) => msg === 'purging later');
    expect(warnings).toEqual([
      expect.objectContaining({ level: 'warn', table: 'events', error: expect.stringMatching(/lock/) }),
    ]);
    expect(await left('events', 'id')).toEqual([old]);
    expect(await purge.round()).toEqual({ events: 1 });
  }, 60_000);
});

test('no table that grows is read from end to end', async () => {
  await sql`insert into events (tenant, id, type, source, payload, time)
    select 't' || n % 3, 'plan-' || n, 'payment.succeeded', 'client', '{}', now() from generate_series(1, 60000) n`.execute(
    db(),
  );
  await sql`with filled as (
      insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status)
      select gen_random_uuid(), 't0', gen_random_uuid(), 'plan-' || n, 'payment.succeeded', 'delivered'
      from generate_series(1, 60000) n returning id)
    insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms) select id, id, 1, now(), 1 from filled`.execute(
    db(),
  );
  const queries = purgeQueries(harness.config.retention);
  const tables = ['events', 'webhook_deliveries', 'webhook_attempts'];
  for (const table of tables) await sql`analyze ${sql.table(table)}`.execute(db());
  for (const table of tables) {
    const { rows } = await sql<{ 'QUERY PLAN': string }>`explain ${queries.get(table)}`.execute(db());
    const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
    expect(plan).toMatch(/Index/);
    expect(plan).not.toMatch(/Seq Scan/);
  }
});
