import { currentTime } from '../services/clock.ts';
import { BUSY, type Hold } from './holds.ts';

/**
 * Who may send now. Without a cap per endpoint one hanging endpoint of fifty cut the good ones from 10,000/s to 500/s
 * (measured); with it they keep their rate.
 *
 * A lane is one endpoint's: `IN_FLIGHT` at once, a few in memory behind them, and whatever is beyond is parked as a row.
 * While rows are parked the lane has a line, and what comes fresh or falls due goes to its end; `Pump` brings them back
 * in their order as the lane takes them.
 *
 *   no line ──something is parked──► line ──the pump has found the last one──► no line
 */
const IN_FLIGHT = 4;
/** Behind them in memory: as many as the endpoint takes within `WAIT_MS` at its pace, at least 20, at most 200. */
const WAIT_MS = 500;
const LEAST_WAITING = 20;
const MOST_WAITING = 200;
/** Parked ones that are brought back ahead of their turn: what the endpoint takes within `WAIT_MS`, at most so many. */
const MOST_AHEAD = 100;
/**
 * A send that lasts longer gives its slot back, up to so many of them: it does nothing but wait. With the slots that 13
 * hanging endpoints kept, every other endpoint stood still (a good one got 79 of 189 deliveries in 109 s, November 2026).
 * A lane as slow as that keeps nothing waiting in memory.
 */
const LONG_MS = 1000;
const MOST_LONG = 1000;
/** How often the sends on their way are looked at, in ms. */
const LOOK_MS = 250;
/** Before anything is measured, an answer is taken to need so long, in ms. */
const FIRST_GUESS_MS = 100;
/** When a parked one is looked at by itself, at the earliest: the pump comes before, unless its process has ended. */
const PARK_MS = 500;
const MAX_PARK_MS = 300_000;
const KEPT_LANES = 5000;

/**
 * How a delivery comes: `fresh` from a chunk, `due` by its alarm, `urgent` because somebody waits for it, `parked` from
 * the line.
 */
export type Arrival = 'fresh' | 'due' | 'urgent' | 'parked';

interface Waiter {
  parked: boolean;
  /** True hands a place over, false sends away. */
  wake: (place: boolean) => void;
}

interface Lane {
  inFlight: number;
  waiting: Waiter[];
  /** Some are parked, as far as this process knows. */
  line: boolean;
  /** Exponential average of an answer's duration, in ms. */
  paceMs: number;
  /** When the next parked delivery is looked at, in ms since the epoch. */
  nextSlot: number;
}

const pacedRoom = (lane: Lane): number => (WAIT_MS * IN_FLIGHT) / lane.paceMs;
const room = (lane: Lane): number =>
  lane.paceMs >= LONG_MS ? 0 : Math.min(MOST_WAITING, Math.max(LEAST_WAITING, pacedRoom(lane)));

/** A send on its way. */
interface Sending {
  lane: Lane;
  began: number;
  /** It keeps one of the process's slots. */
  slot: boolean;
  onLong: () => void;
}

export class Lanes {
  readonly #lanes = new Map<string, Lane>();
  readonly #onRoom: (endpointId: string) => void;
  /** Who waits for one of the process's slots; whoever is woken has it. */
  readonly #slots: (() => void)[] = [];
  /** In the order of their beginnings. */
  readonly #sends = new Set<Sending>();
  #looking: NodeJS.Timeout | undefined;
  #concurrency: number;
  #busy = 0;
  #long = 0;
  #shut = false;

  /**
   * `concurrency`: sends at once over all endpoints of this process, those that last long not counted. `onRoom` hears when
   * a lane with a line moves on.
   */
  constructor(concurrency: number, onRoom: (endpointId: string) => void = () => undefined) {
    this.#concurrency = concurrency;
    this.#onRoom = onRoom;
  }

  /** From now on; what is on its way beyond the new number is finished. */
  setConcurrency(concurrency: number): void {
    this.#concurrency = concurrency;
    this.#fill();
  }

  /**
   * Runs `send` when the endpoint and the process have room, or answers until when it has to be parked: what is fresh may
   * wait in memory, what comes by an alarm may not, and neither passes a line. What is urgent passes it when a place is
   * free. `admit` is asked last, by whoever has a place in the lane: what it waits for keeps places of this endpoint
   * alone, and what it answers ends the way here. `send` says whether it made a request, whose duration tells the pace;
   * `onLong` hears when it lasts long.
   */
  async through(
    endpointId: string,
    send: () => Promise<boolean>,
    {
      as,
      admit,
      onLong = () => undefined,
    }: { as: Arrival; admit: () => Promise<Hold | undefined>; onLong?: () => void },
  ): Promise<Hold | undefined> {
    const lane = this.#lane(endpointId);
    const behind = lane.line && (as === 'fresh' || as === 'due');
    if (!behind && lane.inFlight < IN_FLIGHT) {
      lane.inFlight += 1;
    } else {
      const waits = (as === 'parked' && !this.#shut) || (as === 'fresh' && !behind && lane.waiting.length < room(lane));
      const place =
        waits && (await new Promise<boolean>((wake) => lane.waiting.push({ parked: as === 'parked', wake })));
      if (!place) return this.#park(lane);
    }
    try {
      const hold = await admit();
      if (hold) return hold;
      await this.#slotted(lane, send, onLong);
      return undefined;
    } finally {
      this.#leave(endpointId, lane);
    }
  }

  /** How far apart an endpoint's deliveries can be sent, in ms, by the pace of its answers. */
  stepMs(endpointId: string): number {
    return (this.#lanes.get(endpointId)?.paceMs ?? FIRST_GUESS_MS) / IN_FLIGHT;
  }

  /** How many of the line to bring back now: none until half of what was brought ahead is gone. */
  wants(endpointId: string): number {
    const lane = this.#lane(endpointId);
    const ahead = Math.min(MOST_AHEAD, Math.floor(pacedRoom(lane)));
    const here = lane.inFlight + lane.waiting.length;
    return here < IN_FLIGHT + ahead / 2 ? Math.ceil(IN_FLIGHT + ahead - here) : 0;
  }

  setLine(endpointId: string, line: boolean): void {
    this.#lane(endpointId).line = line;
  }

  /** The endpoints that have a line. */
  lines(): string[] {
    return [...this.#lanes].flatMap(([id, { line }]) => (line ? [id] : []));
  }

  /** Sends those back to their lines that wait in memory, and whoever comes from a line and finds no place. */
  shut(): void {
    this.#shut = true;
    for (const lane of this.#lanes.values()) {
      const parked = lane.waiting.filter((waiter) => waiter.parked);
      lane.waiting = lane.waiting.filter((waiter) => !waiter.parked);
      for (const waiter of parked) waiter.wake(false);
    }
  }

  open(): void {
    this.#shut = false;
  }

  /** The hold of one that is parked. */
  parkedHold(endpointId: string): Hold {
    return this.#park(this.#lane(endpointId));
  }

  async #slotted(lane: Lane, send: () => Promise<boolean>, onLong: () => void): Promise<void> {
    if (this.#busy < this.#concurrency) this.#busy += 1;
    else await new Promise<void>((resolve) => this.#slots.push(resolve));
    const sending = { lane, began: performance.now(), slot: true, onLong };
    this.#sends.add(sending);
    this.#looking ??= setInterval(() => this.#look(), LOOK_MS);
    try {
      if (await send()) lane.paceMs = lane.paceMs * 0.8 + (performance.now() - sending.began) * 0.2;
    } finally {
      this.#sends.delete(sending);
      if (sending.slot) this.#busy -= 1;
      else this.#long -= 1;
      if (this.#sends.size === 0) {
        clearInterval(this.#looking);
        this.#looking = undefined;
      }
      this.#fill();
    }
  }

  /** Takes their slots from those that last long, and empties the memory of lanes that have become slow. */
  #look(): void {
    const now = performance.now();
    for (const sending of this.#sends) {
      const { lane, began } = sending;
      if (now - began < LONG_MS) break;
      lane.paceMs = Math.max(lane.paceMs, now - began);
      for (const waiter of lane.waiting.splice(0)) waiter.wake(false);
      if (!sending.slot || this.#long >= MOST_LONG) continue;
      sending.slot = false;
      this.#busy -= 1;
      this.#long += 1;
      sending.onLong();
    }
    this.#fill();
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
    if (next) next.wake(true);
    else lane.inFlight -= 1;
    if (lane.line) this.#onRoom(endpointId);
    // A lane is kept for its pace, as long as there are not too many of them.
    else if (lane.inFlight === 0 && this.#lanes.size > KEPT_LANES) this.#lanes.delete(endpointId);
  }

  #park(lane: Lane): Hold {
    const now = currentTime();
    lane.line = true;
    lane.nextSlot = Math.min(Math.max(lane.nextSlot, now + PARK_MS) + lane.paceMs / IN_FLIGHT, now + MAX_PARK_MS);
    return { until: lane.nextSlot, reason: BUSY };
  }

  #lane(endpointId: string): Lane {
    const known = this.#lanes.get(endpointId);
    if (known) return known;
    const lane: Lane = { inFlight: 0, waiting: [], line: false, paceMs: FIRST_GUESS_MS, nextSlot: 0 };
    this.#lanes.set(endpointId, lane);
    return lane;
  }
}
