import { randomBytes, randomUUID } from 'node:crypto';
import { Migrator } from '@mikro-orm/migrations';
import { type EntityManager, MikroORM } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { Migration20261101000300_audit } from '../../../migrations/20261101000300_audit.ts';
import {
  AuditCheckpoint,
  AuditEvent,
  AuditKey,
  type AuditRecord,
  type AuditRecordInput,
  AuditSubjectKey,
  auditRecord,
} from '../../../src/domain/audit/index.ts';
import { Keyring } from '../../../src/services/keyring.ts';

const server = process.env.TEST_DATABASE_SERVER ?? 'postgres://postgres@localhost:5432';

const open = (name: string) =>
  MikroORM.init({
    clientUrl: `${server}/${name}`,
    entities: [AuditEvent, AuditCheckpoint, AuditKey, AuditSubjectKey],
    extensions: [Migrator],
    migrations: {
      snapshot: false,
      migrationsList: [{ name: '20261101000300_audit', class: Migration20261101000300_audit }],
    },
    schemaGenerator: { ignoreTriggers: true, ignoreRoutines: true, skipTables: ['mikro_orm_migrations'] },
    pool: { min: 0, max: 8 },
    logger: () => undefined,
  });

export interface TestLog {
  orm: MikroORM;
  em: () => EntityManager;
  close: () => Promise<void>;
}

/** A database of its own that holds nothing but the audit log. */
export async function openLog(): Promise<TestLog> {
  const name = `wb_audit_${randomBytes(6).toString('hex')}`;
  const admin = await open('postgres');
  await sql`create database ${sql.id(name)}`.execute(admin.em.fork().getKysely());
  const orm = await open(name);
  await orm.migrator.up();
  return {
    orm,
    em: () => orm.em.fork(),
    async close() {
      await orm.close(true);
      await sql`drop database ${sql.id(name)} with (force)`.execute(admin.em.fork().getKysely());
      await admin.close(true);
    },
  };
}

export const master = Buffer.alloc(32, 7);
export const keys = new Keyring(master).for('audit');
export const otherKeys = new Keyring(Buffer.alloc(32, 9)).for('audit');

export function record(over: Partial<AuditRecordInput> = {}): AuditRecord {
  return auditRecord.parse({
    id: randomUUID(),
    occurred_at: '2026-11-20T10:00:00.123Z',
    action: 'session.created',
    actor: { type: 'user', id: randomUUID() },
    targets: [{ type: 'session', id: randomUUID() }],
    context: { ip: '203.0.113.7', user_agent: 'test/1.0', request_id: 'req-1', operation_id: randomUUID() },
    metadata: { email: 'ada@example.com', attempts: 2, remembered: true },
    outcome: 'success',
    ...over,
  });
}

export const records = (count: number, over: Partial<AuditRecordInput> = {}): AuditRecord[] =>
  Array.from({ length: count }, () => record(over));

export async function tables(em: EntityManager): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    select 'audit_events' as name union all select 'audit_checkpoints' union all
    select inhrelid::regclass::text from pg_inherits where inhparent = 'audit_events'::regclass`.execute(
    em.getKysely(),
  );
  return rows.map((row) => row.name);
}

/** What a superuser can do who switches the triggers off first. */
export async function tamper(em: EntityManager, work: (tx: EntityManager) => Promise<unknown>): Promise<void> {
  await em.transactional(async (tx) => {
    const names = await tables(tx);
    for (const name of names) await sql`alter table ${sql.id(name)} disable trigger user`.execute(tx.getKysely());
    await work(tx);
    for (const name of names) {
      for (const trigger of ['audit_refuse_row', 'audit_refuse_statement']) {
        await sql`alter table ${sql.id(name)} enable always trigger ${sql.id(trigger)}`.execute(tx.getKysely());
      }
    }
  });
}
