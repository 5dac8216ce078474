import type { Pool } from '../config.ts';
import { EventTypeDirectory } from '../domain/events/type-directory.ts';
import { newId } from '../domain/ids.ts';
import { PoolWatcher } from '../queues/pool-settings.ts';
import { checkRegistry, createPool, type RunningPool } from '../queues/pools.ts';
import { Presence } from '../queues/presence.ts';
import { createInbox } from '../services/inbox.ts';
import { createMailer } from '../services/mailer.ts';
import { Notices } from '../services/notices.ts';
import { type Service, together } from '../services/service.ts';
import { parseAllowNetworks } from '../webhooks/addresses.ts';
import { Deliveries } from '../webhooks/delivery.ts';
import { EndpointDirectory } from '../webhooks/directory.ts';
import { createSender } from '../webhooks/sender.ts';
import { COMMANDS } from '../workers/commands.ts';
import { createWorkers } from '../workers/index.ts';
import { housekeepers } from './housekeeping.ts';
import type { Runtime } from './runtime.ts';
import { VERSION } from './version.ts';

/** The pools of one process as services, in the order to start them in; stopping goes the other way. */
export function composePools(pools: Pool[], runtime: Runtime): { services: Service[]; running: RunningPool[] } {
  const { config, database, keyring, messaging, log } = runtime;
  const mailer = createMailer(config, createInbox(messaging.patientRedis, config.namespace));
  const sender = createSender({
    allow: parseAllowNetworks(config.webhookAllowNetworks.join(',')),
    userAgent: `Waybill/${VERSION}`,
    proxy: config.webhookProxyUrl ? { url: config.webhookProxyUrl, resolves: config.webhookProxyResolves } : undefined,
  });
  const directory = new EndpointDirectory(database, keyring);
  const deliveries = new Deliveries({
    database,
    directory,
    sender,
    transact: messaging.transact,
    setAlarms: (alarms) => messaging.alarms.set(alarms),
    concurrency: config.concurrency.webhooks,
    schedule: config.webhookRetrySchedule,
    keyring,
    redis: messaging.redis,
    namespace: config.namespace,
    disableAfterMs: config.webhookDisableAfterMs,
    metrics: runtime.metrics,
    log: log.child({ pool: 'webhooks' }),
  });
  const notices = new Notices({
    publisher: messaging.redis,
    subscriber: messaging.subscriber,
    namespace: config.namespace,
  });
  const eventTypes = new EventTypeDirectory(database, notices);
  const workers = createWorkers({
    eventTypes,
    config,
    database,
    keyring,
    messaging,
    mailer,
    directory,
    deliveries,
  });
  const declared = checkRegistry(workers).map(({ type, pool }) => `${pool} ${type}`);
  const bound = COMMANDS.map(({ type, pool }) => `${pool} ${type}`);
  const differs = declared.find((c) => !bound.includes(c)) ?? bound.find((c) => !declared.includes(c));
  if (differs) throw new Error(`the table of commands and the declared workers differ in "${differs}"`);
  const running = pools.map((pool) => createPool(pool, workers, { config, database, messaging, log }));
  const clients: Service[] = [
    { name: 'mailer', start: async () => undefined, stop: (ms) => mailer.close(ms) },
    { name: 'webhook sender', start: async () => undefined, stop: (ms) => sender.close(ms) },
  ];
  const housekeeping = pools.includes('housekeeping') ? housekeepers(runtime) : [];
  const presence = new Presence(messaging, running, { id: newId(), version: VERSION });
  const watcher = new PoolWatcher({ database, notices, pools: running, log });
  return {
    running,
    services: [
      ...clients,
      // What is paused is known before a pool takes its first message.
      together('pools', [notices, watcher, ...housekeeping, ...running.flatMap((pool) => pool.services), presence]),
    ],
  };
}
