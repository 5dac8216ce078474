import { createRoute, z } from '@hono/zod-openapi';
import { uuid } from '../../domain/ids.ts';
import { endSessionsOf, forceReset, restoreUser, unlockUser } from '../../domain/users/intervention.ts';
import { resetSecondFactor } from '../../domain/users/second-factor.ts';
import type { AuthDeps } from '../deps.ts';
import { forRoles, sessionOf } from '../middleware/authenticate.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, success } from '../schemas.ts';
import { oneTimeCode, presentedPassword } from './credentials.ts';
import { USER_EXAMPLE, userSchema } from './users.ts';

const tags = ['Administration'];
const security = [{ bearerAuth: [] }];
const request = { params: z.object({ id: uuid }) };
const revoked = success(z.object({ revoked: z.int() }), { example: { revoked: 3 } });
const user = success(userSchema, { example: USER_EXAMPLE });

const unlockAt = <const Base extends '/users' | '/admin/users'>(base: Base) =>
  createRoute({
    method: 'post',
    path: `${base}/{id}/unlock`,
    operationId: base === '/users' ? 'unlockUser' : 'unlockUserAsAdmin',
    tags,
    summary: 'Lift the sign-in lock of an account',
    security,
    middleware: forRoles('admin'),
    request,
    responses: { 200: user, ...errorResponses(400, 401, 403, 404, 429, 503) },
  });

const routes = {
  forceReset: createRoute({
    method: 'post',
    path: '/admin/users/{id}/force-reset',
    operationId: 'forceReset',
    tags,
    summary: 'Make the owner choose a new password',
    description: 'The password stops working, every session ends, and a link to choose another one is mailed.',
    security,
    middleware: forRoles('admin'),
    request,
    responses: { 200: revoked, ...errorResponses(400, 401, 403, 404, 409, 429, 503) },
  }),
  endSessions: createRoute({
    method: 'delete',
    path: '/admin/users/{id}/sessions',
    operationId: 'endSessionsOfUser',
    tags,
    summary: 'End every session of an account',
    security,
    middleware: forRoles('admin'),
    request,
    responses: { 200: revoked, ...errorResponses(400, 401, 403, 404, 429, 503) },
  }),
  resetSecondFactor: createRoute({
    method: 'post',
    path: '/admin/users/{id}/mfa/disable',
    operationId: 'resetSecondFactor',
    tags,
    summary: 'Turn the second factor of an account off',
    description:
      'For whoever lost the authenticator and the recovery codes. Takes your own password and, when your second factor is on, a code of yours. Every session of the account ends, its owner is mailed, the password stays. Your own is turned off at `/auth/mfa/disable`.',
    security,
    middleware: forRoles('admin'),
    request: {
      ...request,
      body: jsonBody(z.strictObject({ password: presentedPassword, code: oneTimeCode.optional() }), {
        password: 'correct horse battery staple',
        code: '492039',
      }),
    },
    responses: { 200: revoked, ...errorResponses(400, 401, 403, 404, 409, 413, 415, 429, 503) },
  }),
  restore: createRoute({
    method: 'post',
    path: '/admin/users/{id}/restore',
    operationId: 'restoreUser',
    tags,
    summary: 'Bring a deleted account back',
    description: 'Until it is erased. 409 when another account has its address by now, or it is not deleted.',
    security,
    middleware: forRoles('admin'),
    request,
    responses: { 200: user, ...errorResponses(400, 401, 403, 404, 409, 429, 503) },
  }),
};

/** What administrators do to an account beyond changing it. Mounted by `adminUserRoutes`. */
export function adminActionRoutes(
  deps: Pick<AuthDeps, 'database' | 'transact' | 'config' | 'keyring' | 'identity'>,
): ApiRouter {
  const router = createRouter();
  const { transact, keyring, config } = deps;

  for (const route of [unlockAt('/users'), unlockAt('/admin/users')]) {
    router.openapi(route, async (c) => {
      const { id } = c.req.valid('param');
      return ok(c, await transact(c.get('context'), (unit) => unlockUser(unit, keyring, id)));
    });
  }

  router.openapi(routes.forceReset, async (c) => {
    const { id } = c.req.valid('param');
    return ok(c, await transact(c.get('context'), (unit) => forceReset(unit, deps, id)));
  });

  router.openapi(routes.resetSecondFactor, async (c) => {
    const { id } = c.req.valid('param');
    const hands = { em: deps.database.em.fork(), transact, keyring, passwords: deps.identity.passwords };
    const input = { adminId: sessionOf(c).userId, userId: id, ...c.req.valid('json') };
    return ok(c, await resetSecondFactor(hands, c.get('context'), input));
  });

  router.openapi(routes.endSessions, async (c) => {
    const { id } = c.req.valid('param');
    return ok(c, await transact(c.get('context'), (unit) => endSessionsOf(unit, id)));
  });

  router.openapi(routes.restore, async (c) => {
    const { id } = c.req.valid('param');
    return ok(c, await transact(c.get('context'), (unit) => restoreUser(unit, id, config.erasureGraceDays)));
  });

  return router;
}
