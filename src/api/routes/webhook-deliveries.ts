import { createRoute, z } from '@hono/zod-openapi';
import { uuid } from '../../domain/ids.ts';
import { CAUSES, DELIVERY_STATUSES, getDelivery, listDeliveries } from '../../webhooks/deliveries.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { cursorQuery, errorResponses, success, text, timestamp } from '../schemas.ts';
import { tenantOf, tenantQuery } from '../tenant.ts';

/** How a list of deliveries is asked for. */
export const deliveryQuery = cursorQuery.extend({
  ...tenantQuery.shape,
  status: z.enum(DELIVERY_STATUSES).optional(),
  event_type: text({ max: 128 }).optional(),
  event_id: text({ max: 128 }).optional(),
  reason: text({ max: 500 }).optional().openapi({ description: 'The whole reason, such as `endpoint disabled`.' }),
});

export const deliverySchema = z
  .object({
    id: uuid,
    event_id: z.string().openapi({ description: 'The `webhook-id` of every attempt.' }),
    endpoint_id: uuid,
    event_type: z.string(),
    status: z.enum(DELIVERY_STATUSES).openapi({ description: '`held`: its endpoint is disabled.' }),
    reason: z.string().nullable().openapi({ description: 'Why it waits, is held or failed.' }),
    attempt_count: z.int(),
    next_attempt_at: timestamp.nullable(),
    delivered_at: timestamp.nullable(),
    created_at: timestamp,
  })
  .openapi('WebhookDelivery');

const attemptSchema = z
  .object({
    id: uuid,
    number: z.int(),
    started_at: timestamp,
    duration_ms: z.int(),
    status_code: z.int().nullable(),
    error: z.string().nullable(),
    response_body: z.string().nullable().openapi({ description: 'At most 16 KiB of the answer.' }),
    cause: z.enum(CAUSES).openapi({ description: 'Why it was made: by its schedule, or by hand.' }),
  })
  .openapi('WebhookAttempt');

const deliveryWithAttemptsSchema = deliverySchema
  .extend({ attempts: z.array(attemptSchema) })
  .openapi('WebhookDeliveryWithAttempts');

export const DELIVERY_EXAMPLE = {
  id: '019a9f3e-7000-7d11-8c22-5f6071829304',
  event_id: '019a9f3e-6fff-7e33-9a44-7b8c9daebfc0',
  endpoint_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  event_type: 'kyc.approved',
  status: 'pending',
  reason: 'status 500',
  attempt_count: 1,
  next_attempt_at: '2026-11-20T10:15:36.000Z',
  delivered_at: null,
  created_at: '2026-11-20T10:15:31.000Z',
};
const ATTEMPT_EXAMPLE = {
  id: '019a9f3e-7001-7a55-8b66-1a2b3c4d5e6f',
  number: 1,
  started_at: '2026-11-20T10:15:31.000Z',
  duration_ms: 84,
  status_code: 500,
  error: null,
  response_body: 'out of order',
  cause: 'schedule',
};

const shared = { tags: ['Webhooks'], security: [{ bearerAuth: [] }] };
const reads = { ...shared, middleware: forScope('webhooks:read') };

const routes = {
  list: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/deliveries',
    operationId: 'listWebhookDeliveries',
    summary: 'Deliveries, the newest first',
    description: 'Every undelivered event is here with its reason, also while its endpoint is disabled.',
    request: { query: deliveryQuery.extend({ endpoint_id: uuid.optional() }) },
    responses: {
      200: success(z.array(deliverySchema), { pagination: 'cursor', example: [DELIVERY_EXAMPLE] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  get: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/deliveries/{id}',
    operationId: 'getWebhookDelivery',
    summary: 'One delivery with its attempts',
    request: { params: z.object({ id: uuid }), query: tenantQuery },
    responses: {
      200: success(deliveryWithAttemptsSchema, { example: { ...DELIVERY_EXAMPLE, attempts: [ATTEMPT_EXAMPLE] } }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
};

/** What was sent, is waiting and could not be sent: `/webhooks/deliveries`, for admins and API keys. */
export function webhookDeliveryRoutes(deps: Pick<ApiDeps, 'database'>): ApiRouter {
  const router = createRouter();

  router.openapi(routes.list, async (c) => {
    const { tenant, ...filter } = c.req.valid('query');
    const page = await listDeliveries(deps.database.em.fork(), tenantOf(c, tenant), filter);
    return ok(c, page.rows, {
      pagination: { limit: filter.limit, has_more: page.nextCursor !== null, next_cursor: page.nextCursor },
    });
  });

  router.openapi(routes.get, async (c) =>
    ok(
      c,
      await getDelivery(deps.database.em.fork(), tenantOf(c, c.req.valid('query').tenant), c.req.valid('param').id),
    ),
  );

  return router;
}
