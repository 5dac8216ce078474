import { webhookDeliveryExhausted } from '../domain/events/webhook-events.ts';
import { newId } from '../domain/ids.ts';
import type { Transact } from '../domain/messages/emit.ts';
import { SYSTEM } from '../domain/messages/envelope.ts';
import type { Attempted } from './response.ts';

interface Exhausted {
  id: string;
  endpointId: string;
  tenant: string;
  eventId: string;
  eventType: string;
  correlation: string | null;
  attempts: number;
}

/**
 * Tells subscribers that a delivery's schedule has ended. The platform's own `webhook.*` events are left out: an
 * endpoint that takes everything and answers nothing would otherwise be told of its own failures for ever.
 */
export async function announceExhausted(transact: Transact, delivery: Exhausted, last: Attempted): Promise<void> {
  if (delivery.eventType.startsWith('webhook.')) return;
  const requestId = newId();
  await transact({ requestId, correlationId: delivery.correlation ?? requestId, actor: SYSTEM }, async ({ emit }) => {
    const data = {
      endpoint_id: delivery.endpointId,
      event_id: delivery.eventId,
      event_type: delivery.eventType,
      delivery_id: delivery.id,
      attempts: delivery.attempts,
      last_status_code: last.statusCode,
      last_error: last.error,
    };
    emit.event(webhookDeliveryExhausted, data, { tenant: delivery.tenant, subject: delivery.endpointId });
  });
}
