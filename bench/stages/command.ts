import { hash } from 'argon2';
import { newId } from '../../src/domain/ids.ts';
import { compare, type Side } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Platform } from '../platform.ts';
import { type Stage, type Subject, warmSeconds } from '../stage.ts';
import { loaded } from './accept.ts';

const CONNECTIONS = 50;
const PASSWORD = 'correct horse battery staple';
/** Sign-ins are not what is measured here. */
const CHEAP = { ARGON2_MEMORY_KIB: '1024', ARGON2_PARALLELISM: '1' };
/** The pool's own default. */
const WORKER_CONCURRENCY = 10;

/** Verified users, put in by SQL, who then sign in through the API. */
async function signedInUsers(platform: Platform, count: number): Promise<string[]> {
  const passwordHash = await hash(PASSWORD, { memoryCost: 1024, timeCost: 1, parallelism: 1 });
  const emails = Array.from({ length: count }, (_, n) => `command-${n}@bench.example`);
  await platform.db.query(
    `insert into users (id, email, password_hash, full_name, is_verified, terms_accepted_at)
     select u.id, u.email, $3, 'Ada Bench', true, now() from unnest($1::uuid[], $2::text[]) as u (id, email)
     on conflict do nothing`,
    [emails.map(() => newId()), emails, passwordHash],
  );
  const tokens: string[] = [];
  for (const email of emails) tokens.push(await platform.signIn(email, PASSWORD));
  return tokens;
}

/** Hand in an identity check and take it back, in turns, through the API and the kyc pool. */
async function subject(platform: Platform, seconds: number): Promise<Subject> {
  const client = new Peer('load/client.ts');
  const { url } = await platform.api(CHEAP);
  await platform.start(['worker', 'kyc']);
  const tokens = await signedInUsers(platform, CONNECTIONS);
  return {
    name: 'waybill',
    async measure() {
      await platform.db.query('truncate kyc_attempts, kyc_transitions, outbox, operations');
      const { p50, p99, ...sample } = await loaded(client, { ...load(seconds), tokens, url });
      return { ...sample, notes: [`answered in p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`] };
    },
    async close() {
      await Promise.all([client.stop(), platform.stopAll()]);
    },
  };
}

const load = (seconds: number) => ({
  load: 'kyc',
  connections: CONNECTIONS,
  warmSeconds: warmSeconds(seconds),
  seconds,
});

export const command: Stage = {
  name: 'command',
  unit: 'commands/s',
  subject,
  async run({ platform, seconds, runs, report }) {
    const waybill = await subject(platform, seconds);
    const client = new Peer('load/client.ts');
    const bareApi = new Peer('baselines/command-api.ts');
    const bareWorker = new Peer('baselines/command-worker.ts');
    try {
      const queue = await platform.bareQueue('command');
      await platform.db.query('create table if not exists bench_commands (id uuid primary key, data text not null)');
      const channel = `${platform.namespace}:bare`;
      const options = { ...platform.urls, queue, channel, concurrency: WORKER_CONCURRENCY };
      await bareWorker.ask('start', options);
      const port = await bareApi.ask<number>('start', options);
      const baseline: Side = {
        name: 'bare',
        async measure() {
          await platform.db.query('truncate bench_commands');
          const { p50, p99, ...sample } = await loaded(client, {
            ...load(seconds),
            tokens: Array.from({ length: CONNECTIONS }, () => 'none'),
            url: `http://127.0.0.1:${port}`,
          });
          return { ...sample, notes: [`bare: p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`] };
        },
      };
      return await compare([waybill, baseline], runs, report, {
        stage: command,
        goals: { bare: 0.6 },
        notes: [
          `${CONNECTIONS} connections, a user each: PATCH and DELETE /users/me/kyc in turns`,
          'API and kyc pool alone; what they leave in the outbox is thrown away',
        ],
      });
    } finally {
      await Promise.all([waybill.close(), client.stop(), bareApi.stop(), bareWorker.stop()]);
    }
  },
};
