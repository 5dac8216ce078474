import type { Redis } from 'ioredis';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { RATE_LIMIT_GROUPS, type RateLimitGroup, type RateLimits } from '../config.ts';
import type { Logger } from '../services/logger.ts';
import { withDeadline } from '../services/service.ts';

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
