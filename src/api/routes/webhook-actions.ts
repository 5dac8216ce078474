import { createRoute, z } from '@hono/zod-openapi';
import { EVENT_TYPE_NAME } from '../../domain/events/event-types.ts';
import { uuid } from '../../domain/ids.ts';
import { DELIVERY_STATUSES } from '../../webhooks/deliveries.ts';
import { recoverEndpoint } from '../../webhooks/recover.ts';
import { MAX_RESENT, matchRetries, retryDeliveries, retryDelivery } from '../../webhooks/resend.ts';
import { endpointStats, MAX_STATS_DAYS } from '../../webhooks/stats.ts';
import { DEFAULT_TEST_TYPE, sendTestEvent } from '../../webhooks/test-event.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { moment } from '../moment.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, success, text } from '../schemas.ts';
import { tenantOf, tenantQuery } from '../tenant.ts';
import { DELIVERY_EXAMPLE, deliverySchema } from './webhook-deliveries.ts';

const retryFilter = z
  .strictObject({
    endpoint_id: uuid.optional(),
    status: z.enum(DELIVERY_STATUSES).optional().openapi({ description: 'All but `delivered` when absent.' }),
    event_type: text({ max: 128 }).optional(),
    reason: text({ max: 500 }).optional().openapi({ description: 'The whole reason.' }),
    created_after: moment.optional(),
    created_before: moment.optional(),
  })
  .refine((given) => Object.values(given).some((value) => value !== undefined), 'must name at least one field');

const retryMany = z.strictObject({
  filter: retryFilter,
  dry_run: z.boolean().default(false).openapi({ description: 'Only counts what matches.' }),
  limit: z.int().min(1).max(MAX_RESENT).default(MAX_RESENT),
});

const recovery = z.strictObject({
  since: moment.openapi({ description: 'At most 14 days ago.' }),
  until: moment.optional().openapi({ description: 'Now when absent.' }),
});

const test = z.strictObject({
  event_type: z
    .string()
    .max(128, { abort: true })
    .regex(EVENT_TYPE_NAME, 'must be an event type such as payment.succeeded')
    .default(DEFAULT_TEST_TYPE),
});

const statsFields = {
  attempts: z.int(),
  delivered: z.int().openapi({ description: 'Attempts that were answered with 2xx.' }),
  failed: z.int(),
  success_rate: z.number().nullable().openapi({ description: 'From 0 to 1; null without an attempt.' }),
  p50_ms: z.int().nullable().openapi({ description: 'How long half of the attempts took at most.' }),
  p95_ms: z.int().nullable(),
};
const statsSchema = z
  .object({
    days: z.array(z.object({ date: z.iso.date(), ...statsFields })),
    total: z.object(statsFields),
  })
  .openapi('WebhookEndpointStats');

const DAY = { attempts: 400, delivered: 397, failed: 3, success_rate: 0.9925, p50_ms: 41, p95_ms: 180 };
const RESENT = { ...DELIVERY_EXAMPLE, reason: 'sent again by hand' };

const shared = { tags: ['Webhooks'], security: [{ bearerAuth: [] }] };
const reads = { ...shared, middleware: forScope('webhooks:read') };
const writes = { ...shared, middleware: forScope('webhooks:write') };
const byId = { params: z.object({ id: uuid }), query: tenantQuery };

const routes = {
  retryMany: createRoute({
    ...writes,
    method: 'post',
    path: '/webhooks/deliveries/retry',
    operationId: 'retryWebhookDeliveries',
    summary: 'Send what matches again, the oldest first',
    description:
      'At most `limit`; `matched` counts all that match and can be sent: not those of a disabled or deleted endpoint, nor those on their way at this moment. They go out one after the other. After a 503 some may have been sent; those that are still `failed` match again.',
    request: { query: tenantQuery, body: jsonBody(retryMany, { filter: { status: 'failed' }, dry_run: true }) },
    responses: {
      202: success(z.object({ matched: z.int(), retried: z.int(), dry_run: z.boolean() }), {
        description: 'On their way, or counted.',
        example: { matched: 12, retried: 0, dry_run: true },
      }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
  retry: createRoute({
    ...writes,
    method: 'post',
    path: '/webhooks/deliveries/{id}/retry',
    operationId: 'retryWebhookDelivery',
    summary: 'Send a delivery again now',
    description:
      'Whatever its state, a delivered one too, and past an open breaker. Its attempts go on counting, and its schedule begins anew. 409 when its endpoint is disabled or deleted, it is on its way at this moment, or its event is past its retention.',
    request: byId,
    responses: {
      202: success(deliverySchema, { description: 'On its way.', example: RESENT }),
      ...errorResponses(400, 401, 403, 404, 409, 429, 503),
    },
  }),
  recover: createRoute({
    ...writes,
    method: 'post',
    path: '/webhooks/endpoints/{id}/recover',
    operationId: 'recoverWebhookEndpoint',
    summary: 'Send an endpoint again what it missed',
    description:
      'Everything between `since` and `until` that failed, and every event that the endpoint would get now and was never sent: from before it existed or asked for this type. Oldest first, at most 10,000 at once: with `has_more` the same request goes on. 409 when the endpoint is disabled.',
    request: { ...byId, body: jsonBody(recovery, { since: '2026-11-20T08:00:00.000Z' }) },
    responses: {
      202: success(z.object({ recovered: z.int(), has_more: z.boolean() }), {
        description: 'On their way.',
        example: { recovered: 37, has_more: false },
      }),
      ...errorResponses(400, 401, 403, 404, 409, 413, 415, 429, 503),
    },
  }),
  test: createRoute({
    ...writes,
    method: 'post',
    path: '/webhooks/endpoints/{id}/test',
    operationId: 'testWebhookEndpoint',
    summary: 'Send a test event to an endpoint',
    description: `Sends the catalogue's example of a type (\`${DEFAULT_TEST_TYPE}\` when none is named) to this endpoint alone, whatever types and channels it asks for; signed, recorded and retried as every delivery is. Its first attempt is made at once, past an open breaker, a pause and the endpoint's rate. 409 when the endpoint is disabled.`,
    request: { ...byId, body: { ...jsonBody(test, { event_type: 'user.created' }), required: false } },
    responses: {
      202: success(z.object({ event_id: z.string(), delivery_id: uuid }), {
        description: 'On its way.',
        example: { event_id: DELIVERY_EXAMPLE.event_id, delivery_id: DELIVERY_EXAMPLE.id },
      }),
      ...errorResponses(400, 401, 403, 404, 409, 413, 415, 429, 503),
    },
  }),
  stats: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/endpoints/{id}/stats',
    operationId: 'getWebhookEndpointStats',
    summary: 'How an endpoint does, by day',
    description: 'Counted from its attempts, by the day of UTC on which they began; today is the last.',
    request: {
      params: byId.params,
      query: tenantQuery.extend({
        days: z
          .string()
          .regex(/^\d{1,9}$/, { error: `must be a whole number from 1 to ${MAX_STATS_DAYS}`, abort: true })
          .transform(Number)
          .refine((n) => n >= 1 && n <= MAX_STATS_DAYS, `must be a whole number from 1 to ${MAX_STATS_DAYS}`)
          .default(7)
          .openapi({ type: 'integer', minimum: 1, maximum: MAX_STATS_DAYS, default: 7 }),
      }),
    },
    responses: {
      200: success(statsSchema, { example: { days: [{ date: '2026-11-20', ...DAY }], total: DAY } }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
};

/** What is done with endpoints and deliveries by hand: retry, recover, test; and how an endpoint does. */
export function webhookActionRoutes(deps: Pick<ApiDeps, 'database' | 'transact'>): ApiRouter {
  const router = createRouter();

  router.openapi(routes.retryMany, async (c) => {
    const { filter, dry_run, limit } = c.req.valid('json');
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    const { found, matched } = await matchRetries(deps.database.em.fork(), tenant, filter, limit);
    const retried = dry_run ? 0 : await retryDeliveries(deps.transact, c.get('context'), found);
    return ok(c, { matched, retried, dry_run }, { status: 202 });
  });

  router.openapi(routes.retry, async (c) => {
    const input = { tenant: tenantOf(c, c.req.valid('query').tenant), ...c.req.valid('param') };
    return ok(c, await deps.transact(c.get('context'), (unit) => retryDelivery(unit, input)), { status: 202 });
  });

  router.openapi(routes.recover, async (c) => {
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    const input = { tenant, ...c.req.valid('param'), ...c.req.valid('json') };
    return ok(c, await recoverEndpoint(deps.transact, c.get('context'), input), { status: 202 });
  });

  router.openapi(routes.test, async (c) => {
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    // Without a body nothing is parsed, and no default applied.
    const { event_type: type = DEFAULT_TEST_TYPE } = c.req.valid('json') ?? {};
    const input = { tenant, ...c.req.valid('param'), type };
    return ok(c, await deps.transact(c.get('context'), (unit) => sendTestEvent(unit, input)), { status: 202 });
  });

  router.openapi(routes.stats, async (c) => {
    const { tenant, days } = c.req.valid('query');
    const input = { tenant: tenantOf(c, tenant), ...c.req.valid('param'), days };
    return ok(c, await endpointStats(deps.database.em.fork(), input));
  });

  return router;
}
