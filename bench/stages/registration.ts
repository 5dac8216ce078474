import { randomBytes } from 'node:crypto';
import { loadConfig } from '../../src/config.ts';
import { compare, type Sample, type Side } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Platform } from '../platform.ts';
import { type Stage, type Subject, warmSeconds } from '../stage.ts';
import { loaded } from './accept.ts';

/** What the pool and the hashes are when nothing is configured. */
const defaults = (platform: Platform) =>
  loadConfig({ NODE_ENV: 'test', SECRETS_KEY: randomBytes(32).toString('base64') }, platform.directory);

/** A hash takes tens of ms: below two seconds there is nothing to count. */
const atLeast = (seconds: number): number => Math.max(seconds, 2);

async function subject(platform: Platform, seconds: number): Promise<Subject> {
  const client = new Peer('load/client.ts');
  const { url } = await platform.api();
  await platform.start(['worker', 'registration']);
  const connections = 2 * defaults(platform).concurrency.registration; // enough that one is always waiting
  return {
    name: 'waybill',
    async measure() {
      await platform.db.query('truncate outbox, operations, emails');
      return loaded(client, {
        url,
        tokens: [],
        load: 'register',
        connections,
        warmSeconds: warmSeconds(seconds),
        seconds: atLeast(seconds),
      });
    },
    async close() {
      await Promise.all([client.stop(), platform.stopAll()]);
    },
  };
}

export const registration: Stage = {
  name: 'registration',
  unit: 'registrations/s',
  subject,
  async run({ platform, seconds, runs, report }) {
    const waybill = await subject(platform, seconds);
    const bare = new Peer('baselines/argon2.ts');
    try {
      const { argon2, concurrency } = defaults(platform);
      const options = { ...argon2, concurrency: concurrency.registration, seconds: atLeast(seconds) };
      const baseline: Side = { name: 'argon2', measure: () => bare.ask<Sample>('run', options) };
      const { memoryKib, time, parallelism } = argon2;
      return await compare([waybill, baseline], runs, report, {
        stage: registration,
        goals: { argon2: 0.9 },
        notes: [`argon2id m=${memoryKib} KiB t=${time} p=${parallelism}, ${concurrency.registration} at once`],
      });
    } finally {
      await Promise.all([waybill.close(), bare.stop()]);
    }
  },
};
