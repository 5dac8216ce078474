import { createRoute, z } from '@hono/zod-openapi';
import { uuid } from '../../domain/ids.ts';
import { refuse } from '../../domain/problem.ts';
import { listSessions, revokeSessions, SESSION_SORTS } from '../../domain/sessions/sessions.ts';
import type { ApiDeps } from '../deps.ts';
import { admitEnrolment, forUsers, sessionOf } from '../middleware/authenticate.ts';
import { ok, pagination } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, pageQuery, success, timestamp } from '../schemas.ts';

const AT = '2026-11-20T10:15:30.000Z';

const sessionSchema = z
  .object({
    id: uuid,
    current: z.boolean().openapi({ description: 'Whether it is the one that asks.' }),
    ip: z.string().nullable(),
    user_agent: z.string().nullable(),
    created_at: timestamp,
    last_seen_at: timestamp,
    expires_at: timestamp,
  })
  .openapi('Session');
const SESSION = {
  id: '019a9f3e-7100-7d44-9c55-6a7b8c9d0e1f',
  current: true,
  ip: '203.0.113.7',
  user_agent: 'Mozilla/5.0',
  created_at: AT,
  last_seen_at: AT,
  expires_at: '2026-12-20T10:15:30.000Z',
};

const tags = ['Accounts'];
const security = [{ bearerAuth: [] }];

const routes = {
  logout: createRoute({
    method: 'post',
    path: '/auth/logout',
    operationId: 'logout',
    tags,
    summary: 'End this session',
    security,
    middleware: [admitEnrolment(), ...forUsers()],
    responses: {
      200: success(z.object({ session_id: uuid }), { example: { session_id: SESSION.id } }),
      ...errorResponses(401, 429, 503),
    },
  }),
  listSessions: createRoute({
    method: 'get',
    path: '/auth/sessions',
    operationId: 'listSessions',
    tags,
    summary: 'Your open sessions',
    security,
    middleware: forUsers(),
    request: { query: pageQuery(SESSION_SORTS) },
    responses: {
      200: success(z.array(sessionSchema), { pagination: 'page', example: [SESSION] }),
      ...errorResponses(400, 401, 429, 503),
    },
  }),
  endSession: createRoute({
    method: 'delete',
    path: '/auth/sessions/{id}',
    operationId: 'endSession',
    tags,
    summary: 'End one of your sessions',
    security,
    middleware: forUsers(),
    request: { params: z.object({ id: uuid }) },
    responses: {
      200: success(z.object({ session_id: uuid }), { example: { session_id: SESSION.id } }),
      ...errorResponses(400, 401, 404, 429, 503),
    },
  }),
  endSessions: createRoute({
    method: 'delete',
    path: '/auth/sessions',
    operationId: 'endSessions',
    tags,
    summary: 'End all your sessions, this one included',
    security,
    middleware: forUsers(),
    responses: {
      200: success(z.object({ revoked: z.int() }), { example: { revoked: 3 } }),
      ...errorResponses(401, 429, 503),
    },
  }),
};

/** Your open sessions: `/auth/logout` and `/auth/sessions`. Mounted by `authRoutes`. */
export function sessionRoutes(deps: Pick<ApiDeps, 'database' | 'transact'>): ApiRouter {
  const router = createRouter();
  const { transact } = deps;

  router.openapi(routes.logout, async (c) => {
    const { userId, sessionId } = sessionOf(c);
    await transact(c.get('context'), (unit) => revokeSessions(unit, userId, 'logout', { only: sessionId }));
    return ok(c, { session_id: sessionId });
  });

  router.openapi(routes.listSessions, async (c) => {
    const { page, limit, sort = 'created_at', order } = c.req.valid('query');
    const query = { page, limit, sort, order };
    const { sessions, total } = await listSessions(deps.database.em.fork(), sessionOf(c), query);
    return ok(c, sessions, { pagination: pagination(query, total) });
  });

  router.openapi(routes.endSession, async (c) => {
    const { id } = c.req.valid('param');
    const { userId } = sessionOf(c);
    await transact(c.get('context'), async (unit) => {
      const ended = await revokeSessions(unit, userId, 'revoked', { only: id });
      if (ended.length === 0) refuse('NOT_FOUND', 'you have no such open session');
    });
    return ok(c, { session_id: id });
  });

  router.openapi(routes.endSessions, async (c) => {
    const { userId } = sessionOf(c);
    const ended = await transact(c.get('context'), (unit) => revokeSessions(unit, userId, 'revoked'));
    return ok(c, { revoked: ended.length });
  });

  return router;
}
