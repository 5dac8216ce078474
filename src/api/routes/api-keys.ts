import { createRoute, z } from '@hono/zod-openapi';
import { API_KEY_SORTS, createApiKey, getApiKey, listApiKeys, revokeApiKey } from '../../domain/api-keys/api-keys.ts';
import { SCOPES } from '../../domain/api-keys/scopes.ts';
import { uuid } from '../../domain/ids.ts';
import { refuse } from '../../domain/problem.ts';
import { withCode } from '../../domain/users/reauthentication.ts';
import type { ApiDeps } from '../deps.ts';
import { forRoles, sessionOf } from '../middleware/authenticate.ts';
import { moment } from '../moment.ts';
import { ok, pagination } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, pageQuery, success, text, timestamp } from '../schemas.ts';
import { DEFAULT_TENANT, tenant, tenantQuery } from '../tenant.ts';
import { oneTimeCode } from './credentials.ts';

export interface ApiKeyDeps extends Pick<ApiDeps, 'database' | 'transact' | 'keyring'> {
  apiKeys: {
    /** Resolves when a change of keys is in force in every process. */
    changed(): Promise<void>;
  };
}

const keySchema = z
  .object({
    id: uuid,
    name: z.string(),
    tenant: z.string(),
    scopes: z.array(z.enum(SCOPES)),
    prefix: z.string().openapi({ description: 'How the key begins, to tell keys apart.' }),
    expires_at: timestamp.nullable(),
    last_used_at: timestamp.nullable().openapi({ description: 'To the minute.' }),
    created_at: timestamp,
  })
  .openapi('ApiKey');

const newKeySchema = keySchema
  .extend({ key: z.string().openapi({ description: 'Sent as `Authorization: Bearer …`. Shown this once.' }) })
  .openapi('NewApiKey');

const keyInput = z
  .strictObject({
    name: text({ max: 100 }),
    scopes: z.array(z.enum(SCOPES)).min(1).max(SCOPES.length),
    tenant: tenant.optional().openapi({ description: 'Whose events, endpoints and types it may touch.' }),
    expires_at: moment.optional(),
    code: oneTimeCode.optional(),
  })
  .openapi('ApiKeyInput');

const EXAMPLE = {
  id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  name: 'Billing',
  tenant: 'default',
  scopes: ['events:write'],
  prefix: 'wb_k3Xp9a',
  expires_at: null,
  last_used_at: '2026-11-20T10:15:30.000Z',
  created_at: '2026-11-20T10:00:00.000Z',
};
const NEW_EXAMPLE = {
  ...EXAMPLE,
  last_used_at: null,
  key: 'wb_k3Xp9a_0000000000000000000000000000000000000000000000000',
};

const shared = { tags: ['Administration'], security: [{ bearerAuth: [] }], middleware: forRoles('admin') };
const byId = { params: z.object({ id: uuid }), query: tenantQuery };

const routes = {
  create: createRoute({
    ...shared,
    method: 'post',
    path: '/api-keys',
    operationId: 'createApiKey',
    summary: 'Make a key for a machine client',
    description:
      'The key is shown in this answer and never again. It may do what its scopes say, with what belongs to its tenant, until it expires or is revoked. When your second factor is on, `code` is required.',
    request: { query: tenantQuery, body: jsonBody(keyInput, { name: 'Billing', scopes: ['events:write'] }) },
    responses: {
      201: success(newKeySchema, { description: 'Created.', example: NEW_EXAMPLE }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
  list: createRoute({
    ...shared,
    method: 'get',
    path: '/api-keys',
    operationId: 'listApiKeys',
    summary: 'API keys',
    description: 'Of all tenants, or of the one that is named; without those that were revoked.',
    request: { query: pageQuery(API_KEY_SORTS).extend({ tenant: tenant.optional() }) },
    responses: {
      200: success(z.array(keySchema), { pagination: 'page', example: [EXAMPLE] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  get: createRoute({
    ...shared,
    method: 'get',
    path: '/api-keys/{id}',
    operationId: 'getApiKey',
    summary: 'One API key',
    request: byId,
    responses: { 200: success(keySchema, { example: EXAMPLE }), ...errorResponses(400, 401, 403, 404, 429, 503) },
  }),
  revoke: createRoute({
    ...shared,
    method: 'delete',
    path: '/api-keys/{id}',
    operationId: 'revokeApiKey',
    summary: 'Revoke an API key',
    description: 'When this is answered the key works nowhere any more.',
    request: byId,
    responses: {
      200: success(z.object({ id: uuid, revoked_at: timestamp }), {
        description: 'Revoked.',
        example: { id: EXAMPLE.id, revoked_at: EXAMPLE.last_used_at },
      }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
};

/** Credentials of machine clients: `/api-keys`, for admins. */
export function apiKeyRoutes(deps: ApiKeyDeps): ApiRouter {
  const router = createRouter();

  router.openapi(routes.create, async (c) => {
    const { name, scopes, expires_at, code, ...body } = c.req.valid('json');
    const named = c.req.valid('query').tenant;
    if (body.tenant !== undefined && named !== undefined && body.tenant !== named)
      refuse('VALIDATION_ERROR', 'tenant differs from the one in the query', { field: 'tenant' });
    const input = { name, scopes, expiresAt: expires_at, tenant: body.tenant ?? named ?? DEFAULT_TENANT };
    const proof = { userId: sessionOf(c).userId, code, action: 'api_key.create' };
    const created = await withCode(deps, c.get('context'), proof, (unit) => createApiKey(unit, input));
    await deps.apiKeys.changed();
    return ok(c, created, { status: 201 });
  });

  router.openapi(routes.list, async (c) => {
    const { sort = 'created_at', ...rest } = c.req.valid('query');
    const query = { ...rest, sort };
    const { keys, total } = await listApiKeys(deps.database.em.fork(), query);
    return ok(c, keys, { pagination: pagination(query, total) });
  });

  router.openapi(routes.get, async (c) =>
    ok(c, await getApiKey(deps.database.em.fork(), c.req.valid('param').id, c.req.valid('query').tenant)),
  );

  router.openapi(routes.revoke, async (c) => {
    const input = { ...c.req.valid('param'), ...c.req.valid('query') };
    const revoked = await deps.transact(c.get('context'), (unit) => revokeApiKey(unit, input));
    await deps.apiKeys.changed();
    return ok(c, revoked);
  });

  return router;
}
