import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Webhook } from 'standardwebhooks';
import { until } from './client.ts';
import { check } from './narrator.ts';

/** A webhook as it came in, byte for byte. */
export interface Received {
  id: string;
  headers: Record<string, string>;
  body: string;
  type: string;
  data: Record<string, unknown>;
  /** What was answered. */
  status: number;
  at: number;
}

/** A subscriber as its owner would write one: a plain HTTP server that knows its secret and the public library, no more. */
export class Subscriber {
  readonly #server: Server;
  readonly received: Received[] = [];
  #failures = 0;
  #verifier: Webhook | undefined;

  constructor() {
    this.#server = createServer((request, response) => {
      this.#take(request).then(
        (status) => response.writeHead(status).end(),
        () => response.writeHead(400).end(),
      );
    });
  }

  /** Listens on a free loopback port; resolves with the URL. */
  async listen(): Promise<string> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(0, '127.0.0.1', resolve);
    });
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hooks`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  /** Checks every request from now on with this. */
  verifyWith(verifier: Webhook): void {
    this.#verifier = verifier;
  }

  /** Answers 500 to the next request. */
  failOnce(): void {
    this.#failures = 1;
  }

  /** Throws what the library throws when the signature does not fit. */
  verify(headers: Record<string, string>, body: string): void {
    check(this.#verifier !== undefined, 'a subscriber that knows its secret', 'none');
    this.#verifier.verify(body, headers);
  }

  /** Waits for a verified request of `type` that `wanted` holds for. */
  arrival(type: string, wanted: (request: Received) => boolean, ms?: number): Promise<Received> {
    return until(
      `a signed ${type}`,
      async () => ({
        found: this.received.find((request) => request.type === type && request.status === 204 && wanted(request)),
        seen: this.received.map((request) => `${request.type} (answered ${request.status})`).join(', ') || 'no request',
      }),
      ms,
    );
  }

  async #take(request: IncomingMessage): Promise<number> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString();
    const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]));
    const status = this.#judge(headers, body);
    const { type, data } = JSON.parse(body) as { type: string; data: Record<string, unknown> };
    this.received.push({ id: headers['webhook-id'] ?? '', headers, body, type, data, status, at: performance.now() });
    return status;
  }

  #judge(headers: Record<string, string>, body: string): number {
    try {
      this.verify(headers, body);
    } catch {
      return 401;
    }
    if (this.#failures === 0) return 204;
    this.#failures -= 1;
    return 500;
  }
}
