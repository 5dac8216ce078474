import { z } from 'zod';
import { uuid } from '../ids.ts';
import { event } from '../messages/contracts.ts';

/** What the platform tells of its own deliveries. `subject` of each is the endpoint's id. */

export const webhookEndpointDisabled = event(
  'webhook.endpoint.disabled',
  z.object({
    endpoint_id: uuid,
    url: z.string(),
    /** Why, in words: it answered 410, or nothing but failures for too long. */
    reason: z.string(),
    disabled_at: z.iso.datetime(),
  }),
);

export const webhookDeliveryExhausted = event(
  'webhook.delivery.exhausted',
  z.object({
    endpoint_id: uuid,
    event_id: z.string(),
    event_type: z.string(),
    delivery_id: uuid,
    attempts: z.int(),
    last_status_code: z.int().nullable(),
    last_error: z.string().nullable(),
  }),
);
