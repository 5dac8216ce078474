import type { Redis } from 'ioredis';
import { Counter, Histogram, type Registry } from 'prom-client';
import type { Config } from '../config.ts';
import type { Contract } from '../domain/messages/contracts.ts';
import { envelope } from '../domain/messages/contracts.ts';
import type { Transact } from '../domain/messages/emit.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import type { Database } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { closeRedis, connectSoon, createRedis } from '../services/redis.ts';
import { type Service, withDeadline } from '../services/service.ts';
import { Alarms } from './alarms.ts';
import { Broker } from './broker.ts';
import { Completions } from './completion.ts';
import { createTransact } from './outbox.ts';
import { Publisher } from './publisher.ts';
import { type BrokerPool, ORDERED_HEADER, Topology } from './topology.ts';
import { Wake } from './wake.ts';

/** A broker that answers nothing to it is like one that is away. */
const DECLARE_MS = 10_000;

/**
 * One process's hold on both brokers: separate RabbitMQ connections for publishing and consuming (a publisher that is
 * blocked must not stop acknowledgements), Redis clients by temper, and what is built on them.
 */
export class Messaging implements Service {
  readonly name = 'messaging';
  readonly topology: Topology;
  readonly publisherBroker: Broker;
  readonly consumerBroker: Broker;
  readonly publisher: Publisher;
  readonly redis: Redis;
  readonly patientRedis: Redis;
  readonly subscriber: Redis;
  readonly alarms: Alarms;
  readonly wake: Wake;
  readonly commands: Completions;
  readonly transact: Transact;
  readonly #commandTypes: { type: string; pool: BrokerPool }[];
  /** Finished operations that are about to be told, by who waits. */
  readonly #finished = new Map<string, string[]>();
  readonly #handled: Counter<'worker' | 'outcome'>;
  readonly #duration: Histogram<'worker'>;

  constructor(deps: {
    config: Config;
    database: Database;
    log: Logger;
    commandTypes: { type: string; pool: BrokerPool }[];
    metrics: Registry;
    name: string;
  }) {
    const { config, database, log, name } = deps;
    this.#commandTypes = deps.commandTypes;
    this.topology = new Topology(config.namespace);
    this.publisherBroker = new Broker(config.rabbitmqUrl, `${name} publisher`, log);
    this.consumerBroker = new Broker(config.rabbitmqUrl, `${name} consumer`, log);
    this.publisherBroker.onConnect((model) => this.#declareOn(model));
    this.publisher = new Publisher(this.publisherBroker, () => this.declare(), log);
    this.redis = createRedis(config.redisUrl, 'fast', log, `${name} fast`);
    this.patientRedis = createRedis(config.redisUrl, 'patient', log, `${name} jobs`);
    this.subscriber = createRedis(config.redisUrl, 'patient', log, `${name} subscriber`);
    this.alarms = new Alarms(this.redis, config.namespace);
    this.wake = new Wake(this.redis, config.namespace);
    this.commands = new Completions({
      publisher: this.publisher,
      topology: this.topology,
      database,
      subscriber: this.subscriber,
    });
    this.transact = createTransact(database, this.wake.call);
    this.#handled = new Counter({
      name: 'waybill_handled_total',
      help: 'Messages and alarms by worker and outcome.',
      labelNames: ['worker', 'outcome'],
      registers: [deps.metrics],
    });
    this.#duration = new Histogram({
      name: 'waybill_handling_seconds',
      help: 'Time from taking a message to being done with it.',
      labelNames: ['worker'],
      buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30],
      registers: [deps.metrics],
    });
  }

  async start(): Promise<void> {
    for (const client of [this.redis, this.patientRedis, this.subscriber]) connectSoon(client);
    await this.publisherBroker.start();
    await this.consumerBroker.start();
    await this.commands.start();
    this.subscriber.on('message', (channel: string) => {
      if (channel === this.wake.channel) this.wake.here();
    });
    this.subscriber.subscribe(this.wake.channel).catch(() => undefined);
  }

  async stop(deadlineMs: number): Promise<void> {
    await this.commands.stop();
    await this.alarms.close();
    await this.consumerBroker.stop(deadlineMs);
    await this.publisherBroker.stop(deadlineMs);
    await Promise.all([this.redis, this.patientRedis, this.subscriber].map(closeRedis));
  }

  /** Declares the topology on a channel of its own. */
  async declare(): Promise<void> {
    const model = this.publisherBroker.model ?? this.consumerBroker.model;
    if (model) await this.#declareOn(model);
  }

  /** Publishes one event and waits for the broker's confirm. Throws `BrokerUnavailable`. */
  async publishEvent<T>(
    contract: Contract<T>,
    data: T,
    context: RequestContext,
    options: { id: string; tenant: string; subject?: string; orderingKey?: string; checked?: boolean },
    deadlineMs = 1800,
  ): Promise<void> {
    const message = envelope(contract, data, context, options);
    await this.publisher.publish(
      {
        exchange: this.topology.events,
        routingKey: contract.type,
        body: Buffer.from(JSON.stringify(message)),
        messageId: message.id,
        type: contract.type,
        ...(message.orderingkey === undefined ? {} : { headers: ORDERED_HEADER }),
      },
      deadlineMs,
    );
  }

  /** Tells the process that waits for an operation; nobody listening is nobody's loss. One call for all of a turn of the event loop. */
  readonly notify = (replyTo: string, operationId: string): void => {
    if (!replyTo.startsWith(`${this.topology.namespace}:done:`)) return;
    const waiting = this.#finished.get(replyTo);
    if (waiting) {
      waiting.push(operationId);
      return;
    }
    const finished = [operationId];
    this.#finished.set(replyTo, finished);
    setImmediate(() => {
      this.#finished.delete(replyTo);
      if (this.redis.status === 'ready') this.redis.publish(replyTo, finished.join(' ')).catch(() => undefined);
    });
  };

  readonly measure = (worker: string, outcome: string, ms: number): void => {
    this.#handled.inc({ worker, outcome });
    this.#duration.observe({ worker }, ms / 1000);
  };

  async #declareOn(model: NonNullable<Broker['model']>): Promise<void> {
    const declare = async () => {
      const channel = await model.createChannel();
      channel.on('error', () => undefined); // the failed declaration itself rejects
      try {
        await this.topology.declare(channel, this.#commandTypes);
      } finally {
        await channel.close().catch(() => undefined);
      }
    };
    await withDeadline(declare(), DECLARE_MS, 'declaring the queues');
  }
}
