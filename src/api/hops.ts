import { z } from '@hono/zod-openapi';
import { KINDS } from '../domain/operations/hop.ts';
import { timestamp } from './schemas.ts';

/** One hop of a trail, as the trails of operations and of events document it. */
export const hopSchema = z
  .object({
    at: timestamp,
    kind: z.enum(KINDS),
    status: z.string(),
    ref: z
      .string()
      .openapi({ description: 'The id of the operation, event, e-mail, delivery, dead letter or audit row.' }),
    detail: z.record(z.string(), z.unknown()),
    duration_ms: z.number().optional(),
  })
  .openapi('Hop');

const ID = '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01';
const EVENT = '019a9f3e-6c20-7aa1-8b3c-4d5e6f708192';
const DELIVERY = '019a9f3e-6c21-7bb2-9c4d-5e6f708192a3';

export const HOP_EXAMPLES = [
  {
    at: '2026-11-20T10:15:30.000Z',
    kind: 'request.accepted',
    status: 'accepted',
    ref: ID,
    detail: { type: 'user.register', request_id: '019a9f3e-6c00-7000-8000-000000000001' },
  },
  {
    at: '2026-11-20T10:15:30.012Z',
    kind: 'command.handled',
    status: 'succeeded',
    ref: ID,
    detail: { type: 'user.register', attempts: 1, http_status: 201 },
    duration_ms: 108,
  },
  {
    at: '2026-11-20T10:15:30.110Z',
    kind: 'event.published',
    status: 'published',
    ref: EVENT,
    detail: { type: 'user.created' },
    duration_ms: 14,
  },
  {
    at: '2026-11-20T10:15:30.140Z',
    kind: 'webhook.attempted',
    status: 'delivered',
    ref: DELIVERY,
    detail: { event_id: EVENT, type: 'user.created', attempt: 1, status_code: 204 },
    duration_ms: 9,
  },
];
