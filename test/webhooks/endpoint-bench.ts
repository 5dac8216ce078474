import { randomBytes } from 'node:crypto';
import { type RawBuilder, sql } from 'kysely';
import { newId } from '../../src/domain/ids.ts';
import type { Transact } from '../../src/domain/messages/emit.ts';
import type { RequestContext } from '../../src/domain/messages/envelope.ts';
import { createTransact } from '../../src/queues/outbox.ts';
import { type Database, type EntityManager, openDatabase } from '../../src/services/database.ts';
import { Keyring } from '../../src/services/keyring.ts';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import type { NewEndpoint } from '../../src/webhooks/endpoint-settings.ts';
import { createEndpoint, type EndpointDeps, type EndpointWithSecrets } from '../../src/webhooks/endpoints.ts';
import { createTestDatabase } from '../harness.ts';

export const ADMIN = '019a9f3e-0000-7000-8000-0000000000ad';

export interface Emitted {
  target: string;
  type: string;
  subject?: string;
  tenant?: string;
  sequence?: number;
  data: Record<string, unknown>;
}

export interface EndpointBench {
  database: Database;
  keyring: Keyring;
  transact: Transact;
  deps: EndpointDeps;
  context: RequestContext;
  em(): EntityManager;
  query<T>(query: RawBuilder<T>): Promise<T[]>;
  create(endpoint?: Partial<NewEndpoint>, tenant?: string): Promise<EndpointWithSecrets>;
  deliver(endpointId: string, row?: Partial<DeliveryFixture>): Promise<string>;
  delivery(id: string): Promise<Record<string, unknown>>;
  /** Events and audit records in the outbox, and how often each was written, since the last call. */
  emitted(): Promise<Emitted[]>;
  alarms(): Promise<{ id: string; attempt: number; generation: number; at: number }[]>;
  revision(): Promise<number>;
  close(): Promise<void>;
}

interface DeliveryFixture {
  tenant: string;
  event_id: string;
  event_type: string;
  status: string;
  reason: string | null;
  attempts: number;
  generation: number;
  leased: boolean;
  /** Of a pending one; in an hour when absent. */
  next_attempt_at: string;
  created_at: string;
}

/** A migrated database of its own with the endpoint use cases around it; loopback is open. */
export async function openEndpointBench(): Promise<EndpointBench> {
  const { url, drop } = await createTestDatabase();
  const database = await openDatabase(url, { entities: [], poolSize: 8 });
  const transact = createTransact(database, () => undefined);
  const keyring = new Keyring(randomBytes(32));
  const deps = { keyring, allow: parseAllowNetworks('127.0.0.0/8') };
  const context: RequestContext = {
    requestId: 'req-1',
    correlationId: 'op-1',
    actor: { type: 'user', id: ADMIN, role: 'admin' },
  };
  const em = () => database.em.fork();
  const query = async <T>(query: RawBuilder<T>) => (await query.execute(em().getKysely())).rows;
  return {
    database,
    keyring,
    transact,
    deps,
    context,
    em,
    query,
    create: (endpoint = {}, tenant = 'default') =>
      transact(context, (unit) =>
        createEndpoint(unit, { tenant, endpoint: { url: 'https://example.com/hook', ...endpoint } }, deps),
      ),
    async deliver(endpointId, row = {}) {
      const id = newId();
      const status = row.status ?? 'pending';
      await query(sql`
        insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, attempts, generation, next_attempt_at, lease_until, created_at)
        values (${id}, ${row.tenant ?? 'default'}, ${endpointId}, ${row.event_id ?? newId()}, ${row.event_type ?? 'kyc.approved'}, ${status},
          ${row.reason ?? null}, ${row.attempts ?? 0}, ${row.generation ?? 0}, ${status === 'pending' ? sql`coalesce(${row.next_attempt_at ?? null}::timestamptz, now() + interval '1 hour')` : null},
          ${row.leased ? sql`now() + interval '1 minute'` : null}, coalesce(${row.created_at ?? null}::timestamptz, clock_timestamp()))`);
      return id;
    },
    async delivery(id) {
      const [row] = await query(sql<Record<string, unknown>>`select * from webhook_deliveries where id = ${id}`);
      return row ?? {};
    },
    async emitted() {
      const rows = await query(
        sql<{
          target: string;
          body: string;
          id: string;
        }>`delete from outbox where transport = 'rabbitmq' returning id, target, body`,
      );
      return rows
        .toSorted((a, b) => Number(a.id) - Number(b.id))
        .map(({ target, body }) => ({ target, ...JSON.parse(body) }));
    },
    async alarms() {
      const rows = await query(
        sql<{
          body: string;
          id: string;
        }>`delete from outbox where transport = 'bullmq' and target = 'webhooks' returning id, body`,
      );
      return rows.toSorted((a, b) => Number(a.id) - Number(b.id)).map(({ body }) => JSON.parse(body));
    },
    async revision() {
      const [row] = await query(sql<{ revision: string }>`select revision from revisions where name = 'endpoints'`);
      return Number(row?.revision);
    },
    async close() {
      await database.close(true);
      await drop();
    },
  };
}
