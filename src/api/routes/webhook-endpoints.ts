import { createRoute, z } from '@hono/zod-openapi';
import type { Config } from '../../config.ts';
import { uuid } from '../../domain/ids.ts';
import { parseAllowNetworks } from '../../webhooks/addresses.ts';
import { listDeliveries } from '../../webhooks/deliveries.ts';
import { endpointChange, newEndpoint } from '../../webhooks/endpoint-settings.ts';
import {
  createEndpoint,
  deleteEndpoint,
  ENDPOINT_SORTS,
  getEndpoint,
  listEndpoints,
  rotateEndpointSecret,
  updateEndpoint,
} from '../../webhooks/endpoints.ts';
import { DEFAULT_OVERLAP_S, MAX_OVERLAP_S, SIGNATURES } from '../../webhooks/secrets.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { ok, pagination } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, pageQuery, success, timestamp } from '../schemas.ts';
import { tenantOf, tenantQuery } from '../tenant.ts';
import { DELIVERY_EXAMPLE, deliveryQuery, deliverySchema } from './webhook-deliveries.ts';

const endpointSchema = z
  .object({
    id: uuid,
    url: z.string(),
    description: z.string(),
    event_types: z.array(z.string()).openapi({ description: 'Exact types, `kyc.*` or `*`; empty: all.' }),
    channels: z.array(z.string()).openapi({ description: 'Only events that share one of them; empty: all.' }),
    headers: z.record(z.string(), z.string()).openapi({ description: 'Sent with every webhook; lower case.' }),
    rate_limit: z.int().nullable().openapi({
      description: 'Requests per second, 1 to 10,000; null: no limit. What is beyond waits and uses up no attempt.',
    }),
    ordered: z.boolean().openapi({
      description:
        'Events of one `ordering_key` are sent one at a time, in the order of acceptance: the next one goes when the one before was delivered or has failed for good. Events without a key are not ordered.',
    }),
    timeout_ms: z.int(),
    status: z.enum(['enabled', 'disabled']),
    disabled_reason: z.string().nullable(),
    signature: z.enum(SIGNATURES),
    hex_signature: z.boolean().openapi({
      description:
        'Adds `X-Webhook-Signature`: hex HMAC-SHA256 of the body, keyed with the whole `whsec_…` text. While a secret rotates it is made with the new one alone.',
    }),
    metadata: z.record(z.string(), z.string()),
    created_at: timestamp,
    updated_at: timestamp,
  })
  .openapi('WebhookEndpoint');

const endpointWithSecretsSchema = endpointSchema
  .extend({
    secret: z.string().optional().openapi({ description: 'Of v1: `whsec_…`. Shown this once.' }),
    public_key: z.string().optional().openapi({ description: 'Of v1a: `whpk_…`, to verify with.' }),
  })
  .openapi('WebhookEndpointWithSecrets');

const rotation = z.strictObject({
  overlap_seconds: z
    .int()
    .min(0)
    .max(MAX_OVERLAP_S)
    .optional()
    .openapi({ description: `How long the old secret signs too; ${DEFAULT_OVERLAP_S} when absent.` }),
});

const EXAMPLE = {
  id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  url: 'https://example.com/hooks',
  description: 'Billing',
  event_types: ['kyc.*', 'payment.succeeded'],
  channels: [],
  headers: { 'x-team': 'billing' },
  rate_limit: null,
  ordered: false,
  timeout_ms: 15_000,
  status: 'enabled',
  disabled_reason: null,
  signature: 'v1',
  hex_signature: false,
  metadata: {},
  created_at: '2026-11-20T10:15:30.000Z',
  updated_at: '2026-11-20T10:15:30.000Z',
};
const WITH_SECRET = { ...EXAMPLE, secret: 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD' };

const shared = { tags: ['Webhooks'], security: [{ bearerAuth: [] }] };
const reads = { ...shared, middleware: forScope('webhooks:read') };
const writes = { ...shared, middleware: forScope('webhooks:write') };
const ofEndpoint = { params: z.object({ id: uuid }), query: tenantQuery };

const routes = {
  create: createRoute({
    ...writes,
    method: 'post',
    path: '/webhooks/endpoints',
    operationId: 'createWebhookEndpoint',
    summary: 'Subscribe a URL to events',
    description:
      'The secret is shown in this answer and never again. URLs with credentials, other schemes than http(s), or a literal private address are refused; what a name resolves to is checked whenever it is dialled.',
    request: {
      query: tenantQuery,
      body: jsonBody(newEndpoint, { url: EXAMPLE.url, event_types: EXAMPLE.event_types, headers: EXAMPLE.headers }),
    },
    responses: {
      201: success(endpointWithSecretsSchema, { description: 'Created.', example: WITH_SECRET }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
  list: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/endpoints',
    operationId: 'listWebhookEndpoints',
    summary: 'Endpoints, the newest first',
    request: {
      query: pageQuery(ENDPOINT_SORTS).extend({
        status: z.enum(['enabled', 'disabled']).optional(),
        ...tenantQuery.shape,
      }),
    },
    responses: {
      200: success(z.array(endpointSchema), { pagination: 'page', example: [EXAMPLE] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  get: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/endpoints/{id}',
    operationId: 'getWebhookEndpoint',
    summary: 'One endpoint',
    request: ofEndpoint,
    responses: { 200: success(endpointSchema, { example: EXAMPLE }), ...errorResponses(400, 401, 403, 404, 429, 503) },
  }),
  update: createRoute({
    ...writes,
    method: 'patch',
    path: '/webhooks/endpoints/{id}',
    operationId: 'updateWebhookEndpoint',
    summary: 'Change an endpoint',
    description:
      'What is absent stays as it is. `status: "enabled"` releases held deliveries, oldest first. A `signature` that names a scheme without a secret makes one, shown in this answer.',
    request: { ...ofEndpoint, body: jsonBody(endpointChange, { status: 'enabled' }) },
    responses: {
      200: success(endpointWithSecretsSchema, { example: EXAMPLE }),
      ...errorResponses(400, 401, 403, 404, 413, 415, 429, 503),
    },
  }),
  delete: createRoute({
    ...writes,
    method: 'delete',
    path: '/webhooks/endpoints/{id}',
    operationId: 'deleteWebhookEndpoint',
    summary: 'Delete an endpoint',
    description: 'What was still to be delivered to it fails with the reason "endpoint deleted".',
    request: ofEndpoint,
    responses: {
      200: success(z.object({ id: uuid }), { description: 'Deleted.', example: { id: EXAMPLE.id } }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
  rotate: createRoute({
    ...writes,
    method: 'post',
    path: '/webhooks/endpoints/{id}/rotate-secret',
    operationId: 'rotateWebhookSecret',
    summary: 'Give an endpoint a new secret',
    description: 'The old one signs beside it for 24 hours, or for `overlap_seconds` (0: it stops at once).',
    request: { ...ofEndpoint, body: { ...jsonBody(rotation, { overlap_seconds: 3600 }), required: false } },
    responses: {
      200: success(endpointWithSecretsSchema, { example: WITH_SECRET }),
      ...errorResponses(400, 401, 403, 404, 413, 415, 429, 503),
    },
  }),
  deliveries: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/endpoints/{id}/deliveries',
    operationId: 'listEndpointDeliveries',
    summary: 'An endpoint’s deliveries, the newest first',
    request: { params: ofEndpoint.params, query: deliveryQuery },
    responses: {
      200: success(z.array(deliverySchema), { pagination: 'cursor', example: [DELIVERY_EXAMPLE] }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
};

/** Where subscribers want their events: `/webhooks/endpoints`, for admins and API keys. */
export function webhookEndpointRoutes(
  deps: Pick<ApiDeps, 'database' | 'keyring' | 'transact'> & { config: Pick<Config, 'webhookAllowNetworks'> },
): ApiRouter {
  const router = createRouter();
  const endpointDeps = { keyring: deps.keyring, allow: parseAllowNetworks(deps.config.webhookAllowNetworks.join(',')) };

  router.openapi(routes.create, async (c) => {
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    const endpoint = c.req.valid('json');
    const created = await deps.transact(c.get('context'), (unit) =>
      createEndpoint(unit, { tenant, endpoint }, endpointDeps),
    );
    return ok(c, created, { status: 201 });
  });

  router.openapi(routes.list, async (c) => {
    const { tenant, ...query } = c.req.valid('query');
    const { rows, total } = await listEndpoints(deps.database.em.fork(), tenantOf(c, tenant), query);
    return ok(c, rows, { pagination: pagination(query, total) });
  });

  router.openapi(routes.get, async (c) =>
    ok(
      c,
      await getEndpoint(deps.database.em.fork(), tenantOf(c, c.req.valid('query').tenant), c.req.valid('param').id),
    ),
  );

  router.openapi(routes.update, async (c) => {
    const input = {
      tenant: tenantOf(c, c.req.valid('query').tenant),
      ...c.req.valid('param'),
      change: c.req.valid('json'),
    };
    return ok(c, await deps.transact(c.get('context'), (unit) => updateEndpoint(unit, input, endpointDeps)));
  });

  router.openapi(routes.delete, async (c) => {
    const input = { tenant: tenantOf(c, c.req.valid('query').tenant), ...c.req.valid('param') };
    await deps.transact(c.get('context'), (unit) => deleteEndpoint(unit, input));
    return ok(c, { id: input.id });
  });

  router.openapi(routes.rotate, async (c) => {
    const { overlap_seconds: overlapSeconds = DEFAULT_OVERLAP_S } = c.req.valid('json') ?? {};
    const input = { tenant: tenantOf(c, c.req.valid('query').tenant), ...c.req.valid('param'), overlapSeconds };
    return ok(c, await deps.transact(c.get('context'), (unit) => rotateEndpointSecret(unit, input, deps.keyring)));
  });

  router.openapi(routes.deliveries, async (c) => {
    const { tenant: named, ...filter } = c.req.valid('query');
    const { id } = c.req.valid('param');
    const tenant = tenantOf(c, named);
    const em = deps.database.em.fork();
    await getEndpoint(em, tenant, id);
    const page = await listDeliveries(em, tenant, { ...filter, endpoint_id: id });
    return ok(c, page.rows, {
      pagination: { limit: filter.limit, has_more: page.nextCursor !== null, next_cursor: page.nextCursor },
    });
  });

  return router;
}
