import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { pause } from '../../../src/services/service.ts';

/** What one subscriber got under one key: an event's id, or `user:<id>` for the account that an event tells of. */
export interface Arrival {
  /** How often it was taken with a 200. */
  times: number;
  ids: Set<string>;
}

/** How a subscriber behaves: it answers 500 to the first `failFirst` tries of each event, to all while `closed`, and each answer takes `delayMs`. */
export interface Manner {
  failFirst?: number;
  delayMs?: number;
  closed?: boolean;
}

/** A subscriber as its owner would write one: it checks each webhook with the public library and remembers what it took. */
export class Subscriber {
  readonly name: string;
  readonly arrivals = new Map<string, Arrival>();
  /** What should never come: bad signatures, one event under two ids. */
  readonly faults: string[] = [];
  manner: Manner;
  readonly #server: Server;
  readonly #tries = new Map<string, number>();
  #verifier: Webhook | undefined;

  constructor(name: string, manner: Manner = {}) {
    this.name = name;
    this.manner = manner;
    this.#server = createServer((request, response) => {
      this.#take(request).then(
        (status) => response.writeHead(status).end(),
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
    const tries = (this.#tries.get(id) ?? 0) + 1;
    this.#tries.set(id, tries);
    if (this.manner.delayMs) await pause(this.manner.delayMs);
    if (this.manner.closed || tries <= (this.manner.failFirst ?? 0)) return 500;
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
}
