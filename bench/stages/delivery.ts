import { compare, type Sample, type Side } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Platform } from '../platform.ts';
import { type Stage, type Subject, warmSeconds } from '../stage.ts';
import { drainSide, payloadOf, Subscribers } from './deliveries.ts';

const CONNECTIONS = 50;
const ENDPOINTS = 50;

const ATTEMPTS_TABLE = `create table if not exists bench_attempts (
  id uuid primary key, endpoint_id text not null, event_id text not null, status text not null,
  status_code int, duration_ms int, started_at timestamptz not null, finished_at timestamptz)`;

async function prepared(platform: Platform, seconds: number): Promise<Subject & { subscribers: Subscribers }> {
  const subscribers = await Subscribers.create(platform, { name: 'bench.delivery', types: ENDPOINTS, each: 1 });
  await platform.stopAll(); // the API is not part of this
  const processes = [await platform.start(['worker', 'fanout']), await platform.start(['worker', 'webhooks'])];
  const side = drainSide('waybill', platform, subscribers, () => processes, { seconds, atLeast: 5000 });
  const close = async () => void (await Promise.all([subscribers.receiver.stop(), platform.stopAll()]));
  return { ...side, subscribers, close };
}

/** Starts the usual service over the endpoints of the subscribers. */
export async function startUsual(usual: Peer, platform: Platform, subscribers: Subscribers): Promise<void> {
  await platform.db.query(ATTEMPTS_TABLE);
  const { databaseUrl, redisUrl } = platform.urls;
  const prefix = `${platform.namespace}:usual:${subscribers.each}`;
  await usual.ask('start', { databaseUrl, redisUrl, prefix, urls: subscribers.urls });
}

export const delivery: Stage = {
  name: 'delivery',
  unit: 'deliveries/s',
  subject: prepared,
  async run({ platform, seconds, runs, report }) {
    const waybill = await prepared(platform, seconds);
    const { subscribers } = waybill;
    const post = new Peer('baselines/post.ts');
    const usual = new Peer('baselines/usual.ts');
    try {
      await startUsual(usual, platform, subscribers);
      const payload = payloadOf('bench.delivery.0');
      const loop = (client: 'undici' | 'fetch'): Side => ({
        name: client,
        async measure() {
          await subscribers.receiver.ask('reset');
          const options = { client, urls: subscribers.urls, payload, connections: CONNECTIONS };
          return post.ask<Sample>('run', { ...options, warmSeconds: warmSeconds(seconds), seconds });
        },
      });
      const baselines = [
        loop('undici'),
        loop('fetch'),
        usualSide(usual, subscribers, payload, { prefilled: true, seconds, guess: 800 }),
      ];
      return await compare([waybill, ...baselines], runs, report, {
        stage: delivery,
        goals: { undici: 0.6, fetch: 2.5, usual: 10 },
        notes: [`${ENDPOINTS} endpoints, payload of ${payload.length} bytes, ${CONNECTIONS} connections`],
      });
    } finally {
      await usual.ask('stop').catch(() => undefined);
      await Promise.all([waybill.close(), post.stop(), usual.stop()]);
    }
  },
};

/** The usual service over the same receivers; sized to take about `seconds`. */
export function usualSide(
  usual: Peer,
  subscribers: Subscribers,
  payload: string,
  options: { prefilled: boolean; seconds: number; guess: number },
): Side {
  let pace = options.guess;
  return {
    name: 'usual',
    async measure() {
      const { each } = subscribers;
      const run = (length: number): Promise<Sample> =>
        usual.ask('run', {
          events: Math.max(1, Math.round((pace * length) / each)),
          each,
          payload,
          prefilled: options.prefilled,
        });
      await subscribers.receiver.ask('reset');
      const warm = await run(options.seconds * 0.3);
      pace = warm.count / warm.seconds;
      const sample = await run(options.seconds);
      pace = sample.count / sample.seconds;
      return sample;
    },
  };
}
