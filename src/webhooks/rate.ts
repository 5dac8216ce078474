import type { Redis } from 'ioredis';
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { currentTime } from '../services/clock.ts';
import { pause } from '../services/service.ts';
import { type Hold, Queue } from './holds.ts';

/** What a delivery may wait in memory for its endpoint's rate limit, in ms; beyond, it is put off as a row. */
const WAIT_MS = 200;
/** How far ahead times are given out: a backlog beyond it takes its chance in between. */
const QUEUE_MS = 3_600_000;
/** Limiters that are kept, one per rate. */
const MAX_LIMITERS = 1000;

/**
 * Requests per second of one endpoint over all processes: fixed windows of a second in Redis under
 * `<namespace>:webhooks:rate:<endpoint>`. While Redis is away each process counts for itself, in memory.
 */
export class EndpointRates {
  readonly #redis: Redis;
  readonly #prefix: string;
  readonly #limiters = new Map<number, RateLimiterRedis>();
  readonly #queues = new Map<string, Queue>();

  constructor(redis: Redis, namespace: string) {
    this.#redis = redis;
    this.#prefix = `${namespace}:webhooks:rate`;
  }

  /** Set when others of this endpoint wait for their turn already: whoever comes now queues behind them, unasked. */
  queued(endpointId: string, perSecond: number): Hold | undefined {
    const queue = this.#queues.get(endpointId);
    if (queue === undefined) return undefined;
    if (queue.end > currentTime() + WAIT_MS) return this.#putOff(endpointId, perSecond, 0);
    this.#queues.delete(endpointId);
    return undefined;
  }

  /** Takes one request of the endpoint's rate, waiting up to 200 ms for it; else says when to come again. */
  async take(endpointId: string, perSecond: number): Promise<Hold | undefined> {
    const end = currentTime() + WAIT_MS;
    for (;;) {
      const wait = await this.#consume(endpointId, perSecond);
      if (wait === 0) return undefined;
      if (currentTime() + wait > end) return this.#putOff(endpointId, perSecond, wait);
      await pause(wait);
    }
  }

  /** 0 when it was granted, else the time until the next window, in ms. */
  async #consume(endpointId: string, perSecond: number): Promise<number> {
    try {
      await this.#limiter(perSecond).consume(endpointId);
      return 0;
    } catch (error) {
      // The library rejects with the count when the limit is reached; anything else is a fault of both stores.
      if (error instanceof RateLimiterRes) return Math.max(1, error.msBeforeNext);
      throw error;
    }
  }

  #putOff(endpointId: string, perSecond: number, wait: number): Hold {
    let queue = this.#queues.get(endpointId);
    if (queue === undefined) {
      queue = new Queue(QUEUE_MS);
      this.#queues.set(endpointId, queue);
    }
    return { until: queue.next(currentTime() + Math.max(wait, 250), 1000 / perSecond), reason: 'rate limited' };
  }

  #limiter(perSecond: number): RateLimiterRedis {
    const known = this.#limiters.get(perSecond);
    if (known) return known;
    if (this.#limiters.size >= MAX_LIMITERS) this.#limiters.clear();
    const settings = { keyPrefix: this.#prefix, points: perSecond, duration: 1 };
    const limiter = new RateLimiterRedis({
      ...settings,
      storeClient: this.#redis,
      rejectIfRedisNotReady: true,
      insuranceLimiter: new RateLimiterMemory(settings),
    });
    this.#limiters.set(perSecond, limiter);
    return limiter;
  }
}
