import { type RawBuilder, sql } from 'kysely';
import { type EntityManager, iso } from '../../services/database.ts';

/** An event as it was accepted. */
export interface EventRecord {
  id: string;
  type: string;
  tenant: string;
  time: string;
  data: unknown;
  /** `client` for one that was published through the API, `waybill` for the platform's own, `test` for one endpoint's test. */
  source: string;
  subject: string | null;
  /** The version of the subject that it tells of. */
  sequence: number | null;
  ordering_key: string | null;
  channels: string[];
  created_at: string;
}

/** Its deliveries that have a row, by state; one that is being attempted for the first time has none yet. */
export interface DeliveryCounts {
  pending: number;
  delivered: number;
  failed: number;
  held: number;
}

interface Row {
  id: string;
  type: string;
  tenant: string;
  time: string;
  payload: string;
  source: string;
  subject: string | null;
  sequence: number | null;
  ordering_key: string | null;
  channels: string[];
  created_at: string;
  /** `created_at` with its microseconds, for the cursor. */
  stamp: string;
}

const COLUMNS = sql`id, type, tenant, time, payload, source, subject, sequence, ordering_key, channels, created_at,
  to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as stamp`;

const record = (row: Row): EventRecord => ({
  id: row.id,
  type: row.type,
  tenant: row.tenant,
  time: iso(row.time),
  data: (JSON.parse(row.payload) as { data: unknown }).data,
  source: row.source,
  subject: row.subject,
  sequence: row.sequence,
  ordering_key: row.ordering_key,
  channels: row.channels,
  created_at: iso(row.created_at),
});

/** The event with what became of its deliveries; `undefined` until the fan-out has stored it. */
export async function findEvent(
  em: EntityManager,
  tenant: string,
  id: string,
): Promise<(EventRecord & { deliveries: DeliveryCounts }) | undefined> {
  const db = em.getKysely();
  const found = await sql<Row>`select ${COLUMNS} from events where tenant = ${tenant} and id = ${id}`.execute(db);
  const row = found.rows[0];
  if (!row) return undefined;
  const counted = await sql<{ status: keyof DeliveryCounts; n: string }>`
    select status, count(*) as n from webhook_deliveries where event_id = ${id} and tenant = ${tenant} group by status`.execute(
    db,
  );
  const deliveries: DeliveryCounts = { pending: 0, delivered: 0, failed: 0, held: 0 };
  for (const { status, n } of counted.rows) deliveries[status] = Number(n);
  return { ...record(row), deliveries };
}

export interface EventFilter {
  tenant: string;
  type?: string | undefined;
  /** Exclusive bounds, RFC 3339. */
  createdAfter?: string | undefined;
  createdBefore?: string | undefined;
}

/** The cursor was not made by this list. */
export class InvalidEventCursor extends Error {
  override name = 'InvalidEventCursor';
}

const CURSOR = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([^\0]{1,128})$/;

function decodeCursor(cursor: string): { stamp: string; id: string } {
  const [, stamp, id] = CURSOR.exec(Buffer.from(cursor, 'base64url').toString()) ?? [];
  // A day or an hour that does not exist would be an error of PostgreSQL.
  const at = Date.parse(stamp ?? '');
  if (!stamp || !id || !(at >= 0) || !new Date(at).toISOString().startsWith(stamp.slice(0, 19)))
    throw new InvalidEventCursor('not a cursor of this list');
  return { stamp, id };
}

/** At most `limit` events of one tenant, the newest first. Throws `InvalidEventCursor`. */
export async function listEvents(
  em: EntityManager,
  filter: EventFilter,
  limit: number,
  cursor?: string,
): Promise<{ events: EventRecord[]; nextCursor: string | null }> {
  const where: RawBuilder<unknown>[] = [sql`tenant = ${filter.tenant}`];
  if (filter.type) where.push(sql`type = ${filter.type}`);
  if (filter.createdAfter) where.push(sql`created_at > ${filter.createdAfter}::timestamptz`);
  if (filter.createdBefore) where.push(sql`created_at < ${filter.createdBefore}::timestamptz`);
  if (cursor !== undefined) {
    const { stamp, id } = decodeCursor(cursor);
    where.push(sql`(created_at, id) < (${stamp}::timestamptz, ${id})`);
  }
  const { rows } = await sql<Row>`
    select ${COLUMNS} from events where ${sql.join(where, sql` and `)}
    order by created_at desc, id desc limit ${limit + 1}`.execute(em.getKysely());
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  const nextCursor = rows.length > limit && last ? Buffer.from(`${last.stamp} ${last.id}`).toString('base64url') : null;
  return { events: page.map(record), nextCursor };
}
