import type { Hono, MiddlewareHandler } from 'hono';
import { matchedRoutes } from 'hono/route';
import { problemResponse } from '../respond.ts';
import type { ApiEnv } from '../router.ts';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'];

/**
 * Answers what no route takes before anything else looks at it: 404 for an unknown path, 405 with `Allow` for a known
 * one (RFC 9110, section 15.5.6), 204 with `Allow` for OPTIONS.
 */
export function routing(app: Hono<ApiEnv>): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    if (matchedRoutes(c).some((route) => route.method !== 'ALL')) return next();
    const allowed = METHODS.filter((method) =>
      app.router.match(method, c.req.path)[0].some(([[, route]]) => route.method === method),
    );
    if (allowed.length === 0)
      return problemResponse(c, { code: 'NOT_FOUND', message: 'there is nothing at this address' });
    const allow = [...allowed, ...(allowed.includes('GET') ? ['HEAD'] : []), 'OPTIONS'].join(', ');
    if (c.req.method === 'OPTIONS') return c.body(null, 204, { Allow: allow });
    return problemResponse(
      c,
      { code: 'METHOD_NOT_ALLOWED', message: `${c.req.method} is not possible here; ${allow} are` },
      { Allow: allow },
    );
  };
}
