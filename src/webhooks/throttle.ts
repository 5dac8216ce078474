import { currentTime } from '../services/clock.ts';
import { type Hold, Queue } from './holds.ts';

/*
 * Endpoints that asked for less: 429, 502, 503 or 504.
 *
 *   free ──throttled answer──► paused ──its time is over──► on trial ──throttled answer──► paused, twice as long
 *                                                              └──any other answer──► free
 *
 * Answers to requests that began before the pause's end say nothing new: they lengthen it only when they name a later
 * time. A pause is recorded with the answer that began it (see breakers.ts), and so told to the other processes; whether
 * the trial went well each of them learns from an answer of its own.
 */

/** Bounds of what a `Retry-After` can pause an endpoint for, in ms. */
const MIN_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 300_000;
/** Without a `Retry-After`: from 2 s, doubling while throttled answers go on, to 60 s. */
const FIRST_BACKOFF_MS = 2000;
const MAX_BACKOFF_MS = 60_000;

/** A pause that grows by less is not told to the other processes, in ms. */
const WORTH_TELLING_MS = 500;
/** Beyond so many, those of endpoints that may be tried again are forgotten. */
const MAX_PAUSES = 10_000;

/** Until when an endpoint is left alone, in ms since the epoch, and for how long that is without a `Retry-After`. */
export interface Pause {
  until: number;
  backoffMs: number;
}

interface Queued extends Pause {
  queue: Queue;
}

export class Throttles {
  readonly #pauses = new Map<string, Queued>();

  /**
   * A throttled answer to a request that began at `startedAt`; `askedMs` is what its `Retry-After` says. Returns the pause
   * when the others have to know of it.
   */
  throttled(
    endpointId: string,
    startedAt: number,
    askedMs: number | null,
    now: number = currentTime(),
  ): Pause | undefined {
    const asked = askedMs === null ? null : Math.min(Math.max(askedMs, MIN_PAUSE_MS), MAX_PAUSE_MS);
    const pause = this.#pauses.get(endpointId);
    if (pause && startedAt < pause.until) {
      const before = pause.until;
      if (asked !== null) pause.until = Math.max(before, now + asked);
      return pause.until - before < WORTH_TELLING_MS ? undefined : { until: pause.until, backoffMs: pause.backoffMs };
    }
    const backoffMs = pause ? Math.min(2 * pause.backoffMs, MAX_BACKOFF_MS) : FIRST_BACKOFF_MS;
    const until = now + (asked ?? backoffMs);
    this.#set(endpointId, { until, backoffMs }, now);
    return { until, backoffMs };
  }

  /** Pauses that are recorded; what is known to last longer stays. */
  learn(pauses: readonly (Pause & { endpointId: string })[], now: number = currentTime()): void {
    for (const { endpointId, ...pause } of pauses) {
      const known = this.#pauses.get(endpointId);
      if (!known || known.until < pause.until) this.#set(endpointId, pause, now);
    }
  }

  #set(endpointId: string, pause: Pause, now: number): void {
    const queue = this.#pauses.get(endpointId)?.queue ?? new Queue();
    this.#pauses.set(endpointId, { ...pause, queue });
    if (this.#pauses.size <= MAX_PAUSES) return;
    for (const [id, { until }] of this.#pauses) if (until < now) this.#pauses.delete(id);
  }

  /** Any other answer to a request that began at `startedAt`. */
  answered(endpointId: string, startedAt: number): void {
    if (this.#pauses.size === 0) return;
    const pause = this.#pauses.get(endpointId);
    if (pause && startedAt >= pause.until) this.#pauses.delete(endpointId);
  }

  /** Set while the endpoint is paused. `stepMs`: how far apart those come back that were put off. */
  hold(endpointId: string, stepMs: number, now: number = currentTime()): Hold | undefined {
    if (this.#pauses.size === 0) return undefined;
    const pause = this.#pauses.get(endpointId);
    if (!pause || pause.until <= now) return undefined;
    const until = pause.queue.next(pause.until, stepMs);
    return { until, reason: `endpoint throttled until ${new Date(pause.until).toISOString()}` };
  }
}
