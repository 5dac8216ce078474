import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { Registry } from 'prom-client';
import { inject } from 'vitest';
import { type Config, loadConfig, type Pool } from '../src/config.ts';
import { entities } from '../src/domain/entities.ts';
import { Messaging } from '../src/queues/messaging.ts';
import { checkRegistry, createPool, type RunningPool } from '../src/queues/pools.ts';
import type { AnyWorker } from '../src/queues/worker.ts';
import { type Database, openDatabase } from '../src/services/database.ts';
import { Keyring } from '../src/services/keyring.ts';
import { createLogger, type Logger } from '../src/services/logger.ts';
import type { Service } from '../src/services/service.ts';
import { stopAll } from '../src/services/service.ts';

/** A database of one test file, cloned from the migrated template. */
export async function createTestDatabase(): Promise<{ url: string; drop: () => Promise<void> }> {
  const name = `wb_test_${randomBytes(6).toString('hex')}`;
  const url = new URL(inject('databaseUrl'));
  const admin = async (work: (db: Database) => Promise<unknown>) => {
    const adminUrl = new URL(url);
    adminUrl.pathname = '/postgres';
    const orm = await openDatabase(adminUrl.toString(), { entities: [], poolSize: 1 });
    try {
      await work(orm);
    } finally {
      await orm.close(true);
    }
  };
  // Cloning needs the template to itself for a moment; another file may be cloning it right now.
  await admin(async (orm) => {
    const db = orm.em.fork().getKysely();
    await sql`select pg_advisory_lock(7120099)`.execute(db);
    await sql`create database ${sql.id(name)} template ${sql.id(inject('template'))}`.execute(db);
  });
  url.pathname = `/${name}`;
  return {
    url: url.toString(),
    drop: () =>
      admin((orm) => sql`drop database if exists ${sql.id(name)} with (force)`.execute(orm.em.fork().getKysely())),
  };
}

export interface Harness {
  config: Config;
  database: Database;
  keyring: Keyring;
  messaging: Messaging;
  log: Logger;
  /** Every line logged, as text. */
  logged: string[];
  metrics: Registry;
  start(workers: AnyWorker[], pools: Pool[], more?: Service[]): Promise<RunningPool[]>;
  close(): Promise<void>;
}

/** A namespace, a database and a messaging of one test file's own; `close` removes all of it and fails on leaks. */
export async function createHarness(env: Record<string, string> = {}, workers: AnyWorker[] = []): Promise<Harness> {
  const { url, drop } = await createTestDatabase();
  const directory = mkdtempSync(join(tmpdir(), 'waybill-test-'));
  const config = loadConfig(
    {
      ...process.env,
      NODE_ENV: 'test',
      DATABASE_URL: url,
      NAMESPACE: `wbt-${randomBytes(5).toString('hex')}`,
      RATE_LIMITS: 'off',
      ARGON2_MEMORY_KIB: '1024',
      WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8,::1/128',
      PORT: '0',
      ...env,
    },
    directory,
  );
  const logged: string[] = [];
  const log = createLogger({ level: 'debug', destination: { write: (line: string) => logged.push(line) } });
  const database = await openDatabase(config.databaseUrl, { entities, poolSize: 12 });
  const keyring = new Keyring(config.secretsKey, config.secretsKeyPrevious);
  const metrics = new Registry();
  const messaging = new Messaging({
    config,
    database,
    log,
    commandTypes: checkRegistry(workers),
    metrics,
    name: 'test',
  });
  await messaging.start();
  await messaging.publisherBroker.ready(10_000);
  await messaging.consumerBroker.ready(10_000);
  const running: Service[] = [];
  return {
    config,
    database,
    keyring,
    messaging,
    log,
    logged,
    metrics,
    async start(own, pools, more = []) {
      const created = pools.map((pool) => createPool(pool, own, { config, database, messaging, log }));
      for (const service of [...created.flatMap((p) => p.services), ...more]) {
        running.push(service);
        await service.start();
      }
      await eventually(() => created.every((pool) => pool.ready()), 'every pool consumes');
      return created;
    },
    async close() {
      const failures: unknown[] = [];
      await stopAll(running, 10_000, (service, error) => failures.push(`${service.name}: ${(error as Error).message}`));
      const model = messaging.publisherBroker.model;
      if (model) {
        const channel = await model.createChannel();
        await messaging.topology.remove(channel);
        await channel.close();
      }
      const keys = await messaging.redis.keys(`${config.namespace}:*`);
      if (keys.length > 0) await messaging.redis.del(keys);
      await messaging.stop(5000);
      await database.close(true);
      await drop();
      rmSync(directory, { recursive: true, force: true });
      if (failures.length > 0) throw new Error(`services did not stop: ${failures.join('; ')}`);
    },
  };
}

/** Polls until `check` holds; fails with `what` after `ms`. */
export async function eventually<T>(check: () => T | Promise<T>, what: string, ms = 10_000): Promise<NonNullable<T>> {
  const end = performance.now() + ms;
  for (;;) {
    const value = await check();
    if (value) return value as NonNullable<T>;
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
