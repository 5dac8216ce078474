/** Why a delivery is not sent now, and when it may come again (ms since the epoch). It uses up no attempt. */
export interface Hold {
  until: number;
  reason: string;
}

/** The reason of what is parked until its endpoint has room; an index finds these rows by it. */
export const BUSY = 'endpoint busy';

/** Nothing is put off for longer than this by its place in a queue, unless the queue says so. */
export const MAX_PUT_OFF_MS = 300_000;

/**
 * Hands out times one after another, so that what was put off together does not come back together. What would come
 * later than `maxMs` comes somewhere in the second half of that time and takes its chance.
 */
export class Queue {
  readonly #maxMs: number;
  #next = 0;

  constructor(maxMs: number = MAX_PUT_OFF_MS) {
    this.#maxMs = maxMs;
  }

  /** The first time that nobody has been given, in ms since the epoch. */
  get end(): number {
    return this.#next;
  }

  /** The next time: not before `earliest`, and `stepMs` after the one before. */
  next(earliest: number, stepMs: number): number {
    const at = Math.max(this.#next, earliest);
    if (at - earliest > this.#maxMs) return earliest + this.#maxMs * (0.5 + Math.random() / 2);
    this.#next = at + stepMs;
    return at;
  }
}
