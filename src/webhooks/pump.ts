import type { Logger } from '../services/logger.ts';
import { pause } from '../services/service.ts';
import type { Lanes } from './lanes.ts';

/** After a look at a line that failed, or found only what another process is at work on, in ms. */
const AGAIN_MS = 1000;

/** What a look at a line has brought. `more`: there may be more behind them. */
export interface Pulled<T> {
  parcels: T[];
  more: boolean;
}

export interface PumpDeps<T> {
  lanes: Lanes;
  /** Claims up to `limit` of an endpoint's parked deliveries, the first of its line. */
  pull: (endpointId: string, limit: number) => Promise<Pulled<T>>;
  /** Resolves when it is over and recorded, one way or another; calls `onLong` when the answer takes long. */
  deliver: (parcel: T, onLong: () => void) => Promise<void>;
  /** Claimed deliveries in this process at once. */
  most: () => number;
  log: Logger;
}

/**
 * Brings parked deliveries back to their lanes, in the order of their lines, as fast as each lane takes them.
 *
 *   idle ──a kick, or the lane has room──► pulling ──the lane is full──► idle
 *                                             └──the line has ended──► idle, and the lane has no line
 *   any ──rest──► resting ──resume──► idle | pulling
 *
 * It works beside the alarms of parked rows, which only kick it: those of one busy endpoint keep no slot that the alarms
 * of others need.
 */
export class Pump<T> {
  readonly #deps: PumpDeps<T>;
  /** Endpoints whose line is being looked at; true when it was kicked since the look began. */
  readonly #pulling = new Map<string, boolean>();
  readonly #underWay = new Set<Promise<void>>();
  /** What only waits for an answer that takes long: nobody else's room. */
  readonly #long = new Set<Promise<void>>();
  /** Endpoints whose lane has room while this process has none. */
  readonly #short = new Set<string>();
  #resting = new AbortController();

  constructor(deps: PumpDeps<T>) {
    this.#deps = deps;
  }

  /** Something was parked for this endpoint. */
  kick(endpointId: string): void {
    this.#deps.lanes.setLine(endpointId, true);
    if (this.#pulling.has(endpointId)) this.#pulling.set(endpointId, true);
    this.look(endpointId);
  }

  /** Pulls when the endpoint's lane has room. */
  look(endpointId: string): void {
    if (this.#resting.signal.aborted || this.#pulling.has(endpointId)) return;
    if (this.#deps.lanes.wants(endpointId) === 0) return;
    this.#pulling.set(endpointId, false);
    void this.#pull(endpointId);
  }

  /** Pulls nothing more; what waits goes back to its line. Resolves when what is on its way is over. */
  async rest(): Promise<void> {
    this.#resting.abort();
    this.#deps.lanes.shut();
    while (this.inFlight() > 0) await Promise.all([...this.#underWay, ...this.#long]);
  }

  /** Deliveries that are claimed and not over. */
  inFlight(): number {
    return this.#underWay.size + this.#long.size;
  }

  /** Is waited for by `rest` as well. Must not reject. */
  keep(delivered: Promise<void>): void {
    this.#long.add(delivered);
    void delivered.finally(() => this.#long.delete(delivered));
  }

  resume(): void {
    if (!this.#resting.signal.aborted) return;
    this.#resting = new AbortController();
    this.#deps.lanes.open();
    for (const endpointId of this.#deps.lanes.lines()) this.look(endpointId);
  }

  async #pull(endpointId: string): Promise<void> {
    const { lanes, log } = this.#deps;
    const { signal } = this.#resting;
    // What is decided and what is noted happen at one instant: no room that a lane reports in between is missed.
    const end = () => this.#pulling.delete(endpointId);
    for (;;) {
      const wanted = signal.aborted ? 0 : this.#afford(endpointId, lanes.wants(endpointId));
      if (wanted === 0) return void end();
      this.#pulling.set(endpointId, false);
      const { parcels, more } = await this.#deps.pull(endpointId, wanted).catch((error: Error) => {
        log.warn({ error: error.message, endpoint: endpointId }, 'parked deliveries are looked at again');
        return { parcels: [], more: true };
      });
      for (const parcel of parcels) this.#begin(parcel);
      if (!more && this.#pulling.get(endpointId) === false) {
        lanes.setLine(endpointId, false);
        return void end();
      }
      if (more && parcels.length === 0) await pause(AGAIN_MS, signal);
    }
  }

  #begin(parcel: T): void {
    const leave = () => {
      this.#underWay.delete(delivered);
      for (const endpointId of [...this.#short]) {
        this.#short.delete(endpointId);
        this.look(endpointId);
      }
    };
    const onLong = () => {
      this.keep(delivered);
      leave();
    };
    const delivered = this.#deps
      .deliver(parcel, onLong)
      .catch((error: Error) => this.#deps.log.error({ err: error }, 'a parked delivery comes again after its lease'))
      .finally(leave);
    this.#underWay.add(delivered);
  }

  /** As many of `wanted` as this process has room for; without any it looks again when something is over. */
  #afford(endpointId: string, wanted: number): number {
    const free = Math.max(0, this.#deps.most() - this.#underWay.size);
    if (wanted > 0 && free === 0) this.#short.add(endpointId);
    return Math.min(wanted, free);
  }
}
