import { sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import type { Alarm } from '../domain/messages/emit.ts';
import type { Envelope } from '../domain/messages/envelope.ts';
import type { Database, EntityManager } from '../services/database.ts';
import { tableOf } from '../services/rows.ts';
import { type Chunk, type ChunkEvent, cut } from './chunk.ts';
import type { ActiveEndpoint, EndpointDirectory } from './directory.ts';
import { appendToLines, type OrderedRow, WAITS } from './order.ts';
import { standings } from './standstill.ts';

export interface FanoutItem {
  envelope: Envelope;
  /** An earlier hand-out may have got through, wholly or in part. */
  redelivered: boolean;
}

export interface FanoutDeps {
  database: Database;
  directory: EndpointDirectory;
  /** Resolves when the broker has the chunk. */
  publish: (chunk: Chunk) => Promise<void>;
  /** For deliveries that keep an order. */
  setAlarms: (alarms: Alarm[]) => Promise<void>;
}

/** The endpoints that want an event. */
type Receivers = (row: EventRow) => ActiveEndpoint[];

interface EventRow {
  tenant: string;
  id: string;
  type: string;
  source: string;
  subject: string | null;
  payload: string;
  time: string;
  sequence: number | null;
  ordering_key: string | null;
  channels: string[];
  correlation_id: string | null;
  actor: string | null;
}

/**
 * Turns a batch of events into event rows and chunks of deliveries.
 *
 * The insert is the dedupe: of two events with one id the first is kept and the second dropped. Only an event that was
 * handed out before (a process died, or this batch is being repeated) is fanned out again from the stored row, with
 * `check` set: its first fan-out may have ended between the insert and the broker's confirm. What is not to be sent at
 * once gets its row in the transaction of the event: a `held` one for a disabled endpoint, and one at the end of its
 * line for an endpoint that keeps the order of the event's key.
 */
export async function fanOut(items: FanoutItem[], deps: FanoutDeps): Promise<void> {
  await deps.directory.refresh();
  const rows = new Map<string, EventRow>();
  const again = new Set<string>();
  for (const { envelope, redelivered } of items) {
    const row = rowOf(envelope);
    const key = keyOf(row);
    if (!rows.has(key)) rows.set(key, row);
    if (redelivered) again.add(key);
  }
  // Asked once for each event: an endpoint that turns between the rows and the chunks must be in one of them.
  const found = new Map<EventRow, ActiveEndpoint[]>();
  const receivers: Receivers = (row) => {
    const known = found.get(row) ?? deps.directory.matching(row.tenant, row.type, row.channels);
    found.set(row, known);
    return known;
  };
  const { fresh, repeated, waiting } = await deps.database.em.fork().transactional(async (em) => {
    const inserted = await insertEvents(em, [...rows.values()]);
    const fresh = inserted.map((row) => rows.get(keyOf(row)) as EventRow);
    for (const row of fresh) again.delete(keyOf(row));
    const repeated = await storedEvents(
      em,
      [...again].map((key) => rows.get(key) as EventRow),
    );
    return { fresh, repeated, waiting: await insertWaiting(em, [...fresh, ...repeated], receivers) };
  });
  if (waiting.alarms.length > 0) deps.setAlarms(waiting.alarms).catch(() => undefined); // the sweep sets what is lost
  const withReceivers = (row: EventRow) => chunkEvent(row, receivers(row), waiting.enabled);
  const chunks = [...cut(fresh.map(withReceivers), false), ...cut(repeated.map(withReceivers), true)];
  await Promise.all(chunks.map((chunk) => deps.publish(chunk)));
}

const keyOf = (row: { tenant: string; id: string }): string => `${row.tenant}\n${row.id}`;

function rowOf(envelope: Envelope): EventRow {
  return {
    tenant: envelope.tenant ?? 'default',
    id: envelope.id,
    type: envelope.type,
    source: envelope.source,
    subject: envelope.subject ?? null,
    // Standard Webhooks 1.0.0, "Payload structure"; these exact bytes are signed and sent on every attempt.
    payload: JSON.stringify({ type: envelope.type, timestamp: envelope.time, data: envelope.data ?? null }),
    time: envelope.time,
    sequence: envelope.sequence ?? null,
    ordering_key: envelope.orderingkey ?? null,
    channels: envelope.channels?.split(',').filter(Boolean) ?? [],
    correlation_id: envelope.correlationid ?? null,
    actor: envelope.actor ?? null,
  };
}

const EVENT = {
  tenant: 'text',
  id: 'text',
  type: 'text',
  source: 'text',
  subject: 'text',
  payload: 'text',
  time: 'timestamptz',
  sequence: 'int',
  ordering_key: 'text',
  correlation_id: 'text',
  actor: 'text',
  channels: 'text',
} as const;

async function insertEvents(em: EntityManager, rows: EventRow[]): Promise<{ tenant: string; id: string }[]> {
  const result = await sql<{ tenant: string; id: string }>`
    insert into events (tenant, id, type, source, subject, payload, time, sequence, ordering_key, correlation_id, actor, channels)
    select tenant, id, type, source, subject, payload, time, sequence, ordering_key, correlation_id, actor, string_to_array(channels, ',')
    from ${tableOf(
      rows.map((row) => ({ ...row, channels: row.channels.join(',') })),
      EVENT,
    )} as r (tenant, id, type, source, subject, payload, time, sequence, ordering_key, correlation_id, actor, channels)
    on conflict do nothing
    returning tenant, id`.execute(em.getKysely());
  return result.rows;
}

/** Whether deliveries of the event to the endpoint stand in a line. */
const inOrder = (event: EventRow, endpoint: ActiveEndpoint): boolean => endpoint.ordered && event.ordering_key !== null;

/**
 * Writes the rows of what is not to be sent at once. The directory may be late: which endpoints are disabled is asked
 * again under their row locks, so that no row stays held beyond the enabling; `enabled` are those that are not.
 */
async function insertWaiting(
  em: EntityManager,
  events: EventRow[],
  receivers: Receivers,
): Promise<{ alarms: Alarm[]; enabled: Set<string> }> {
  const found = events.flatMap((event) =>
    receivers(event)
      .filter((endpoint) => endpoint.status === 'disabled' || inOrder(event, endpoint))
      .map((endpoint) => ({ event, endpoint })),
  );
  const enabled = new Set<string>();
  if (found.length === 0) return { alarms: [], enabled };
  const disabled = found.filter(({ endpoint }) => endpoint.status === 'disabled');
  const standing =
    disabled.length > 0
      ? await standings(
          em,
          disabled.map(({ endpoint }) => endpoint.id),
        )
      : new Map();
  const held: Omit<OrderedRow, 'ordering_key'>[] = [];
  const lined: OrderedRow[] = [];
  for (const { event, endpoint } of found) {
    const status = endpoint.status === 'enabled' ? 'enabled' : standing.get(endpoint.id);
    if (status === undefined) continue; // deleted
    if (status === 'enabled' && endpoint.status === 'disabled') enabled.add(endpoint.id);
    const row = {
      id: newId(),
      tenant: event.tenant,
      endpoint_id: endpoint.id,
      event_id: event.id,
      event_type: event.type,
      correlation_id: event.correlation_id,
      status: status === 'enabled' ? ('pending' as const) : ('held' as const),
      reason: status === 'enabled' ? WAITS : 'endpoint disabled',
    };
    if (endpoint.ordered && event.ordering_key !== null) lined.push({ ...row, ordering_key: event.ordering_key });
    else if (status === 'disabled') held.push(row);
  }
  const alarms = await appendToLines(em, lined);
  if (held.length > 0) await insertHeld(em, held);
  return { alarms, enabled };
}

async function insertHeld(em: EntityManager, held: Omit<OrderedRow, 'ordering_key'>[]): Promise<void> {
  await sql`
    insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, correlation_id)
    select id, tenant, endpoint_id, event_id, event_type, status, reason, correlation_id
    from jsonb_to_recordset(${JSON.stringify(held)}::jsonb) as r (id uuid, tenant text, endpoint_id uuid, event_id text, event_type text,
      status text, reason text, correlation_id text)
    on conflict do nothing`.execute(em.getKysely());
}

async function storedEvents(em: EntityManager, rows: EventRow[]): Promise<EventRow[]> {
  if (rows.length === 0) return [];
  const result = await sql<EventRow>`
    select e.* from events e
    join unnest(${rows.map((r) => r.tenant)}::text[], ${rows.map((r) => r.id)}::text[]) with ordinality as k (tenant, id, n) using (tenant, id)
    order by k.n`.execute(em.getKysely());
  return result.rows;
}

/** `enabled`: endpoints that the directory still shows as disabled. */
function chunkEvent(row: EventRow, receivers: ActiveEndpoint[], enabled: ReadonlySet<string>): ChunkEvent {
  const to = receivers
    .filter((endpoint) => (endpoint.status === 'enabled' || enabled.has(endpoint.id)) && !inOrder(row, endpoint))
    .map((endpoint): [string, string] => [newId(), endpoint.id]);
  return { id: row.id, tenant: row.tenant, type: row.type, payload: row.payload, correlation: row.correlation_id, to };
}
