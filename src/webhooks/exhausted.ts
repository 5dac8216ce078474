import { sql } from 'kysely';
import { webhookDeliveryExhausted } from '../domain/events/webhook-events.ts';
import type { Emit } from '../domain/messages/emit.ts';
import type { EntityManager } from '../services/database.ts';

/** A delivery whose schedule has ended, and how its last attempt went. */
export interface Exhausted {
  id: string;
  endpointId: string;
  tenant: string;
  eventId: string;
  eventType: string;
  correlation: string | null;
  attempts: number;
  last: { statusCode: number | null; error: string | null };
}

/**
 * Whether subscribers are told. The platform's own `webhook.*` events are left out: an endpoint that takes everything
 * and answers nothing would otherwise be told of its own failures for ever.
 */
export const isTold = ({ eventType }: Pick<Exhausted, 'eventType'>): boolean => !eventType.startsWith('webhook.');

/**
 * Takes the next sequence numbers of the endpoints' events, and keeps their rows locked: one for each time that an
 * endpoint is named. Returns a function that hands them out. `alsoLocked`: endpoints whose rows the transaction locks
 * afterwards, so that all are locked in one order.
 */
export async function takeSequences(
  em: EntityManager,
  endpointIds: readonly string[],
  alsoLocked: readonly string[],
): Promise<(endpointId: string) => number | undefined> {
  if (endpointIds.length === 0) return () => undefined;
  const db = em.getKysely();
  await sql`
    select 1 from webhook_endpoints where id = any(${[...new Set([...endpointIds, ...alsoLocked])]}::uuid[])
    order by id for no key update`.execute(db);
  const { rows } = await sql<{ id: string; before: number }>`
    update webhook_endpoints e set version = e.version + named.times
    from (select id, count(*)::int as times from unnest(${endpointIds}::uuid[]) as id group by id) named
    where e.id = named.id returning e.id, e.version - named.times as before`.execute(db);
  const last = new Map(rows.map(({ id, before }) => [id, before]));
  return (endpointId) => {
    const before = last.get(endpointId);
    if (before === undefined) return undefined;
    last.set(endpointId, before + 1);
    return before + 1;
  };
}

/** Tells subscribers that a delivery's schedule has ended. */
export function announceExhausted(emit: Emit, delivery: Exhausted, sequence: number | undefined): void {
  const data = {
    endpoint_id: delivery.endpointId,
    event_id: delivery.eventId,
    event_type: delivery.eventType,
    delivery_id: delivery.id,
    attempts: delivery.attempts,
    last_status_code: delivery.last.statusCode,
    last_error: delivery.last.error,
  };
  emit.event(webhookDeliveryExhausted, data, {
    tenant: delivery.tenant,
    subject: delivery.endpointId,
    ...(sequence === undefined ? {} : { sequence }),
    ...(delivery.correlation === null ? {} : { correlationId: delivery.correlation }),
  });
}
