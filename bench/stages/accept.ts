import type { LoadResult } from '../load/client.ts';
import { EVENT } from '../load/requests.ts';
import { busySeconds } from '../machine.ts';
import { compare, round, type Sample, type Side } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Platform } from '../platform.ts';
import { type Stage, type Subject, warmSeconds } from '../stage.ts';

const CONNECTIONS = 50;

/** Runs one load and fails when anything but 2xx came back. */
export async function loaded(client: Peer, options: Record<string, unknown>): Promise<Sample & LoadResult> {
  const result = await client.ask<LoadResult>('run', options);
  if (result.failures > 0 || result.count === 0)
    throw new Error(`${result.failures} requests failed, ${result.count} did not: ${result.firstFailure}`);
  return result;
}

const load = (seconds: number) => ({
  load: 'event',
  connections: CONNECTIONS,
  warmSeconds: warmSeconds(seconds),
  seconds,
});

/** `POST /events` of the real API, into an empty fan-out queue each time. */
async function subject(platform: Platform, seconds: number): Promise<Subject> {
  const client = new Peer('load/client.ts');
  const api = await platform.api();
  const queue = platform.topology.queue('fanout');
  return {
    name: 'waybill',
    async measure() {
      const tokens = [await platform.adminToken()];
      await platform.purge(queue);
      const [cpu, machine, began] = [api.cpuSeconds(), busySeconds(), performance.now()];
      const { p50, p99, ...sample } = await loaded(client, { ...load(seconds), url: api.url, tokens });
      const share = (used: number) => round((used * 1000) / (performance.now() - began), 2);
      const cores = `the API uses ${share(api.cpuSeconds() - cpu)} of ${share(busySeconds() - machine)} busy cores`;
      await platform.purge(queue);
      return { ...sample, notes: [`p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms; ${cores}`] };
    },
    async close() {
      await Promise.all([client.stop(), platform.stopAll()]);
    },
  };
}

/** The length of the message that the platform publishes for one event of the load. */
async function messageBytes(platform: Platform): Promise<number> {
  await platform.call('POST', '/events', EVENT, await platform.adminToken());
  const message = await platform.channel.get(platform.topology.queue('fanout'), { noAck: true });
  if (!message) throw new Error('an accepted event is in no queue');
  return message.content.length;
}

export const accept: Stage = {
  name: 'accept',
  unit: 'requests/s',
  subject,
  async run({ platform, seconds, runs, report }) {
    const waybill = await subject(platform, seconds);
    const client = new Peer('load/client.ts');
    const bare = new Peer('baselines/accept.ts');
    try {
      const queue = await platform.bareQueue('accept');
      const bytes = await messageBytes(platform);
      const port = await bare.ask<number>('start', { rabbitmqUrl: platform.urls.rabbitmqUrl, queue, bytes });
      const tokens = [await platform.adminToken()];
      const baseline: Side = {
        name: 'bare',
        async measure() {
          const { p50, p99, ...sample } = await loaded(client, {
            ...load(seconds),
            url: `http://127.0.0.1:${port}`,
            tokens,
          });
          await platform.purge(queue);
          return { ...sample, notes: [`bare: p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`] };
        },
      };
      return await compare([waybill, baseline], runs, report, {
        stage: accept,
        goals: { bare: 0.8 },
        notes: [`${CONNECTIONS} connections; messages of ${bytes} bytes`],
      });
    } finally {
      await Promise.all([waybill.close(), client.stop(), bare.stop()]);
    }
  },
};
