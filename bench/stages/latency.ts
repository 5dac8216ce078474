import type { LoadResult } from '../load/client.ts';
import { round } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Platform } from '../platform.ts';
import { warmSeconds } from '../stage.ts';

/** Tenants with an endpoint each: the client publishes types of the catalogue, so the tenant chooses the endpoint. */
const TENANTS = 50;
const CONNECTIONS = 50;

export interface Latency {
  /** Events per second from accept to subscriber, everything on this machine at work. */
  maximum: number;
  /** The rate at which the latency was taken. */
  rate: number;
  /** From before the request to the arrival at the subscriber, in ms. */
  p50: number;
  p99: number;
  samples: number;
}

/** From `POST /events` to the subscriber, at half of what API, fan-out and delivery manage together. */
export async function latency(platform: Platform, seconds: number): Promise<Latency> {
  const client = new Peer('load/client.ts');
  const receiver = new Peer('load/receiver.ts');
  try {
    const ports = await receiver.ask<number[]>('listen', { ports: 10 });
    const tokens = [await platform.adminToken()];
    for (let n = 0; n < TENANTS; n += 1) {
      const endpoint = { url: `http://127.0.0.1:${ports[n % ports.length]}/hooks/${n}`, event_types: ['*'] };
      await platform.call('POST', `/webhooks/endpoints?tenant=bench-${n}`, endpoint, tokens[0]);
    }
    const { url } = await platform.api();
    await platform.start(['worker', 'fanout']);
    await platform.start(['worker', 'webhooks']);
    const load = { url, tokens, load: 'timed', connections: CONNECTIONS, tenants: TENANTS, seconds };
    await receiver.ask('reset', { timing: true });
    const began = performance.now();
    const full = await client.ask<LoadResult>('run', { ...load, warmSeconds: warmSeconds(seconds) });
    const passed = await receiver.ask<number>('received');
    const maximum = Math.min(full.count / full.seconds, (passed * 1000) / (performance.now() - began));
    await drained(platform, receiver);
    const rate = maximum / 2;
    await client.ask<LoadResult>('run', { ...load, rate, warmSeconds: 0, seconds: 2 }); // settles at the new pace
    await receiver.ask('reset', { timing: true });
    const paced = await client.ask<LoadResult>('run', { ...load, rate, warmSeconds: 0 });
    if (paced.failures > 0) throw new Error(`${paced.failures} requests failed: ${paced.firstFailure}`);
    await drained(platform, receiver);
    const { p50, p99, count } = await receiver.ask<{ p50: number; p99: number; count: number }>('latency');
    return { maximum: round(maximum), rate: round(rate), p50: round(p50, 1), p99: round(p99, 1), samples: count };
  } finally {
    await Promise.all([client.stop(), receiver.stop(), platform.stopAll()]);
  }
}

/** Until nothing has come for half a second. */
async function drained(platform: Platform, receiver: Peer): Promise<void> {
  const queues = [platform.topology.queue('fanout'), platform.topology.queue('webhooks')];
  let last = -1;
  let quiet = 0;
  for (const end = performance.now() + 60_000; performance.now() < end && quiet < 5; ) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const seen = await receiver.ask<number>('received');
    const waiting = await Promise.all(queues.map((queue) => platform.channel.checkQueue(queue)));
    quiet = seen === last && waiting.every(({ messageCount }) => messageCount === 0) ? quiet + 1 : 0;
    last = seen;
  }
}
