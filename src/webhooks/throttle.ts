import { type Hold, Queue } from './holds.ts';

/*
 * Endpoints that asked for less: 429, 502, 503 or 504.
 *
 *   free ──throttled answer──► paused ──its time is over──► on trial ──throttled answer──► paused, twice as long
 *                                                              └──any other answer──► free
 *
 * The pause is the endpoint's and this process's; another process learns it from its own first answer. Answers to
 * requests that began before the pause's end say nothing new: they lengthen it only when they name a later time.
 */

/** Bounds of what a `Retry-After` can pause an endpoint for, in ms. */
const MIN_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 300_000;
/** Without a `Retry-After`: from 2 s, doubling while throttled answers go on, to 60 s. */
const FIRST_BACKOFF_MS = 2000;
const MAX_BACKOFF_MS = 60_000;

interface Pause {
  until: number;
  backoffMs: number;
  queue: Queue;
}

export class Throttles {
  readonly #pauses = new Map<string, Pause>();

  /** A throttled answer to a request that began at `startedAt`; `askedMs` is what its `Retry-After` says. */
  throttled(endpointId: string, startedAt: number, askedMs: number | null, now: number = Date.now()): void {
    const asked = askedMs === null ? null : Math.min(Math.max(askedMs, MIN_PAUSE_MS), MAX_PAUSE_MS);
    const pause = this.#pauses.get(endpointId);
    if (pause && startedAt < pause.until) {
      if (asked !== null) pause.until = Math.max(pause.until, now + asked);
      return;
    }
    const backoffMs = pause ? Math.min(2 * pause.backoffMs, MAX_BACKOFF_MS) : FIRST_BACKOFF_MS;
    this.#pauses.set(endpointId, {
      until: now + (asked ?? backoffMs),
      backoffMs,
      queue: pause?.queue ?? new Queue(),
    });
  }

  /** Any other answer to a request that began at `startedAt`. */
  answered(endpointId: string, startedAt: number): void {
    if (this.#pauses.size === 0) return;
    const pause = this.#pauses.get(endpointId);
    if (pause && startedAt >= pause.until) this.#pauses.delete(endpointId);
  }

  /** Set while the endpoint is paused. `stepMs`: how far apart those come back that were put off. */
  hold(endpointId: string, stepMs: number, now: number = Date.now()): Hold | undefined {
    if (this.#pauses.size === 0) return undefined;
    const pause = this.#pauses.get(endpointId);
    if (!pause || pause.until <= now) return undefined;
    const until = pause.queue.next(pause.until, stepMs);
    return { until, reason: `endpoint throttled until ${new Date(pause.until).toISOString()}` };
  }
}
