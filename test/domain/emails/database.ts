import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import type { Transact } from '../../../src/domain/messages/emit.ts';
import type { RequestContext } from '../../../src/domain/messages/envelope.ts';
import { SYSTEM } from '../../../src/domain/messages/envelope.ts';
import { createTransact } from '../../../src/queues/outbox.ts';
import { createDatabaseIfMissing, type Database, migrateUp, openDatabase } from '../../../src/services/database.ts';
import { Keyring } from '../../../src/services/keyring.ts';

const SERVER = 'postgresql://postgres:postgres@localhost:5432';

export interface EmailBench {
  database: Database;
  transact: Transact;
  keyring: Keyring;
  context: RequestContext;
  row(id: string): Promise<Record<string, unknown>>;
  /** The alarms that wait in the outbox for a row, in order. */
  alarms(id: string): Promise<{ attempt: number; generation: number; at: number }[]>;
  close(): Promise<void>;
}

/** A migrated database of its own, dropped on `close`. */
export async function openEmailBench(): Promise<EmailBench> {
  const name = `wb_emails_${randomBytes(5).toString('hex')}`;
  await createDatabaseIfMissing(`${SERVER}/${name}`);
  const database = await openDatabase(`${SERVER}/${name}`, { entities: [], poolSize: 8 });
  await migrateUp(database);
  const db = () => database.em.fork().getKysely();
  return {
    database,
    transact: createTransact(database, () => undefined),
    keyring: new Keyring(randomBytes(32)),
    context: { requestId: 'req-1', correlationId: 'op-1', actor: SYSTEM },
    async row(id) {
      const { rows } = await sql<Record<string, unknown>>`select * from emails where id = ${id}`.execute(db());
      return rows[0] ?? {};
    },
    async alarms(id) {
      const { rows } = await sql<{
        body: string;
      }>`select body from outbox where transport = 'bullmq' and message_id = ${id} order by id`.execute(db());
      return rows.map(({ body }) => JSON.parse(body));
    },
    async close() {
      await database.close(true);
      const admin = await openDatabase(`${SERVER}/postgres`, { entities: [], poolSize: 1 });
      await sql`drop database if exists ${sql.id(name)} with (force)`.execute(admin.em.fork().getKysely());
      await admin.close(true);
    },
  };
}
