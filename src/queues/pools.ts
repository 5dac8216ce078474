import type { Config, Pool } from '../config.ts';
import { type Database, isTransient } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { type Service, withDeadline } from '../services/service.ts';
import { AlarmConsumer } from './alarms.ts';
import { Batcher } from './batch.ts';
import { buryInto } from './burial.ts';
import { Consumer, type Incoming } from './consumer.ts';
import { Detour } from './detour.ts';
import { execute } from './execute.ts';
import { BrokerUnavailable } from './gateway.ts';
import { Group } from './group.ts';
import { attemptsBefore, checkData, mayBeRepeat, Poison, parseJson } from './incoming.ts';
import type { Messaging } from './messaging.ts';
import { OrderedConsumer } from './ordered.ts';
import { BROKER_POOLS, type BrokerPool } from './topology.ts';
import type { AlarmWorker, AnyWorker, BatchWorker, MessageWorker, StreamWorker } from './worker.ts';

export interface PoolDeps {
  config: Config;
  database: Database;
  messaging: Messaging;
  log: Logger;
}

/** A pool at work in this process. */
export interface RunningPool {
  pool: Pool;
  /** Of this process, as it is now. */
  readonly concurrency: number;
  readonly paused: boolean;
  /** What this process was started with. */
  configured: number;
  services: Service[];
  inFlight(): number;
  /** Whether it takes work, or is paused and would; false while its broker is away. */
  ready(): boolean;
  /** When the message that it took last was published, in ms since the epoch. */
  lastPublishedAt(): number | undefined;
  /** Takes on other settings while it runs; what is in flight is finished either way. */
  apply(settings: { concurrency: number; paused: boolean }): Promise<void>;
}

/** A consumer of messages or alarms, and how it follows the concurrency of its pool. */
interface Hand {
  service: Consumer | OrderedConsumer | AlarmConsumer;
  resize(concurrency: number): void | Promise<void>;
}

const isBrokerPool = (pool: Pool): pool is BrokerPool => (BROKER_POOLS as readonly Pool[]).includes(pool);

/** Builds what a pool consists of; the caller starts and stops its services. */
export function createPool(pool: Pool, workers: AnyWorker[], deps: PoolDeps): RunningPool {
  const configured = deps.config.concurrency[pool];
  let concurrency = configured;
  let paused = false;
  const log = deps.log.child({ pool });
  const mine = workers.filter((worker) => worker.pool === pool);
  const hands: Hand[] = [];
  if (isBrokerPool(pool)) hands.push(brokerConsumer(pool, mine, concurrency, { ...deps, log }));
  for (const worker of mine) {
    if (worker.kind === 'alarm') hands.push(alarmConsumer(worker, pool, concurrency, { ...deps, log }));
    if (worker.kind === 'batch' && worker.ordered) hands.push(orderedConsumer(worker, { ...deps, log }));
  }
  const own = hands.map((hand) => hand.service);
  const consumers = own.filter((service): service is Consumer => service instanceof Consumer);
  if (pool === 'housekeeping') hands.push(deadConsumer({ ...deps, log }));
  const services = hands.map((hand) => hand.service);
  return {
    pool,
    get concurrency() {
      return concurrency;
    },
    get paused() {
      return paused;
    },
    configured,
    services,
    inFlight: () => services.reduce((n, service) => n + service.inFlight, 0),
    ready: () => paused || services.every((service) => service instanceof AlarmConsumer || service.consuming),
    lastPublishedAt: () => Math.max(...consumers.map((consumer) => consumer.lastPublishedAt ?? 0), 0) || undefined,
    async apply(next) {
      const before = { concurrency, paused };
      ({ concurrency, paused } = next);
      if (paused && !before.paused) await settled(services.map((service) => service.pause()));
      if (concurrency !== before.concurrency) await settled(hands.map((hand) => hand.resize(concurrency)));
      if (!paused && before.paused) for (const service of services) service.resume();
    },
  };
}

/** A broker that does not answer just now changes nothing: what was asked for holds from its answer on. */
const settled = (changes: (void | Promise<void>)[]): Promise<unknown> =>
  withDeadline(Promise.all(changes), 2000, 'changing a pool').catch(() => undefined);

/** Takes the dead queue into its table. */
function deadConsumer({ messaging, database, log }: PoolDeps): Hand {
  const service = new Consumer(
    messaging.consumerBroker,
    {
      queue: messaging.topology.deadQueue,
      prefetch: 50,
      declare: () => messaging.declare(),
      onMessage: buryInto({ database, notify: messaging.notify, log }),
    },
    log,
  );
  return { service, resize: () => undefined };
}

function brokerConsumer(pool: BrokerPool, workers: AnyWorker[], concurrency: number, deps: PoolDeps): Hand {
  const batch = workers.find((w): w is BatchWorker => w.kind === 'batch');
  if (batch) return batchConsumer(pool, batch, concurrency, deps);
  const stream = workers.find((w): w is StreamWorker => w.kind === 'stream');
  const detour = detourOf(pool, deps);
  if (stream) {
    const service = consumerOf(pool, stream.prefetch, (m) => streamOne(stream, m, detour, deps), deps);
    return { service, resize: (n) => service.setPrefetch(stream.resize?.(n) ?? stream.prefetch) };
  }
  const { messaging, log } = deps;
  const messages = new Map(
    workers.filter((w): w is MessageWorker => w.kind === 'message').map((w) => [w.takes.type, w]),
  );
  const executeDeps = {
    database: deps.database,
    group: new Group({ database: deps.database, wake: messaging.wake.call, log }),
    detour,
    workers: messages,
    notify: messaging.notify,
    wake: messaging.wake.call,
    measure: messaging.measure,
    log,
  };
  const service = consumerOf(pool, concurrency, (m) => execute(m, executeDeps), deps);
  return { service, resize: (n) => service.setPrefetch(n) };
}

/** The concurrency of a pool that takes batches is the most that one batch holds; another batch waits behind those in hand. */
function batchConsumer(pool: BrokerPool, worker: BatchWorker, concurrency: number, deps: PoolDeps): Hand {
  const size = (n: number) => Math.min(worker.batch.size, n);
  const ahead = 1 + (worker.batch.parallel ?? 1);
  const batcher = new Batcher(
    { ...worker, batch: { ...worker.batch, size: size(concurrency) } },
    detourOf(pool, deps),
    deps.messaging.measure,
    deps.log,
  );
  const service = consumerOf(pool, ahead * size(concurrency), (m) => batcher.take(m), deps);
  return {
    service,
    resize(n) {
      batcher.resize(size(n));
      return service.setPrefetch(ahead * size(n));
    },
  };
}

/** Its batches do not follow the concurrency of the pool: one process at a time is at work here. */
function orderedConsumer(worker: BatchWorker, { messaging, log }: PoolDeps): Hand {
  const { orderedQueue } = messaging.topology;
  const service = new OrderedConsumer(
    messaging.consumerBroker,
    {
      queue: orderedQueue,
      worker,
      detour: new Detour(messaging.publisher, messaging.topology, orderedQueue),
      declare: () => messaging.declare(),
    },
    messaging.measure,
    log,
  );
  return { service, resize: () => undefined };
}

const detourOf = (pool: BrokerPool, { messaging }: PoolDeps): Detour =>
  new Detour(messaging.publisher, messaging.topology, messaging.topology.queue(pool));

const consumerOf = (
  pool: BrokerPool,
  prefetch: number,
  onMessage: (message: Incoming) => Promise<void>,
  { messaging, log }: PoolDeps,
): Consumer =>
  new Consumer(
    messaging.consumerBroker,
    { queue: messaging.topology.queue(pool), prefetch, declare: () => messaging.declare(), onMessage },
    log,
  );

/** How often a stream's message is tried before it is buried. */
const STREAM_TRIES = 3;

async function streamOne(worker: StreamWorker, message: Incoming, detour: Detour, deps: PoolDeps): Promise<void> {
  const began = performance.now();
  try {
    const data = checkData(worker.schema, parseJson(message.body), worker.name);
    await worker.handle(data, { redelivered: mayBeRepeat(message), log: deps.log });
    deps.messaging.measure(worker.name, 'done', performance.now() - began);
  } catch (error) {
    const { message: why } = error as Error;
    if (isTransient(error) || error instanceof BrokerUnavailable) {
      deps.log.warn({ error: why }, 'a service is out of reach, trying again');
      await detour.retry(message, 1000, attemptsBefore(message), why); // uses up no attempt
      deps.messaging.measure(worker.name, 'postponed', performance.now() - began);
      return;
    }
    const attempts = attemptsBefore(message) + 1;
    // A fault of the handler may pass, so the message is tried again first; what no try can help is not.
    if (!(error instanceof Poison) && attempts < STREAM_TRIES) {
      deps.log.error({ err: error, message_id: message.messageId, attempt: attempts }, 'the handler failed');
      await detour.retry(message, 1000 * attempts, attempts, why);
      deps.messaging.measure(worker.name, 'retried', performance.now() - began);
      return;
    }
    const reason = error instanceof Poison ? why : `failed ${attempts} times: ${why}`;
    deps.log.warn({ message_id: message.messageId, reason }, 'buried a message that cannot be handled');
    await detour.bury(message, reason, worker.name, attempts);
    deps.messaging.measure(worker.name, 'buried', performance.now() - began);
  }
}

function alarmConsumer(worker: AlarmWorker, pool: Pool, concurrency: number, deps: PoolDeps): Hand {
  const { messaging, config, log } = deps;
  // Alarms share the webhooks pool's slots by a fixed quota, so that a fresh backlog never starves retries.
  const share = (n: number) => (pool === 'webhooks' ? Math.max(1, Math.ceil(n / 4)) : n);
  const service = new AlarmConsumer(
    worker,
    {
      connection: messaging.patientRedis,
      namespace: config.namespace,
      concurrency: share(concurrency),
      measure: messaging.measure,
    },
    log,
  );
  return { service, resize: (n) => service.setConcurrency(share(n)) };
}

/** Refuses two workers of one name or for one message, and a command without a pool on the broker. */
export function checkRegistry(workers: AnyWorker[]): { type: string; pool: BrokerPool }[] {
  const names = new Set<string>();
  const taken = new Map<string, string>();
  const commands: { type: string; pool: BrokerPool }[] = [];
  for (const worker of workers) {
    if (names.has(worker.name)) throw new Error(`two workers are named "${worker.name}"`);
    names.add(worker.name);
    const takes =
      worker.kind === 'message'
        ? `message ${worker.takes.type}`
        : worker.kind === 'alarm'
          ? `alarm ${worker.takes}`
          : `queue of ${worker.pool}`;
    const other = taken.get(takes);
    if (other) throw new Error(`"${worker.name}" and "${other}" both take ${takes}`);
    taken.set(takes, worker.name);
    if (worker.kind !== 'message') continue;
    if (!isBrokerPool(worker.pool))
      throw new Error(`"${worker.name}" takes messages, but the pool ${worker.pool} has no queue on the broker`);
    if (worker.takes.kind === 'command') commands.push({ type: worker.takes.type, pool: worker.pool });
  }
  return commands;
}
