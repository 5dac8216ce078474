import { compare } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Platform } from '../platform.ts';
import type { Stage, Subject } from '../stage.ts';
import { drainSide, payloadOf, Subscribers } from './deliveries.ts';
import { startUsual, usualSide } from './delivery.ts';

const ENDPOINTS = 1000;

async function prepared(platform: Platform, seconds: number): Promise<Subject & { subscribers: Subscribers }> {
  const subscribers = await Subscribers.create(platform, { name: 'bench.fanout', types: 1, each: ENDPOINTS });
  await platform.stopAll();
  const processes = [await platform.start(['worker', 'fanout']), await platform.start(['worker', 'webhooks'])];
  const side = drainSide('waybill', platform, subscribers, () => processes, { seconds, atLeast: 5000 });
  const close = async () => void (await Promise.all([subscribers.receiver.stop(), platform.stopAll()]));
  return { ...side, subscribers, close };
}

export const fanout: Stage = {
  name: 'fanout',
  unit: 'deliveries/s',
  subject: prepared,
  async run({ platform, seconds, runs, report }) {
    const waybill = await prepared(platform, seconds);
    const usual = new Peer('baselines/usual.ts');
    try {
      await startUsual(usual, platform, waybill.subscribers);
      const payload = payloadOf('bench.fanout.0');
      const baseline = usualSide(usual, waybill.subscribers, payload, { prefilled: false, seconds, guess: 1000 });
      return await compare([waybill, baseline], runs, report, {
        stage: fanout,
        goals: { usual: 7 },
        notes: [`each event to ${ENDPOINTS} endpoints`],
      });
    } finally {
      await usual.ask('stop').catch(() => undefined);
      await Promise.all([waybill.close(), usual.stop()]);
    }
  },
};
