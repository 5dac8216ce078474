import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { Registry } from 'prom-client';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import type { Config, Pool } from '../../src/config.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { command } from '../../src/domain/messages/contracts.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { done } from '../../src/domain/messages/outcome.ts';
import { changePool } from '../../src/domain/pools/settings.ts';
import { Messaging } from '../../src/queues/messaging.ts';
import { POOLS_NOTICE, PoolWatcher } from '../../src/queues/pool-settings.ts';
import { PoolView } from '../../src/queues/pool-view.ts';
import { checkRegistry, createPool, type RunningPool } from '../../src/queues/pools.ts';
import { Presence } from '../../src/queues/presence.ts';
import {
  type AnyWorker,
  defineAlarmWorker,
  defineBatchWorker,
  defineStreamWorker,
  defineWorker,
} from '../../src/queues/worker.ts';
import { type Database, openDatabase } from '../../src/services/database.ts';
import { Notices } from '../../src/services/notices.ts';
import { type Service, stopAll } from '../../src/services/service.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

const slow = command('test.slow', z.strictObject({}));
const ids = new OperationIds(Buffer.alloc(32, 7));
const context = { requestId: 'req-1', correlationId: 'op-1', actor: SYSTEM };

/** What the workers of one process are doing, and a gate that holds them. */
class Site {
  readonly handled: string[] = [];
  readonly sizes: number[] = [];
  now = 0;
  most = 0;
  resizedTo: number | undefined;
  #gate: Promise<void> = Promise.resolve();
  #open: () => void = () => undefined;

  hold(): void {
    this.#gate = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  release(): void {
    this.#open();
  }

  async work(what: string): Promise<void> {
    this.now += 1;
    this.most = Math.max(this.most, this.now);
    await this.#gate;
    this.now -= 1;
    this.handled.push(what);
  }

  workers(): AnyWorker[] {
    const site = this;
    return [
      defineWorker({
        name: 'slow',
        pool: 'registration',
        takes: slow,
        retry: { attempts: 1, baseMs: 100, maxMs: 100 },
        timeoutMs: 20_000,
        perform: ({ envelope }) => site.work(envelope.id),
        handle: async () => done(),
      }),
      defineBatchWorker({
        name: 'batch',
        pool: 'audit',
        schema: z.unknown(),
        batch: { size: 500, waitMs: 20 },
        timeoutMs: 5000,
        async handle(items) {
          site.sizes.push(items.length);
        },
      }),
      defineStreamWorker({
        name: 'stream',
        pool: 'webhooks',
        schema: z.unknown(),
        prefetch: 3,
        resize(concurrency) {
          site.resizedTo = concurrency;
          return concurrency;
        },
        handle: () => site.work('chunk'),
      }),
      defineAlarmWorker({
        name: 'alarm',
        pool: 'email',
        takes: 'email',
        timeoutMs: 20_000,
        handle: (id) => site.work(id),
      }),
    ];
  }
}

const POOLS: Pool[] = ['registration', 'audit', 'webhooks', 'email'];

/** A process's worth of pools: its own connections, settings watcher and presence. */
interface Process {
  site: Site;
  running: RunningPool[];
  messaging: Messaging;
  pool(name: Pool): RunningPool;
  stop(): Promise<void>;
}

let h: Harness;
let view: PoolView;
const processes: Process[] = [];

async function startProcess(
  env: Partial<Config['concurrency']> = {},
  notified = true,
  own?: Database,
): Promise<Process> {
  const site = new Site();
  const workers = site.workers();
  const database = own ?? h.database;
  const config = { ...h.config, concurrency: { ...h.config.concurrency, ...env } };
  const messaging = new Messaging({
    config,
    database,
    log: h.log,
    commandTypes: checkRegistry(workers),
    metrics: new Registry(),
    name: `process ${randomBytes(2).toString('hex')}`,
  });
  await messaging.start();
  const running = POOLS.map((pool) => createPool(pool, workers, { config, database, messaging, log: h.log }));
  const notices = new Notices({
    publisher: messaging.redis,
    subscriber: messaging.subscriber,
    namespace: config.namespace,
  });
  const watcher = new PoolWatcher({
    database,
    ...(notified ? { notices } : {}),
    pools: running,
    log: h.log,
  });
  const presence = new Presence(messaging, running, { id: newId(), version: '1.2.3' });
  const services: Service[] = [messaging, notices, watcher, ...running.flatMap((p) => p.services), presence];
  for (const service of services) await service.start();
  const failures: string[] = [];
  const it: Process = {
    site,
    running,
    messaging,
    pool: (name) => running.find(({ pool }) => pool === name) as RunningPool,
    async stop() {
      processes.splice(processes.indexOf(it), 1);
      site.release();
      await stopAll(services, 10_000, (service, error) =>
        failures.push(`${service.name}: ${(error as Error).message}`),
      );
      expect(failures).toEqual([]);
    },
  };
  processes.push(it);
  await eventually(() => running.every((pool) => pool.ready()), 'every pool is ready');
  return it;
}

/** Changes a pool as the API does, and says how long ago that was. */
async function change(pool: Pool, to: { concurrency?: number | null; paused?: boolean }, announce = true) {
  await h.messaging.transact(context, (unit) => changePool(unit, pool, to));
  if (announce) await h.messaging.redis.publish(`${h.config.namespace}:revisions`, POOLS_NOTICE);
}

/** Sends a command without waiting for it. */
async function send(): Promise<string> {
  const operationId = ids.issue();
  await h.messaging.commands.send(slow, {}, { ...context, correlationId: operationId }, { operationId, waitMs: 0 });
  return operationId;
}

async function sendChunk(): Promise<void> {
  const { publisher, topology } = h.messaging;
  await publisher.publish({
    exchange: topology.deliveries,
    routingKey: '',
    body: Buffer.from('{}'),
    messageId: newId(),
    type: 'x',
  });
}

const waiting = async (pool: Pool) => (await view.states()).find((state) => state.pool === pool);

beforeAll(async () => {
  h = await createHarness({}, new Site().workers());
  view = new PoolView({ messaging: h.messaging, database: h.database, concurrency: h.config.concurrency });
});
afterEach(async () => {
  for (const process of [...processes]) await process.stop();
  await sql`delete from pool_settings`.execute(h.database.em.fork().getKysely());
});
afterAll(() => h.close());

describe('pausing a pool', () => {
  it('stops every process within 2 s, finishes what is in flight, and goes on afterwards', async () => {
    const [a, b] = [await startProcess({ registration: 2 }), await startProcess({ registration: 2 }, false)];
    for (const { site } of [a, b]) site.hold();
    const first = [await send(), await send(), await send(), await send()];
    await eventually(() => a.site.now === 2 && b.site.now === 2, 'both processes are at work');
    await change('registration', { paused: true });
    await eventually(() => a.pool('registration').paused && b.pool('registration').paused, 'both are paused', 2000);
    for (const { site } of [a, b]) site.release();
    await eventually(() => a.site.handled.length + b.site.handled.length === 4, 'what was in flight is finished');
    const later = await send();
    await eventually(async () => ((await waiting('registration'))?.backlog ?? 0) === 1, 'it waits');
    // Another pool of the same processes goes on meanwhile.
    await sendChunk();
    await eventually(() => [...a.site.handled, ...b.site.handled].includes('chunk'), 'the others go on');
    expect([...a.site.handled, ...b.site.handled]).not.toContain(later);
    expect([a, b].map((process) => process.pool('registration').ready())).toEqual([true, true]);
    await change('registration', { paused: false });
    await eventually(() => [...a.site.handled, ...b.site.handled].includes(later), 'it goes on', 2500);
    const handled = [...a.site.handled, ...b.site.handled].filter((what) => what !== 'chunk');
    expect(handled.toSorted()).toEqual([...first, later].toSorted()); // each once
  });

  it('survives a restart: not one message is taken', async () => {
    await (await startProcess()).stop();
    await change('registration', { paused: true });
    const held = await send();
    const again = await startProcess();
    expect(again.pool('registration')).toMatchObject({ paused: true });
    expect(again.pool('registration').ready()).toBe(true);
    await eventually(async () => (await waiting('registration'))?.workers.length === 1, 'it tells of itself');
    expect(await waiting('registration')).toMatchObject({ paused: true, backlog: 1, in_flight: 0 });
    expect(again.site.handled).toEqual([]);
    await change('registration', { paused: false });
    await eventually(() => again.site.handled.includes(held), 'it goes on', 2500);
  });

  it('stops the alarms too', async () => {
    const process = await startProcess();
    const ring = (id: string) =>
      h.messaging.alarms.set([{ queue: 'email', id, attempt: 0, generation: 0, at: Date.now() }]);
    process.site.hold();
    await ring('row-1');
    await eventually(() => process.site.now === 1, 'the alarm is being answered');
    await change('email', { paused: true });
    await eventually(() => process.pool('email').paused, 'it is paused', 2000);
    await ring('row-2');
    process.site.release();
    await eventually(() => process.site.handled.includes('row-1'), 'what was in flight is finished');
    await eventually(async () => (await h.messaging.alarms.counts('email')).active === 0, 'nothing is active');
    expect((await h.messaging.alarms.counts('email')).waiting).toBe(1);
    expect(process.site.handled).toEqual(['row-1']);
    await change('email', { paused: false });
    await eventually(() => process.site.handled.includes('row-2'), 'it goes on', 3000);
  });

  it('several times in a row ends as it was asked last', async () => {
    const process = await startProcess();
    for (let n = 0; n < 7; n += 1) await change('registration', { paused: n % 2 === 0, concurrency: 1 + n });
    await eventually(() => process.pool('registration').concurrency === 7, 'the last one holds', 2500);
    expect(process.pool('registration').paused).toBe(true);
    const id = await send();
    await change('registration', { paused: false, concurrency: null });
    await eventually(() => process.site.handled.includes(id), 'it works', 2500);
    expect(process.pool('registration').concurrency).toBe(h.config.concurrency.registration);
  });

  it('does not keep a process from stopping', async () => {
    const process = await startProcess();
    await change('registration', { paused: true });
    await eventually(() => process.pool('registration').paused, 'it is paused', 2000);
    const began = performance.now();
    await process.stop();
    expect(performance.now() - began).toBeLessThan(5000);
  });
});

describe('the concurrency of a pool', () => {
  it('changes in every process within 2 s, upwards while its workers are busy, and downwards', async () => {
    const [a, b] = [await startProcess({ registration: 1 }), await startProcess({ registration: 1 }, false)];
    for (const { site } of [a, b]) site.hold();
    for (let n = 0; n < 8; n += 1) await send();
    await eventually(() => a.site.now === 1 && b.site.now === 1, 'one each');
    await change('registration', { concurrency: 3 });
    // What was in flight comes on top until it is finished.
    await eventually(() => a.site.now === 4 && b.site.now === 4, 'three more each', 2500);
    for (const { site } of [a, b]) site.release();
    await eventually(() => a.site.handled.length + b.site.handled.length === 8, 'all are handled');
    await change('registration', { concurrency: 1 });
    await eventually(() => [a, b].every((p) => p.pool('registration').concurrency === 1), 'one again', 2000);
    await eventually(() => [a, b].every((p) => p.pool('registration').ready()), 'both consume');
    for (const { site } of [a, b]) {
      site.most = 0;
      site.hold();
    }
    for (let n = 0; n < 4; n += 1) await send();
    await eventually(() => a.site.now + b.site.now === 2, 'one each');
    for (const { site } of [a, b]) site.release();
    await eventually(() => a.site.handled.length + b.site.handled.length === 12, 'all are handled');
    expect([a.site.most, b.site.most]).toEqual([1, 1]);
  });

  it('counts before what the process was started with, also after a restart', async () => {
    await change('registration', { concurrency: 3 });
    const process = await startProcess({ registration: 1 });
    expect(process.pool('registration').concurrency).toBe(3);
    process.site.hold();
    for (let n = 0; n < 5; n += 1) await send();
    await eventually(() => process.site.now === 3, 'three at once');
    process.site.release();
    await eventually(() => process.site.handled.length === 5, 'all are handled');
    expect(process.site.most).toBe(3);
    await change('registration', { concurrency: null });
    await eventually(() => process.pool('registration').concurrency === 1, 'as it was started', 2000);
  });

  it('bounds alarms, batches and deliveries', async () => {
    const process = await startProcess();
    for (const pool of ['email', 'audit', 'webhooks'] as const) await change(pool, { concurrency: 2 });
    await eventually(() => POOLS.slice(1).every((name) => process.pool(name).concurrency === 2), 'all are set', 2500);
    expect(process.site.resizedTo).toBe(2);
    process.site.hold();
    await h.messaging.alarms.set(
      Array.from({ length: 5 }, (_, n) => ({
        queue: 'email' as const,
        id: `row-${n}`,
        attempt: 0,
        generation: 0,
        at: 0,
      })),
    );
    await eventually(() => process.site.now === 2, 'two alarms');
    process.site.release();
    await eventually(() => process.site.handled.length === 5, 'all are answered');
    expect(process.site.most).toBe(2);
    await eventually(() => process.pool('audit').ready(), 'the audit pool consumes');
    const { publisher, topology } = h.messaging;
    const audit = Array.from({ length: 9 }, () => {
      const id = newId();
      const message = { specversion: '1.0', id, source: 's', type: 't', time: new Date().toISOString(), data: {} };
      return publisher.publish({
        exchange: topology.audit,
        routingKey: '',
        body: Buffer.from(JSON.stringify(message)),
        messageId: id,
        type: 't',
      });
    });
    await Promise.all(audit);
    await eventually(() => process.site.sizes.reduce((x, y) => x + y, 0) === 9, 'all are handled');
    expect(Math.max(...process.site.sizes)).toBe(2);
  });

  it('stays as it is while PostgreSQL is away', async () => {
    const away = await openDatabase(h.config.databaseUrl, { entities: [], poolSize: 2 });
    const process = await startProcess({ registration: 2 }, false, away);
    await change('registration', { concurrency: 5 });
    await eventually(() => process.pool('registration').concurrency === 5, 'it is set', 2500);
    await away.close(true);
    const id = await send();
    await eventually(() => process.site.handled.includes(id), 'it goes on');
    expect(process.pool('registration')).toMatchObject({ concurrency: 5, paused: false });
  });

  it('nothing is taken by a process that cannot know what is paused', async () => {
    await change('registration', { paused: true });
    const away = await openDatabase('postgresql://postgres@127.0.0.1:1/none', { entities: [], poolSize: 1 });
    await send();
    const process = await startProcess({}, false, away);
    expect(process.running.every((pool) => pool.paused)).toBe(true);
    expect((await waiting('registration'))?.backlog).toBe(1);
    await process.stop();
    await away.close(true);
    const heir = await startProcess();
    await change('registration', { paused: false });
    await eventually(() => heir.site.handled.length === 1, 'it is handled then', 2500);
  });
});

describe('the view of the pools', () => {
  it('shows what is set, what waits for how long, and who works', async () => {
    const process = await startProcess();
    const state = await eventually(async () => {
      const found = await waiting('registration');
      return found?.workers.length === 1 ? found : undefined;
    }, 'the process tells of itself');
    expect(state).toEqual({
      pool: 'registration',
      concurrency: h.config.concurrency.registration,
      paused: false,
      backlog: 0,
      oldest_age_ms: 0,
      in_flight: 0,
      dead_letters: 0,
      workers: [
        {
          id: expect.any(String),
          host: expect.any(String),
          pid: expect.any(Number),
          version: '1.2.3',
          in_flight: 0,
          seen_at: expect.stringMatching(/Z$/),
        },
      ],
    });
    expect((await view.states()).map(({ pool }) => pool)).toEqual([
      'registration',
      'kyc',
      'fanout',
      'audit',
      'email',
      'webhooks',
      'housekeeping',
    ]);
    await change('registration', { paused: true, concurrency: 9 });
    await eventually(() => process.pool('registration').paused, 'it is paused', 2000);
    const sentAt = Date.now();
    await send();
    const aged = await eventually(async () => {
      const found = await waiting('registration');
      return (found?.oldest_age_ms ?? 0) > 1500 ? found : undefined;
    }, 'it grows older');
    expect(aged).toMatchObject({ backlog: 1, paused: true, concurrency: 9 });
    // Never younger than it is, and at most a beat and a second older.
    expect(aged?.oldest_age_ms).toBeGreaterThanOrEqual(1500);
    expect(aged?.oldest_age_ms).toBeLessThan(Date.now() - sentAt + 4000);
    await change('registration', { paused: false, concurrency: null });
    expect((await waiting('registration'))?.concurrency).toBe(h.config.concurrency.registration);
    await eventually(async () => (await waiting('registration'))?.oldest_age_ms === 0, 'nothing waits');
  });

  it('counts the age from its first look where nobody watches the queue', async () => {
    const fresh = new PoolView({ messaging: h.messaging, database: h.database, concurrency: h.config.concurrency });
    const age = async () => (await fresh.states()).find(({ pool }) => pool === 'registration')?.oldest_age_ms ?? 0;
    await send();
    const [first, at] = [await age(), performance.now()];
    expect(first).toBeLessThan(1000);
    const second = await eventually(async () => {
      const now = await age();
      return now >= 300 ? now : undefined;
    }, 'it grows');
    expect(second).toBeLessThanOrEqual(performance.now() - at + 1000);
    const heir = await startProcess();
    await eventually(() => heir.site.handled.length === 1, 'it is handled');
    await eventually(async () => (await age()) === 0, 'nothing waits');
  });

  it('takes the age of alarms from the rows that are due', async () => {
    const id = newId();
    await sql`insert into emails (id, message_id, recipient, template, subject, status, next_attempt_at)
      values (${id}, ${`<${id}@test>`}, 'ada@example.org', 'verify-email', 's', 'pending', now() - interval '7 seconds')`.execute(
      h.database.em.fork().getKysely(),
    );
    const age = (await waiting('email'))?.oldest_age_ms ?? 0;
    expect(age).toBeGreaterThanOrEqual(7000);
    expect(age).toBeLessThan(60_000);
    await sql`update emails set lease_until = now() + interval '1 minute' where id = ${id}`.execute(
      h.database.em.fork().getKysely(),
    );
    expect((await waiting('email'))?.oldest_age_ms).toBe(0);
    await sql`delete from emails`.execute(h.database.em.fork().getKysely());
  });
});
