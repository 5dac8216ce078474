import { sql } from 'kysely';
import { getEventType } from '../domain/events/event-types.ts';
import { newId } from '../domain/ids.ts';
import type { Unit } from '../domain/messages/emit.ts';
import { actorText } from '../domain/messages/envelope.ts';
import { Refusal, refuse } from '../domain/problem.ts';
import { currentTime } from '../services/clock.ts';
import type { EntityManager } from '../services/database.ts';
import { getEndpoint } from './endpoints.ts';
import { standings } from './standstill.ts';

export const DEFAULT_TEST_TYPE = 'payment.succeeded';

/** The `source` of events that were made for one endpoint: nothing else is ever sent of them. */
export const TEST_SOURCE = 'test';

/**
 * Sends the catalogue's example of a type to one endpoint, whatever types and channels it asks for; signed, recorded and
 * retried as every delivery is. Refuses with NOT_FOUND, with CONFLICT when the endpoint is disabled, and with
 * VALIDATION_ERROR a type that the tenant does not have or that has no example.
 */
export async function sendTestEvent(
  unit: Unit,
  { tenant, id, type }: { tenant: string; id: string; type: string },
): Promise<{ event_id: string; delivery_id: string }> {
  const { em, emit } = unit;
  const standing = (await standings(em, [id])).get(id);
  await getEndpoint(em, tenant, id);
  if (standing !== 'enabled') refuse('CONFLICT', 'this endpoint is disabled: enable it first');
  const data = await exampleOf(em, tenant, type);
  const [eventId, deliveryId, now] = [newId(), newId(), new Date(currentTime())];
  const { correlationId, actor } = emit.context;
  const payload = JSON.stringify({ type, timestamp: now.toISOString(), data });
  const db = em.getKysely();
  await sql`
    insert into events (tenant, id, type, source, payload, time, correlation_id, actor)
    values (${tenant}, ${eventId}, ${type}, ${TEST_SOURCE}, ${payload}, ${now}, ${correlationId}, ${actorText(actor)})`.execute(
    db,
  );
  await sql`
    insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, cause, next_attempt_at, correlation_id)
    values (${deliveryId}, ${tenant}, ${id}, ${eventId}, ${type}, 'pending', 'test', 'test', now(), ${correlationId})`.execute(
    db,
  );
  emit.alarm({ queue: 'webhooks', id: deliveryId, attempt: 0, generation: 0, at: now.getTime() });
  emit.audit({
    action: 'webhook.endpoint.tested',
    targets: [{ type: 'webhook_endpoint', id }],
    metadata: { event_type: type, event_id: eventId },
  });
  return { event_id: eventId, delivery_id: deliveryId };
}

async function exampleOf(em: EntityManager, tenant: string, type: string): Promise<unknown> {
  const found = await getEventType(em, tenant, type).catch((error: unknown) => {
    if (error instanceof Refusal && error.problem.code === 'NOT_FOUND')
      refuse('VALIDATION_ERROR', 'event_type is not in the catalogue of event types', { field: 'event_type' });
    throw error;
  });
  return (
    found.example ?? refuse('VALIDATION_ERROR', 'this type has no example in the catalogue', { field: 'event_type' })
  );
}
