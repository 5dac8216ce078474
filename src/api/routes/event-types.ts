import { createRoute, z } from '@hono/zod-openapi';
import {
  createEventType,
  EVENT_TYPE_NAME,
  getEventType,
  listEventTypes,
  prepareEventType,
  updateEventType,
} from '../../domain/events/event-types.ts';
import { refuse } from '../../domain/problem.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { allowBody } from '../middleware/well-formed.ts';
import { ok, pagination } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, pageQuery, success, text, timestamp } from '../schemas.ts';
import { tenantOf, tenantQuery } from '../tenant.ts';

export interface EventTypeDeps extends Pick<ApiDeps, 'database' | 'transact'> {
  eventTypes: {
    /** Tells all processes that the catalogue was changed. */
    changed(): Promise<void>;
  };
}

/** A schema and an example may have 64 KiB each. */
const BODY_BYTES = 160 * 1024;

const json = z.record(z.string(), z.unknown());
const name = z
  .string()
  .max(128, { abort: true })
  .regex(EVENT_TYPE_NAME, 'must be words of a-z, 0-9 and _ joined by dots, such as order.paid')
  .openapi({ example: 'order.paid' });

const typeSchema = z
  .object({
    name: z.string(),
    description: z.string(),
    schema: json.openapi({ description: 'JSON Schema (draft 2020-12) of `data`.' }),
    example: json.nullable(),
    deprecated: z.boolean(),
    version: z.int(),
    built_in: z.boolean().openapi({ description: 'The same for every tenant, and not to be changed.' }),
    publishable: z.boolean().openapi({ description: 'False for what the platform alone publishes.' }),
    created_at: timestamp.nullable().openapi({ description: 'Of this version; `null` for a built-in type.' }),
  })
  .openapi('EventType');

const withVersionsSchema = typeSchema
  .extend({ versions: z.array(z.object({ version: z.int(), created_at: timestamp.nullable() })) })
  .openapi('EventTypeWithVersions');

const content = {
  description: text({ min: 0, max: 1000 }).default(''),
  schema: json.openapi({
    description:
      'JSON Schema, draft 2020-12, of at most 64 KiB. `$ref` leads nowhere but into the schema itself; a pattern has at most 200 characters.',
  }),
  example: json.optional().openapi({ description: 'Must fit the schema.' }),
  deprecated: z.boolean().optional(),
};
const newType = z.strictObject({ name, ...content }).openapi('EventTypeInput');
const newVersion = z.strictObject({ name: name.optional(), ...content }).openapi('EventTypeVersionInput');

const EXAMPLE = {
  name: 'order.paid',
  description: 'An order was paid.',
  schema: { type: 'object', required: ['order_id'], properties: { order_id: { type: 'string' } } },
  example: { order_id: 'o-17' },
  deprecated: false,
  version: 1,
  built_in: false,
  publishable: true,
  created_at: '2026-11-20T10:15:30.000Z',
};
const { name: NAME, description, schema, example } = EXAMPLE;

const shared = { tags: ['Webhooks'], security: [{ bearerAuth: [] }] };
const reads = { ...shared, middleware: forScope('webhooks:read') };
const writes = { ...shared, middleware: [...forScope('webhooks:write'), allowBody(BODY_BYTES)] };
const byName = { params: z.object({ name: text({ max: 128, trim: false }) }), query: tenantQuery };

const routes = {
  list: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/event-types',
    operationId: 'listEventTypes',
    summary: 'The catalogue of event types',
    description:
      'The built-in types, then the tenant’s own by name, each in its newest version. 100 a page by default.',
    request: {
      query: z.object({ ...tenantQuery.shape, page: pageQuery(['name']).shape.page, limit: pageLimit() }),
    },
    responses: {
      200: success(z.array(typeSchema), { pagination: 'page', example: [EXAMPLE] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  create: createRoute({
    ...writes,
    method: 'post',
    path: '/webhooks/event-types',
    operationId: 'createEventType',
    summary: 'Add an event type of your own',
    description: 'From then on events of the type can be published, and are refused when `data` does not fit.',
    request: { query: tenantQuery, body: jsonBody(newType, { name: NAME, description, schema, example }) },
    responses: {
      201: success(typeSchema, { description: 'Created.', example: EXAMPLE }),
      ...errorResponses(400, 401, 403, 409, 413, 415, 429, 503),
    },
  }),
  get: createRoute({
    ...reads,
    method: 'get',
    path: '/webhooks/event-types/{name}',
    operationId: 'getEventType',
    summary: 'One event type',
    description: 'In its newest version, or in the one that is asked for.',
    request: {
      params: byName.params,
      query: tenantQuery.extend({
        version: z
          .string()
          .regex(/^[1-9]\d{0,8}$/, 'must be a whole number from 1')
          .transform(Number)
          .optional()
          .openapi({ type: 'integer' }),
      }),
    },
    responses: {
      200: success(withVersionsSchema, {
        example: { ...EXAMPLE, versions: [{ version: 1, created_at: EXAMPLE.created_at }] },
      }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
  update: createRoute({
    ...writes,
    method: 'put',
    path: '/webhooks/event-types/{name}',
    operationId: 'updateEventType',
    summary: 'Give an event type a new version',
    description:
      'The new version counts from now on; the old ones can still be read, the newest 100 of them. What is already said by the newest version makes no new one.',
    request: { ...byName, body: jsonBody(newVersion, { description, schema, deprecated: true }) },
    responses: {
      200: success(typeSchema, { example: { ...EXAMPLE, deprecated: true, version: 2 } }),
      ...errorResponses(400, 401, 403, 404, 409, 413, 415, 429, 503),
    },
  }),
};

/** The catalogue is short and is read as a whole. */
function pageLimit() {
  return z
    .string()
    .regex(/^([1-9]\d?|100)$/, 'must be a whole number from 1 to 100')
    .transform(Number)
    .default(100)
    .openapi({ type: 'integer', minimum: 1, maximum: 100, default: 100 });
}

/** What events there are and what they carry: `/webhooks/event-types`, for admins and API keys. */
export function eventTypeRoutes(deps: EventTypeDeps): ApiRouter {
  const router = createRouter();

  router.openapi(routes.list, async (c) => {
    const { tenant, ...query } = c.req.valid('query');
    const { types, total } = await listEventTypes(deps.database.em.fork(), tenantOf(c, tenant), query);
    return ok(c, types, { pagination: pagination(query, total) });
  });

  router.openapi(routes.create, async (c) => {
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    const { name, ...input } = c.req.valid('json');
    const prepared = prepareEventType(input);
    const created = await deps.transact(c.get('context'), (unit) => createEventType(unit, tenant, name, prepared));
    await deps.eventTypes.changed();
    return ok(c, created, { status: 201 });
  });

  router.openapi(routes.get, async (c) => {
    const { tenant, version } = c.req.valid('query');
    const em = deps.database.em.fork();
    return ok(c, await getEventType(em, tenantOf(c, tenant), c.req.valid('param').name, version));
  });

  router.openapi(routes.update, async (c) => {
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    const { name } = c.req.valid('param');
    const { name: given = name, ...input } = c.req.valid('json');
    if (given !== name) refuse('VALIDATION_ERROR', 'name differs from the one in the path', { field: 'name' });
    const prepared = prepareEventType(input);
    const updated = await deps.transact(c.get('context'), (unit) => updateEventType(unit, tenant, name, prepared));
    await deps.eventTypes.changed();
    return ok(c, updated);
  });

  return router;
}
