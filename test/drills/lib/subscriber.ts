import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { pause } from '../../../src/services/service.ts';

/** How one behaves that makes half of all events wait for a retry. */
export const STUMBLES: Manner = { stumble: true };

/** What one subscriber got under one key: an event's id, or `user:<id>` for the account that an event tells of. */
export interface Arrival {
  /** How often it was taken with a 200. */
  times: number;
  ids: Set<string>;
}

/**
 * How a subscriber behaves: with `stumble` it answers 500 to the first try of one half of the events, while `closed` to
 * everything, and each answer takes `delayMs`. A half, because of an endpoint that fails every first try nine in ten
 * attempts may fail, and then its breaker opens, as it should: that drill would be about breakers.
 */
export interface Manner {
  stumble?: boolean;
  /** An eighth of the events is refused for as long as this holds. */
  stuck?: boolean;
  delayMs?: number;
  closed?: boolean;
  /** 503 to everything, with a `Retry-After` of so many seconds: the way to ask for less that opens no breaker. */
  later?: number;
}

/** A subscriber as its owner would write one: it checks each webhook with the public library and remembers what it took. */
export class Subscriber {
  readonly name: string;
  readonly arrivals = new Map<string, Arrival>();
  /** What should never come: bad signatures, one event under two ids. */
  readonly faults: string[] = [];
  manner: Manner;
  readonly #server: Server;
  /** When each webhook came, taken or not, by its id; ms of the monotonic clock. */
  readonly tries = new Map<string, number[]>();
  #verifier: Webhook | undefined;

  constructor(name: string, manner: Manner = {}) {
    this.name = name;
    this.manner = manner;
    this.#server = createServer((request, response) => {
      this.#take(request).then(
        (status) => response.writeHead(status, status === 503 ? { 'retry-after': `${this.manner.later}` } : {}).end(),
        () => response.destroy(),
      );
    });
  }

  /** Listens on a free loopback port; resolves with the URL to subscribe. */
  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hooks`;
  }

  verifyWith(secret: string): void {
    this.#verifier = new Webhook(secret);
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #take(request: IncomingMessage): Promise<number> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString('utf8');
    const id = String(request.headers['webhook-id']);
    try {
      this.#verifier?.verify(body, request.headers as Record<string, string>);
    } catch (error) {
      this.faults.push(`${id}: ${(error as Error).message}`);
      return 400;
    }
    const tries = this.tries.get(id) ?? [];
    tries.push(performance.now());
    this.tries.set(id, tries);
    const asksForLess = this.manner.later !== undefined;
    const refused = this.manner.closed || this.#stumbles(id, tries.length);
    if (this.manner.delayMs) await pause(this.manner.delayMs);
    if (asksForLess) return 503;
    if (refused) return 500;
    this.#note(id, id);
    const { type, data } = JSON.parse(body) as { type: string; data: { user_id?: string } };
    if (type === 'user.created') this.#note(`user:${data.user_id}`, id);
    return 200;
  }

  #note(key: string, id: string): void {
    const arrival = this.arrivals.get(key) ?? { times: 0, ids: new Set<string>() };
    arrival.times += 1;
    arrival.ids.add(id);
    this.arrivals.set(key, arrival);
  }

  #stumbles(id: string, tries: number): boolean {
    const [first = 0, second = 0] = createHash('sha256').update(id).digest();
    return (
      (this.manner.stumble === true && tries === 1 && first % 2 === 0) ||
      (this.manner.stuck === true && second % 8 === 0)
    );
  }
}
