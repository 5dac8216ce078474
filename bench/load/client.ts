import { setTimeout as delay } from 'node:timers/promises';
import { serve } from '../peer.ts';
import { Connection } from './connection.ts';
import { LOADS, type Target } from './requests.ts';

export interface LoadOptions extends Target {
  load: string;
  connections: number;
  /** Not counted. */
  warmSeconds: number;
  seconds: number;
  /** Requests per second in all; as many as go when absent. */
  rate?: number;
}

export interface LoadResult {
  count: number;
  seconds: number;
  p50: number;
  p99: number;
  /** Answers other than 2xx, with the first one's text. */
  failures: number;
  firstFailure: string | undefined;
}

interface Tally {
  counting: boolean;
  stop: boolean;
  count: number;
  failures: number;
  firstFailure: string | undefined;
  latencies: number[];
}

serve({
  async run(options: LoadOptions): Promise<LoadResult> {
    const make = LOADS[options.load];
    if (!make) throw new Error(`there is no load "${options.load}"`);
    const next = make(options);
    const tally: Tally = {
      counting: false,
      stop: false,
      count: 0,
      failures: 0,
      firstFailure: undefined,
      latencies: [],
    };
    const connections = await Promise.all(
      Array.from({ length: options.connections }, () => Connection.open(options.url)),
    );
    const pace = options.rate ? options.connections / options.rate : 0;
    const loops = connections.map((connection, worker) => loop(connection, worker, next, tally, pace * 1000));
    await delay(options.warmSeconds * 1000);
    tally.counting = true;
    const began = performance.now();
    await delay(options.seconds * 1000);
    tally.counting = false;
    const seconds = (performance.now() - began) / 1000;
    tally.stop = true;
    await Promise.all(loops);
    for (const connection of connections) connection.close();
    const sorted = tally.latencies.sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
    const { count, failures, firstFailure } = tally;
    return { count, seconds, p50: at(0.5), p99: at(0.99), failures, firstFailure };
  },
});

/** One request after the other; with a pace each starts at its own time, and the wait for a late one counts. */
async function loop(
  connection: Connection,
  worker: number,
  next: (worker: number, n: number) => Buffer,
  tally: Tally,
  paceMs: number,
): Promise<void> {
  let due = performance.now() + paceMs * Math.random();
  for (let n = 0; !tally.stop; n += 1) {
    if (paceMs > 0) {
      const wait = due - performance.now();
      if (wait > 0) await delay(wait);
      due += paceMs;
    }
    const began = performance.now();
    const { status, body } = await connection.send(next(worker, n));
    if (!tally.counting) continue;
    if (status >= 200 && status < 300) {
      tally.count += 1;
      tally.latencies.push(performance.now() - began);
    } else {
      tally.failures += 1;
      tally.firstFailure ??= `${status} ${body.slice(0, 200)}`;
    }
  }
}
