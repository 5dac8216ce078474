import type { MiddlewareHandler } from 'hono';
import type { ApiEnv } from '../router.ts';

const READS = ['GET', 'HEAD', 'OPTIONS'];
/** Called often, and they end no session. */
const HARMLESS = /\/auth\/(?:login|register)$|\/kyc$/;

/**
 * Tells all processes, before the answer goes out, that sessions may have ended: whoever was told "signed out" finds
 * the token refused with the very next request. A notice too many costs each process one look at a revision.
 */
export function announceSessions(announce: () => Promise<unknown>): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    await next();
    if (!READS.includes(c.req.method) && !HARMLESS.test(c.req.path)) await announce();
  };
}
