import type { MiddlewareHandler } from 'hono';
import type { Redis } from 'ioredis';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { RATE_LIMIT_GROUPS, type RateLimitGroup, type RateLimits } from '../../config.ts';
import { Refusal } from '../../domain/problem.ts';
import type { Logger } from '../../services/logger.ts';
import { withDeadline } from '../../services/service.ts';
import type { ApiContext, ApiEnv } from '../router.ts';
import { limitKey } from './client-address.ts';

/** What a request may wait for Redis. */
const REDIS_DEADLINE_MS = 100;
/** How long limits are kept in memory after Redis did not answer in time, so that not every request waits for it. */
const REDIS_PAUSE_MS = 1000;

export interface RateLimitState {
  allowed: boolean;
  limit: number;
  remaining: number;
  /** Until the window ends. */
  resetMs: number;
}

/**
 * Fixed windows counted in Redis under `<namespace>:ratelimit:<group>:<who>`, so that all API processes share them.
 *
 * Two states. *Shared*: Redis counts. *Own*: Redis failed or was too slow less than a second ago, and this process
 * counts in memory. A failure leads from shared to own; the second's end leads back.
 */
export class RateLimiter {
  readonly #shared: Record<RateLimitGroup, RateLimiterRedis>;
  readonly #own: Record<RateLimitGroup, RateLimiterMemory>;
  readonly #limits: RateLimits;
  readonly #log: Logger;
  #ownUntil = 0;

  constructor(options: { redis: Redis; namespace: string; limits: RateLimits; log: Logger }) {
    this.#limits = options.limits;
    this.#log = options.log;
    const each = <T>(make: (settings: { keyPrefix: string; points: number; duration: number }) => T) =>
      Object.fromEntries(
        RATE_LIMIT_GROUPS.map((group) => [
          group,
          make({ keyPrefix: `${options.namespace}:ratelimit:${group}`, ...options.limits[group] }),
        ]),
      ) as Record<RateLimitGroup, T>;
    this.#shared = each(
      (settings) => new RateLimiterRedis({ ...settings, storeClient: options.redis, rejectIfRedisNotReady: true }),
    );
    this.#own = each((settings) => new RateLimiterMemory(settings));
  }

  /** Counts one request of `who`; never rejects and never waits longer than 100 ms. */
  async take(group: RateLimitGroup, who: string): Promise<RateLimitState> {
    if (Date.now() >= this.#ownUntil) {
      try {
        return this.#state(
          group,
          await settled(withDeadline(this.#shared[group].consume(who), REDIS_DEADLINE_MS, 'the rate limit')),
        );
      } catch (error) {
        this.#ownUntil = Date.now() + REDIS_PAUSE_MS;
        this.#log.debug({ error: String(error) }, 'rate limits are kept in memory for the moment');
      }
    }
    return this.#state(group, await settled(this.#own[group].consume(who)));
  }

  #state(group: RateLimitGroup, { allowed, counted }: { allowed: boolean; counted: RateLimiterRes }): RateLimitState {
    return {
      allowed,
      limit: this.#limits[group].points,
      remaining: Math.max(0, counted.remainingPoints),
      resetMs: Math.max(0, counted.msBeforeNext),
    };
  }
}

/** The library rejects with the count when the limit is reached; that is an answer, anything else a fault. */
async function settled(count: Promise<RateLimiterRes>): Promise<{ allowed: boolean; counted: RateLimiterRes }> {
  try {
    return { allowed: true, counted: await count };
  } catch (error) {
    if (error instanceof RateLimiterRes) return { allowed: false, counted: error };
    throw error;
  }
}

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
