import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type AuditRecord, createSealer, list, verify } from '../../../src/domain/audit/index.ts';
import { keys, openLog, record, records, type TestLog, tables } from './log.ts';

let log: TestLog;
beforeAll(async () => {
  log = await openLog();
});
afterAll(() => log.close());

const count = async (where = sql`true`) => {
  const { rows } = await sql<{ n: number }>`select count(*)::int as n from audit_events where ${where}`.execute(
    log.em().getKysely(),
  );
  return rows[0]?.n;
};

describe('append', () => {
  it('seals nothing for nothing', async () => {
    expect(await createSealer({ keys }).append(log.em(), [])).toEqual({
      recorded: [],
      duplicates: [],
      checkpoints: [],
    });
  });

  it('starts a chain and cuts batches at 500 rows', async () => {
    const { recorded, checkpoints } = await createSealer({ keys }).append(log.em(), records(1100));
    expect(checkpoints.map(({ n, size }) => [n, size])).toEqual([
      [1, 500],
      [2, 500],
      [3, 100],
    ]);
    expect(checkpoints[0]?.previous_hash).toBe('00'.repeat(32));
    expect(checkpoints[2]?.previous_hash).toBe(checkpoints[1]?.hash);
    expect(recorded).toHaveLength(1100);
    expect(await verify(log.em(), { keys })).toEqual({ intact: true, rows: 1100, checkpoints: 3 });
  });

  it('writes a redelivered message once, also within one batch, and fixes indexes after dropping it', async () => {
    const sealer = createSealer({ keys });
    const first = records(5);
    await sealer.append(log.em(), first);
    const again = [...first.slice(2), ...records(3)];
    const twice = again.at(-1) as AuditRecord;
    const { recorded, duplicates } = await sealer.append(log.em(), [...again, { ...twice, action: 'other.thing' }]);
    expect(recorded.map((row) => row.leaf_index)).toEqual([0, 1, 2]);
    expect(new Set(duplicates)).toEqual(new Set([...first.slice(2).map(({ id }) => id), twice.id]));
    expect(await count(sql`id = ${twice.id} and action = ${twice.action}`)).toBe(1);
    expect(await sealer.append(log.em(), first)).toMatchObject({ recorded: [], checkpoints: [] });
    expect((await verify(log.em(), { keys })).intact).toBe(true);
  });

  it('keeps one dense chain with four appenders at once, redeliveries among them', async () => {
    const before = await verify(log.em(), { keys });
    const shared = records(40, { actor: { type: 'user', id: randomUUID() } });
    const appenders = Array.from({ length: 4 }, () => createSealer({ keys }));
    const runs = appenders.map(async (sealer) => {
      for (let i = 0; i < 10; i += 1) {
        await sealer.append(log.em(), [...records(30), ...shared.slice(i * 4, i * 4 + 4)]);
      }
    });
    await Promise.all(runs);
    expect(await verify(log.em(), { keys })).toEqual({
      intact: true,
      rows: before.rows + 4 * 300 + 40,
      checkpoints: before.checkpoints + 40,
    });
    const { rows } = await sql<{ dense: boolean; keys: number }>`
      select bool_and(c.size = r.n and r.top = r.n - 1 and r.indexes = r.n) as dense, (select count(*)::int from audit_keys) as keys
      from audit_checkpoints c join (select checkpoint, count(*) n, max(leaf_index) top, count(distinct leaf_index) indexes
        from audit_events group by 1) r on r.checkpoint = c.n`.execute(log.em().getKysely());
    expect(rows[0]).toEqual({ dense: true, keys: 1 });
  });

  it('joins the transaction it is given and leaves nothing when that rolls back, signing key included', async () => {
    const fresh = await openLog();
    try {
      const sealer = createSealer({ keys });
      const failing = fresh.em().transactional(async (tx) => {
        await sealer.append(tx, records(3));
        throw new Error('rolled back');
      });
      await expect(failing).rejects.toThrow('rolled back');
      const { checkpoints } = await sealer.append(fresh.em(), records(2));
      expect(checkpoints).toHaveLength(1);
      expect(await verify(fresh.em(), { keys })).toEqual({ intact: true, rows: 2, checkpoints: 1 });
    } finally {
      await fresh.close();
    }
  });

  it('stores a personal field neither in the clear nor as a bare hash', async () => {
    const known = record();
    const unknown = record({ actor: { type: 'anonymous', id: null } });
    await createSealer({ keys }).append(log.em(), [known, unknown]);
    const { rows } = await sql<{ id: string; row: string; personal: Record<string, string> }>`
      select id::text, e::text as row, personal from audit_events e where id = any(${[known.id, unknown.id]}::uuid[])`.execute(
      log.em().getKysely(),
    );
    expect(rows).toHaveLength(2);
    for (const { row } of rows) expect(row).not.toMatch(/203\.0\.113\.7|ada@example\.com|test\/1\.0/);
    const anonymous = rows.find(({ id }) => id === unknown.id);
    expect(anonymous?.personal['context.ip']).toMatch(/^hmac:[0-9a-f]{12}:[\w-]{43}$/);
    const second = record({ actor: { type: 'anonymous', id: null } });
    await createSealer({ keys }).append(log.em(), [second]);
    const addressIn = async ({ context: { operation_id } }: AuditRecord) =>
      (await list(log.em(), { operation_id: operation_id ?? '' }, keys)).rows.map(({ context }) => context.ip);
    const [first] = await addressIn(unknown);
    expect(first).toMatch(/^hmac:/);
    expect(await addressIn(second)).toEqual([first]);
  });
});

describe('partitions', () => {
  it('takes rows of any month, making the partition and the next one', async () => {
    const fresh = await openLog();
    try {
      for (const at of ['2027-01-31T23:59:59.999Z', '2027-02-01T00:00:00.000Z', '2031-07-15T00:00:00Z']) {
        await createSealer({ keys, clock: () => new Date(at) }).append(fresh.em(), records(3));
      }
      const names = await tables(fresh.em());
      for (const month of ['2027_01', '2027_02', '2027_03', '2031_07', '2031_08']) {
        expect(names).toContain(`audit_events_${month}`);
      }
      const { rows } = await sql<{ name: string; n: number }>`
        select tableoid::regclass::text as name, count(*)::int as n from audit_events group by 1 order by 1`.execute(
        fresh.em().getKysely(),
      );
      expect(rows).toEqual([
        { name: 'audit_events_2027_01', n: 3 },
        { name: 'audit_events_2027_02', n: 3 },
        { name: 'audit_events_2031_07', n: 3 },
      ]);
      expect((await verify(fresh.em(), { keys })).intact).toBe(true);

      // The clock went back: recorded_at does not.
      const { checkpoints } = await createSealer({ keys, clock: () => new Date('2026-01-01') }).append(
        fresh.em(),
        records(1),
      );
      expect(checkpoints[0]?.created_at).toBe('2031-07-15T00:00:00.000Z');

      await sql`drop table audit_events_2027_01`.execute(fresh.em().getKysely());
      expect((await verify(fresh.em(), { keys })).first_broken?.checkpoint).toBe(1);
      expect(await verify(fresh.em(), { keys, from: 2 })).toEqual({ intact: true, rows: 7, checkpoints: 4 });
    } finally {
      await fresh.close();
    }
  });

  it('knows a redelivered message again in a later month', async () => {
    const fresh = await openLog();
    try {
      const late = records(3, { occurred_at: '2026-12-31T23:59:59.900Z' });
      await createSealer({ keys, clock: () => new Date('2027-01-01T00:00:01Z') }).append(fresh.em(), late);
      const sealer = createSealer({ keys, clock: () => new Date('2027-03-01T00:00:00Z') });
      const { recorded, duplicates } = await sealer.append(fresh.em(), [...late, ...records(1)]);
      expect([recorded.length, duplicates.length]).toEqual([1, 3]);
    } finally {
      await fresh.close();
    }
  });

  it('falls back on the default partition while another transaction keeps the month from being made', async () => {
    const fresh = await openLog();
    try {
      const sealer = createSealer({ keys, clock: () => new Date('2040-05-05') });
      await fresh.em().transactional(async (reader) => {
        await sql`select count(*) from audit_events_default`.execute(reader.getKysely());
        await sealer.append(fresh.em(), records(2));
      });
      expect(await tables(fresh.em())).not.toContain('audit_events_2040_05');
      await createSealer({ keys, clock: () => new Date('2040-05-06') }).append(fresh.em(), records(2));
      expect(await verify(fresh.em(), { keys })).toEqual({ intact: true, rows: 4, checkpoints: 2 });
    } finally {
      await fresh.close();
    }
  });
});

describe('the database', () => {
  const attempts = (name: string) =>
    name === 'audit_checkpoints'
      ? ['update audit_checkpoints set size = size', 'delete from audit_checkpoints', 'truncate audit_checkpoints']
      : [`update ${name} set outcome = outcome`, `delete from ${name}`, `truncate ${name}`];

  it('refuses update, delete and truncate to the superuser, on every partition, and in replica mode', async () => {
    const { rows: who } = await sql<{ super: string }>`select current_setting('is_superuser') as super`.execute(
      log.em().getKysely(),
    );
    expect(who[0]?.super).toBe('on');
    const names = await tables(log.em());
    expect(names.length).toBeGreaterThanOrEqual(5);
    const held = await count();
    for (const role of ['origin', 'replica']) {
      for (const statement of names.flatMap(attempts)) {
        const attempt = log.em().transactional(async (tx) => {
          await sql`select set_config('session_replication_role', ${role}, true)`.execute(tx.getKysely());
          await sql.raw(statement).execute(tx.getKysely());
        });
        await expect(attempt, `${statement} as ${role}`).rejects.toThrow(/refused: the audit log can only be added to/);
      }
    }
    expect(await count()).toBe(held);
  });

  it('refuses a row change by upsert, and a detached partition stays closed', async () => {
    const upsert = sql`insert into audit_events select * from audit_events limit 1
      on conflict (id, recorded_at) do update set outcome = 'failure'`.execute(log.em().getKysely());
    await expect(upsert).rejects.toThrow(/can only be added to/);
    const detached = log.em().transactional(async (tx) => {
      await sql`alter table audit_events detach partition audit_events_default`.execute(tx.getKysely());
      await sql`delete from audit_events_default`.execute(tx.getKysely());
    });
    await expect(detached).rejects.toThrow(/can only be added to/);
  });

  it('has the tables that the entities describe, and the migration goes down and up again', async () => {
    const fresh = await openLog();
    try {
      expect(await fresh.orm.schema.getUpdateSchemaSQL()).toBe('');
      await fresh.orm.migrator.down();
      await fresh.orm.migrator.up();
      await createSealer({ keys }).append(fresh.em(), records(1));
      expect((await verify(fresh.em())).rows).toBe(1);
    } finally {
      await fresh.close();
    }
  });
});
