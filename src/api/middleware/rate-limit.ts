import type { MiddlewareHandler } from 'hono';
import type { RateLimitGroup } from '../../config.ts';
import { Refusal } from '../../domain/problem.ts';
import type { ApiContext, ApiEnv } from '../router.ts';
import { limitKey } from './client-address.ts';

/**
 * Counts the request in `group`: `register` and `login` by client address, `user` and `admin` by user or API key. An
 * admin's requests to routes of the group `user` count as `admin`, a key's to those of `admin` as `user`. Place it after
 * what refuses strangers.
 */
export function rateLimit(group: RateLimitGroup): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const limiter = c.get('limiter');
    if (!limiter) return next();
    const state = await limiter.take(effectiveGroup(c, group), who(c, group));
    const resetSeconds = Math.ceil(state.resetMs / 1000);
    c.header('X-RateLimit-Limit', String(state.limit));
    c.header('X-RateLimit-Remaining', String(state.remaining));
    c.header('X-RateLimit-Reset', String(Math.ceil((Date.now() + state.resetMs) / 1000)));
    if (!state.allowed)
      throw new Refusal({
        code: 'RATE_LIMIT_EXCEEDED',
        message: 'too many requests',
        retry_after: Math.max(1, resetSeconds),
      });
    return next();
  };
}

function who(c: ApiContext, group: RateLimitGroup): string {
  const own = group === 'user' || group === 'admin' ? (c.get('session')?.userId ?? c.get('client')?.keyId) : undefined;
  return own ?? limitKey(c.get('context').ip);
}

function effectiveGroup(c: ApiContext, group: RateLimitGroup): RateLimitGroup {
  if (group === 'user' && c.get('session')?.role === 'admin') return 'admin';
  return group === 'admin' && c.get('client') ? 'user' : group;
}
