import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { type RawBuilder, sql } from 'kysely';
import { Registry } from 'prom-client';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { z } from 'zod';
import { EventTypeDirectory } from '../../src/domain/events/type-directory.ts';
import { newId } from '../../src/domain/ids.ts';
import { event } from '../../src/domain/messages/contracts.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { Messaging } from '../../src/queues/messaging.ts';
import { createPool, type RunningPool } from '../../src/queues/pools.ts';
import { Reconciler } from '../../src/queues/reconcile.ts';
import { Relay } from '../../src/queues/relay.ts';
import { stopAll } from '../../src/services/service.ts';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import { Deliveries } from '../../src/webhooks/delivery.ts';
import { EndpointDirectory } from '../../src/webhooks/directory.ts';
import { createEndpoint, type EndpointWithSecrets } from '../../src/webhooks/endpoints.ts';
import { createSender } from '../../src/webhooks/sender.ts';
import { deliverWebhooks, retryWebhooks } from '../../src/workers/deliver-webhooks.ts';
import { fanOutEvents } from '../../src/workers/fan-out-events.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

export interface Received {
  headers: IncomingHttpHeaders;
  body: string;
  path: string;
  at: number;
}

/** A subscriber: answers by path as `answer` says and remembers everything it got. */
export interface Subscriber {
  url: string;
  received: Received[];
  /** Requests that are not answered yet, and the most there ever were. */
  open: { now: number; most: number };
  close(): Promise<void>;
}

export interface Answer {
  status: number;
  headers?: Record<string, string>;
  delayMs?: number;
}

export async function startSubscriber(
  answer: (request: Received, nth: number) => Answer = () => ({ status: 204 }),
): Promise<Subscriber> {
  const received: Received[] = [];
  const open = { now: 0, most: 0 };
  const server: Server = createServer((request, response) => {
    const parts: Buffer[] = [];
    open.now += 1;
    open.most = Math.max(open.most, open.now);
    response.on('close', () => {
      open.now -= 1;
    });
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const one = {
        headers: request.headers,
        body: Buffer.concat(parts).toString(),
        path: request.url ?? '',
        at: Date.now(),
      };
      received.push(one);
      const { status, headers, delayMs } = answer(one, received.length);
      const reply = () => response.writeHead(status, headers).end();
      if (delayMs) setTimeout(reply, delayMs);
      else reply();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received,
    open,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

export const paid = event('payment.succeeded', z.object({ payment_id: z.string() }).loose());

/** A running webhook engine: fan-out, delivery, retries, relay and reconciler on a namespace of its own. */
export interface Engine extends Harness {
  pools: RunningPool[];
  subscribe(url: string, more?: Record<string, unknown>): Promise<EndpointWithSecrets>;
  /** Publishes an event and returns its id. */
  publish(data?: Record<string, unknown>, id?: string, orderingKey?: string): Promise<string>;
  deliveries(): Promise<DeliveryView[]>;
}

export interface DeliveryView {
  id: string;
  event_id: string;
  endpoint_id: string;
  status: string;
  reason: string | null;
  attempts: number;
  numbers: number[] | null;
}

export async function startEngine(env: Record<string, string> = {}): Promise<Engine> {
  const h = await createHarness({ WEBHOOK_RETRY_SCHEDULE: '1s,1s', ...env });
  const { config, database, keyring, messaging, log } = h;
  const { allow, sender, workers } = compose(h, messaging);
  const { publisher, alarms, topology, wake, redis } = messaging;
  const pools = await h.start(
    workers,
    ['fanout', 'webhooks', 'housekeeping'],
    [
      { name: 'sender', start: async () => undefined, stop: (ms) => sender.close(ms) },
      new Relay({ database, publisher, alarms, topology, wake, log }),
      new Reconciler({ database, redis, alarms, namespace: config.namespace, log }),
    ],
  );
  return {
    ...h,
    pools,
    subscribe: (url, more = {}) =>
      messaging.transact({ requestId: 'test', correlationId: 'test', actor: SYSTEM }, (unit) =>
        createEndpoint(unit, { tenant: 'default', endpoint: { url, ...more } }, { keyring, allow }),
      ),
    async publish(data = {}, id = newId(), orderingKey) {
      await messaging.publishEvent(
        paid,
        { payment_id: 'p1', amount: 1, currency: 'EUR', ...data },
        { requestId: 'test', correlationId: id, actor: SYSTEM },
        { id, tenant: 'default', ...(orderingKey === undefined ? {} : { orderingKey }) },
      );
      return id;
    },
    async deliveries() {
      const { rows } = await sql<DeliveryView>`
        select d.id, d.event_id, d.endpoint_id, d.status, d.reason, d.attempts,
          (select array_agg(a.number order by a.number) from webhook_attempts a where a.delivery_id = d.id) as numbers
        from webhook_deliveries d order by d.created_at, d.id`.execute(database.em.fork().getKysely());
      return rows;
    },
  };
}

/** What one process of the engine is made of. */
function compose({ config, database, keyring, metrics, log }: Harness, messaging: Messaging, own = metrics) {
  const allow = parseAllowNetworks('127.0.0.0/8,::1/128');
  const directory = new EndpointDirectory(database, keyring);
  const sender = createSender({ allow });
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
    metrics: own,
    log,
  });
  const workers = [
    fanOutEvents({ database, messaging, directory, eventTypes: new EventTypeDirectory(database) }),
    deliverWebhooks({ deliveries, concurrency: config.concurrency.webhooks }),
    retryWebhooks({ deliveries }),
  ];
  return { allow, sender, workers };
}

/**
 * An engine for the tests of one file, under `env`, and subscribers for each of them. What a test has subscribed is gone
 * after it; with `failOpen` what it left undelivered is given up as well.
 */
export function engineOfFile({ env, failOpen }: { env?: Record<string, string>; failOpen?: boolean } = {}) {
  const subscribers: Subscriber[] = [];
  let engine: Engine;
  const query = async <T>(text: RawBuilder<T>) => (await text.execute(engine.database.em.fork().getKysely())).rows;
  const reload = () => query(sql`update revisions set revision = revision + 1 where name = 'endpoints'`);
  beforeAll(async () => {
    engine = await startEngine(env);
  });
  afterAll(() => engine.close());
  afterEach(async () => {
    await query(sql`update webhook_endpoints set deleted_at = now()`);
    if (failOpen) await query(sql`update webhook_deliveries set status = 'failed' where status in ('pending', 'held')`);
    await reload();
    for (const one of subscribers.splice(0)) await one.close();
  });
  return {
    /** Once the file's tests have begun. */
    started: () => engine,
    async subscriber(answer?: (request: Received, nth: number) => Answer): Promise<Subscriber> {
      const one = await startSubscriber(answer);
      subscribers.push(one);
      return one;
    },
    query,
    /** Makes every directory look at the endpoints again. */
    reload,
  };
}

/** Another process's share of the engine's work, with connections of its own. `cut` breaks those to RabbitMQ. */
export async function joinEngine(h: Harness): Promise<{ cut(): void; stop(): Promise<void> }> {
  const { config, database, log } = h;
  const metrics = new Registry();
  const messaging = new Messaging({ config, database, log, commandTypes: [], metrics, name: 'second' });
  await messaging.start();
  await messaging.publisherBroker.ready(10_000);
  await messaging.consumerBroker.ready(10_000);
  const { sender, workers } = compose(h, messaging, metrics);
  const pools = (['fanout', 'webhooks'] as const).map((pool) =>
    createPool(pool, workers, { config, database, messaging, log }),
  );
  const services = pools.flatMap((pool) => pool.services);
  for (const service of services) await service.start();
  await eventually(() => pools.every((pool) => pool.ready()), 'the second process consumes');
  return {
    cut: () => cut(messaging),
    async stop() {
      await stopAll(services, 10_000, (service, error) => {
        throw new Error(`${service.name}: ${(error as Error).message}`);
      });
      await sender.close(1000);
      await messaging.stop(5000);
    },
  };
}

/** Breaks the consumers' connection without a word, as a network does. */
export function cut(messaging: Messaging): void {
  const model = messaging.consumerBroker.model as unknown as { connection: { stream: Socket } } | undefined;
  model?.connection.stream.destroy(new Error('cut'));
}
