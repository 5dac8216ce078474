import { compare, type Side } from '../measure.ts';
import type { Platform } from '../platform.ts';
import type { Stage, Subject } from '../stage.ts';
import { drainSide, Subscribers } from './deliveries.ts';

const ENDPOINTS = 50;
const LATENCY_MS = 50;

/** Two processes of the webhooks pool; `one` is the same with the second not there. */
async function prepared(platform: Platform, seconds: number): Promise<Subject & { one: Side }> {
  const subscribers = await Subscribers.create(platform, { name: 'bench.processes', types: ENDPOINTS, each: 1 });
  await platform.stopAll();
  const fan = await platform.start(['worker', 'fanout']);
  const first = await platform.start(['worker', 'webhooks']);
  const options = { seconds, delayMs: LATENCY_MS };
  const one = drainSide('one', platform, subscribers, () => [fan, first], { ...options, atLeast: 500 });
  return {
    name: 'two',
    one,
    async measure() {
      // The second process exists only while it takes part.
      const second = await platform.start(['worker', 'webhooks']);
      const processes = () => [fan, first, second];
      try {
        return await drainSide('two', platform, subscribers, processes, { ...options, atLeast: 1000 }).measure();
      } finally {
        await platform.stop(second);
      }
    },
    async close() {
      await Promise.all([subscribers.receiver.stop(), platform.stopAll()]);
    },
  };
}

export const processes: Stage = {
  name: 'processes',
  unit: 'deliveries/s',
  subject: prepared,
  async run({ platform, seconds, runs, report }) {
    const two = await prepared(platform, seconds);
    try {
      return await compare([two, two.one], runs, report, {
        stage: processes,
        goals: { one: 1.8 },
        notes: [`${ENDPOINTS} endpoints that answer after ${LATENCY_MS} ms`],
      });
    } finally {
      await two.close();
    }
  },
};
