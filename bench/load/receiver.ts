import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { serve } from '../peer.ts';

/** A subscriber: answers 204, at once or after a while, and counts. */
let received = 0;
let delayMs = 0;
let timing = false;
let latencies: number[] = [];
let waiting: { target: number; resolve: () => void } | undefined;
const servers: Server[] = [];

function open(): Promise<number> {
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => {
      if (timing) chunks.push(chunk);
    });
    request.on('end', () => {
      if (timing) measure(Buffer.concat(chunks).toString());
      received += 1;
      if (waiting && received >= waiting.target) {
        waiting.resolve();
        waiting = undefined;
      }
      const answer = () => response.writeHead(204).end();
      if (delayMs > 0) setTimeout(answer, delayMs);
      else answer();
    });
  });
  servers.push(server);
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)));
}

function measure(body: string): void {
  const sent = (JSON.parse(body) as { data?: { sent_at?: number } }).data?.sent_at;
  if (sent !== undefined) latencies.push(performance.timeOrigin + performance.now() - sent);
}

serve({
  /** Listens on so many ports of the loopback and says which. */
  listen: ({ ports }: { ports: number }): Promise<number[]> => Promise.all(Array.from({ length: ports }, open)),
  /** Counts from 0 again. */
  reset(options: { delayMs?: number; timing?: boolean }): void {
    received = 0;
    latencies = [];
    delayMs = options.delayMs ?? 0;
    timing = options.timing ?? false;
  },
  received: (): number => received,
  /** Resolves when so many have come since the reset. */
  async until({ target }: { target: number }): Promise<void> {
    if (received >= target) return;
    await new Promise<void>((resolve) => {
      waiting = { target, resolve };
    });
  },
  /** Of what came since the reset, in ms from the moment that the body names. */
  latency(): { count: number; p50: number; p99: number; max: number } {
    const sorted = latencies.sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
    return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: sorted.at(-1) ?? 0 };
  },
});
