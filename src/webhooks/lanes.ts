import type { Hold } from './holds.ts';

/**
 * Who may send now. Without a cap per endpoint one hanging endpoint of fifty cut the good ones from 10,000/s to 500/s
 * (measured); with it they keep their rate.
 *
 * A lane is one endpoint's: `IN_FLIGHT` at once, a few in memory behind them, and whatever is beyond is
 * parked as a row with an alarm. Parked ones are spaced by the endpoint's own measured pace, so that a slow endpoint's
 * backlog does not come back all at once only to be parked again.
 */
const IN_FLIGHT = 4;
/** Behind them in memory: as many as the endpoint takes within `WAIT_MS` at its pace, at least 20, at most 200. */
const WAIT_MS = 500;
const LEAST_WAITING = 20;
const MOST_WAITING = 200;
/** Before anything is measured, an answer is taken to need so long, in ms. */
const FIRST_GUESS_MS = 100;
/** An endpoint that answers within this lets a few wait that otherwise may not: their wait is shorter than being parked. */
const QUICK_MS = 100;
const MAX_PARK_MS = 300_000;
const KEPT_LANES = 5000;

interface Lane {
  inFlight: number;
  waiting: (() => void)[];
  /** Exponential average of an answer's duration, in ms. */
  paceMs: number;
  /** When the next parked delivery may come, in ms since the epoch. */
  nextSlot: number;
}

const room = (lane: Lane): number =>
  Math.min(MOST_WAITING, Math.max(LEAST_WAITING, (WAIT_MS * IN_FLIGHT) / lane.paceMs));

export class Lanes {
  readonly #lanes = new Map<string, Lane>();
  /** Who waits for one of the process's slots; whoever is woken has it. */
  readonly #slots: (() => void)[] = [];
  #concurrency: number;
  #busy = 0;

  /** `concurrency`: sends at once over all endpoints of this process. */
  constructor(concurrency: number) {
    this.#concurrency = concurrency;
  }

  /** From now on; what is on its way beyond the new number is finished. */
  setConcurrency(concurrency: number): void {
    this.#concurrency = concurrency;
    this.#fill();
  }

  /**
   * Runs `send` when the endpoint and the process have room, or answers `{ hold }` at once when the endpoint's lane is
   * full. Without `mayWait` only a few may wait, and only for a quick endpoint. `admit` is asked last, by whoever has a
   * place in the lane: what it waits for keeps places of this endpoint alone, and what it answers ends the way here.
   */
  async through<T>(
    endpointId: string,
    send: () => Promise<T>,
    { mayWait = true, admit }: { mayWait?: boolean; admit: () => Promise<Hold | undefined> },
  ): Promise<{ sent: T } | { hold: Hold }> {
    const lane = this.#lane(endpointId);
    if (lane.inFlight >= IN_FLIGHT) {
      const most = mayWait ? room(lane) : lane.paceMs <= QUICK_MS ? IN_FLIGHT : 0;
      if (lane.waiting.length >= most) return { hold: { until: this.#park(lane), reason: 'endpoint busy' } };
      await new Promise<void>((resolve) => lane.waiting.push(resolve)); // the one that leaves hands its place on
    } else {
      lane.inFlight += 1;
    }
    try {
      const hold = await admit();
      if (hold) return { hold };
      return { sent: await this.#slotted(lane, send) };
    } finally {
      this.#leave(endpointId, lane);
    }
  }

  /** How far apart an endpoint's deliveries can be sent, in ms, by the pace of its answers. */
  stepMs(endpointId: string): number {
    return (this.#lanes.get(endpointId)?.paceMs ?? FIRST_GUESS_MS) / IN_FLIGHT;
  }

  async #slotted<T>(lane: Lane, send: () => Promise<T>): Promise<T> {
    if (this.#busy < this.#concurrency) this.#busy += 1;
    else await new Promise<void>((resolve) => this.#slots.push(resolve));
    const began = performance.now();
    try {
      return await send();
    } finally {
      lane.paceMs = lane.paceMs * 0.8 + (performance.now() - began) * 0.2;
      this.#busy -= 1;
      this.#fill();
    }
  }

  #fill(): void {
    while (this.#busy < this.#concurrency) {
      const slot = this.#slots.shift();
      if (!slot) return;
      this.#busy += 1;
      slot();
    }
  }

  #leave(endpointId: string, lane: Lane): void {
    const next = lane.waiting.shift();
    if (next) {
      next();
      return;
    }
    lane.inFlight -= 1;
    // A lane is kept for its pace, as long as there are not too many of them.
    if (lane.inFlight === 0 && lane.nextSlot < Date.now() && this.#lanes.size > KEPT_LANES)
      this.#lanes.delete(endpointId);
  }

  #park(lane: Lane): number {
    const now = Date.now();
    lane.nextSlot = Math.min(Math.max(lane.nextSlot, now + 500) + lane.paceMs / IN_FLIGHT, now + MAX_PARK_MS);
    return lane.nextSlot;
  }

  #lane(endpointId: string): Lane {
    const known = this.#lanes.get(endpointId);
    if (known) return known;
    const lane = { inFlight: 0, waiting: [], paceMs: FIRST_GUESS_MS, nextSlot: 0 };
    this.#lanes.set(endpointId, lane);
    return lane;
  }
}
