import { createRoute, z } from '@hono/zod-openapi';
import { uuid } from '../../domain/ids.ts';
import { refuse } from '../../domain/problem.ts';
import { createUser, listUsers, USER_SORTS } from '../../domain/users/administration.ts';
import { KYC_STATUSES, ROLES } from '../../domain/users/entities.ts';
import { deleteUser, updateUser } from '../../domain/users/profile.ts';
import { adminUserResource, findUser, userResource } from '../../domain/users/user.ts';
import type { AuthDeps } from '../deps.ts';
import { matchingVersions, okTagged } from '../entity-tag.ts';
import { forRoles, forScope, forUsers, forUsersOr, sessionOf } from '../middleware/authenticate.ts';
import { moment } from '../moment.ts';
import { ok, pagination } from '../respond.ts';
import { type ApiContext, type ApiRouter, createRouter } from '../router.ts';
import { email, errorResponses, jsonBody, pageQuery, queryFlag, success, text, timestamp } from '../schemas.ts';
import { adminActionRoutes } from './admin-actions.ts';
import {
  atLeastOne,
  DELETED_EXAMPLE,
  deletedSchema,
  fullName,
  profileFields,
  USER_EXAMPLE,
  userSchema,
} from './users.ts';

const tags = ['Administration'];
const security = [{ bearerAuth: [] }];
const params = z.object({ id: uuid });

/** The same five routes under both addresses; `/users/{id}` also serves the user whose id it is. */
const routesAt = <const Base extends '/users' | '/admin/users'>(base: Base) => {
  const suffix = base === '/users' ? '' : 'AsAdmin';
  const open = base === '/users';
  const anyone = open ? forUsers : () => forRoles('admin');
  return {
    list: createRoute({
      method: 'get',
      path: base,
      operationId: `listUsers${suffix}`,
      tags,
      summary: 'Accounts',
      security,
      middleware: open ? forScope('users:read') : forRoles('admin'),
      request: {
        query: pageQuery(USER_SORTS).extend({
          is_active: queryFlag.optional(),
          is_verified: queryFlag.optional(),
          kyc_status: z.enum(KYC_STATUSES).optional(),
          role: z.enum(ROLES).optional(),
          created_after: timestamp.optional(),
          created_before: timestamp.optional(),
          search: text({ max: 200 }).optional().openapi({ description: 'Part of the address or the name.' }),
        }),
      },
      responses: {
        200: success(z.array(userSchema), { pagination: 'page', example: [USER_EXAMPLE] }),
        ...errorResponses(400, 401, 403, 429, 503),
      },
    }),
    create: createRoute({
      method: 'post',
      path: base,
      operationId: `createUser${suffix}`,
      tags,
      summary: 'Create an account for somebody',
      description: 'Mails a link to choose a password; using it verifies the address.',
      security,
      middleware: forRoles('admin'),
      request: {
        body: jsonBody(z.strictObject({ email, full_name: fullName, role: z.enum(ROLES).default('user') }), {
          email: 'ada@example.com',
          full_name: 'Ada Lovelace',
          role: 'user',
        }),
      },
      responses: {
        201: success(userSchema, { example: { ...USER_EXAMPLE, is_verified: false } }),
        ...errorResponses(400, 401, 403, 409, 413, 415, 429, 503),
      },
    }),
    get: createRoute({
      method: 'get',
      path: `${base}/{id}`,
      operationId: `getUser${suffix}`,
      tags,
      summary: 'An account',
      security,
      middleware: open ? forUsersOr('users:read') : forRoles('admin'),
      request: { params },
      responses: {
        200: success(userSchema, { example: USER_EXAMPLE }),
        ...errorResponses(400, 401, 403, 404, 429, 503),
      },
    }),
    update: createRoute({
      method: 'put',
      path: `${base}/{id}`,
      operationId: `updateUser${suffix}`,
      tags,
      summary: 'Change an account',
      description:
        'Fields that are left out stay as they are. `is_active: false` ends every session. Only administrators change `role` and `is_active`; the last one of them stays. `disabled_reason` and `disabled_until` go with `is_active: false`; at that time the account comes back by itself.',
      security,
      middleware: anyone(),
      request: {
        params,
        body: jsonBody(
          z.strictObject({
            ...profileFields,
            role: z.enum(ROLES).optional(),
            is_active: z.boolean().optional(),
            disabled_reason: text({ max: 500 }).nullable().optional(),
            disabled_until: moment.nullable().optional(),
          }),
          { role: 'operator' },
        ),
      },
      responses: {
        200: success(userSchema, { example: { ...USER_EXAMPLE, role: 'operator' } }),
        ...errorResponses(400, 401, 403, 404, 409, 412, 413, 415, 429, 503),
      },
    }),
    remove: createRoute({
      method: 'delete',
      path: `${base}/{id}`,
      operationId: `deleteUser${suffix}`,
      tags,
      summary: 'Delete an account',
      description: 'Every session ends now and the address is free at once.',
      security,
      middleware: anyone(),
      request: { params },
      responses: {
        200: success(deletedSchema, { example: DELETED_EXAMPLE }),
        ...errorResponses(400, 401, 403, 404, 409, 429, 503),
      },
    }),
  };
};

const notFound = (): never => refuse('NOT_FOUND', 'there is no such user');

/** An administrator also sees why and until when an account is disabled. */
const resourceFor = (c: ApiContext) => (c.get('session')?.role === 'admin' ? adminUserResource : userResource);

const ADMIN_FIELDS = ['role', 'is_active', 'disabled_reason', 'disabled_until'] as const;

/** Refuses why and until when of an account that is not being disabled, and a time that has passed. */
function checkDisabling(change: {
  is_active?: boolean | undefined;
  disabled_reason?: string | null | undefined;
  disabled_until?: string | null | undefined;
}): void {
  for (const field of ['disabled_reason', 'disabled_until'] as const) {
    if (change[field] !== undefined && change.is_active !== false)
      refuse('VALIDATION_ERROR', `${field} goes with is_active: false`, { field });
  }
  if (change.disabled_until && Date.parse(change.disabled_until) <= Date.now())
    refuse('VALIDATION_ERROR', 'disabled_until must be in the future', { field: 'disabled_until' });
}

/** 403 for another's account unless an admin asks, whether or not there is such an account. */
function ownOrAdmin(c: ApiContext, id: string): void {
  const session = sessionOf(c);
  if (session.role !== 'admin' && session.userId !== id.toLowerCase()) refuse('FORBIDDEN', 'this needs the role admin');
}

/** `/users`, `/users/{id}` and the same under `/admin/users`. Mount it after `userRoutes`. */
export function adminUserRoutes(
  deps: Pick<AuthDeps, 'database' | 'transact' | 'config' | 'keyring' | 'identity'>,
): ApiRouter {
  const router = createRouter();
  for (const routes of [routesAt('/users'), routesAt('/admin/users')]) {
    router.openapi(routes.list, async (c) => {
      const { sort = 'created_at', ...rest } = c.req.valid('query');
      const query = { ...rest, sort };
      const { users, total } = await listUsers(deps.database.em.fork(), query);
      return ok(c, users, { pagination: pagination(query, total) });
    });

    router.openapi(routes.create, async (c) => {
      const { email, full_name, role } = c.req.valid('json');
      const input = { email, fullName: full_name, role };
      const user = await deps.transact(c.get('context'), (unit) => createUser(unit, deps, input));
      return ok(c, user, { status: 201 });
    });

    router.openapi(routes.get, async (c) => {
      const { id } = c.req.valid('param');
      if (!c.get('client')) ownOrAdmin(c, id);
      const user = (await findUser(deps.database.em.fork(), id)) ?? notFound();
      return okTagged(c, resourceFor(c)(user), user);
    });

    router.openapi(routes.update, async (c) => {
      const { id } = c.req.valid('param');
      const change = c.req.valid('json');
      ownOrAdmin(c, id);
      atLeastOne(change);
      if (sessionOf(c).role !== 'admin') {
        const field = ADMIN_FIELDS.find((name) => change[name] !== undefined);
        if (field) refuse('FORBIDDEN', `only an administrator can change ${field}`, { field });
      }
      checkDisabling(change);
      const versions = matchingVersions(c, id);
      const user = await deps.transact(c.get('context'), (unit) => updateUser(unit, id, change, { versions }));
      return okTagged(c, resourceFor(c)(user), user);
    });

    router.openapi(routes.remove, async (c) => {
      const { id } = c.req.valid('param');
      ownOrAdmin(c, id);
      return ok(c, await deps.transact(c.get('context'), (unit) => deleteUser(unit, id)));
    });
  }
  router.route('/', adminActionRoutes(deps));
  return router;
}
