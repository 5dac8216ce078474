import type { Channel } from 'amqplib';
import type { Pool } from '../config.ts';

/** The pools that take messages from RabbitMQ; `email` lives on alarms, and `housekeeping` on timers besides. */
export const BROKER_POOLS = [
  'registration',
  'kyc',
  'fanout',
  'audit',
  'webhooks',
  'housekeeping',
] as const satisfies Pool[];
export type BrokerPool = (typeof BROKER_POOLS)[number];

/** The retry ladder. One queue per tier with a queue-level TTL: a per-message TTL would block behind a longer one. */
export const TIERS = [
  { name: '1s', ms: 1000 },
  { name: '5s', ms: 5000 },
  { name: '30s', ms: 30_000 },
  { name: '5m', ms: 300_000 },
] as const;

/** After this many hand-outs without an answer (a worker that dies on it each time) a message is dead-lettered. */
const DELIVERY_LIMIT = 20;

/** The header of an event with an ordering key. */
export const ORDERED_HEADER = { ordered: 'yes' } as const;

/**
 * Every name on the broker. Queue names end in a version: arguments of a queue cannot be changed, so new arguments
 * are a new name.
 */
export class Topology {
  readonly namespace: string;
  readonly commands: string;
  readonly events: string;
  /** Behind `events`: parts those with an ordering key from the rest, which takes the alternate way. */
  readonly intake: string;
  readonly fanout: string;
  readonly audit: string;
  readonly deliveries: string;
  /** Brings a message straight back to the queue that its routing key names. */
  readonly back: string;
  readonly dead: string;

  constructor(namespace: string) {
    this.namespace = namespace;
    this.commands = `${namespace}.commands`;
    this.events = `${namespace}.events`;
    this.intake = `${namespace}.intake`;
    this.fanout = `${namespace}.fanout`;
    this.audit = `${namespace}.audit`;
    this.deliveries = `${namespace}.deliveries`;
    this.back = `${namespace}.back`;
    this.dead = `${namespace}.dead`;
  }

  queue(pool: BrokerPool): string {
    return `${this.namespace}.${pool}.v1`;
  }

  /** Events with an ordering key: one consumer at a time over all processes takes them, in the order of acceptance. */
  get orderedQueue(): string {
    return `${this.namespace}.ordered.v1`;
  }

  get deadQueue(): string {
    return `${this.namespace}.dead.v1`;
  }

  delay(tier: string): string {
    return `${this.namespace}.delay.${tier}`;
  }

  /** Everything that `declare` makes, for tests and for `waybill doctor`. */
  get everyQueue(): string[] {
    return [
      ...BROKER_POOLS.map((pool) => this.queue(pool)),
      this.orderedQueue,
      this.deadQueue,
      ...TIERS.map((tier) => `${this.delay(tier.name)}.v1`),
    ];
  }

  get everyExchange(): string[] {
    return [
      this.commands,
      this.events,
      this.intake,
      this.fanout,
      this.audit,
      this.deliveries,
      this.back,
      this.dead,
      ...TIERS.map((tier) => this.delay(tier.name)),
    ];
  }

  /** Declares all of it; does nothing where it stands already. `commandTypes` says which pool takes which command. */
  async declare(channel: Channel, commandTypes: { type: string; pool: BrokerPool }[]): Promise<void> {
    await Promise.all([
      channel.assertExchange(this.commands, 'direct'),
      channel.assertExchange(this.events, 'topic'),
      channel.assertExchange(this.intake, 'headers', { alternateExchange: this.fanout }),
      channel.assertExchange(this.fanout, 'fanout'),
      channel.assertExchange(this.audit, 'fanout'),
      channel.assertExchange(this.deliveries, 'fanout'),
      channel.assertExchange(this.back, 'direct'),
      channel.assertExchange(this.dead, 'fanout'),
      ...TIERS.map((tier) => channel.assertExchange(this.delay(tier.name), 'fanout')),
    ]);
    // The broker drops nothing between queues: a dead-lettered copy is confirmed before the original goes.
    const safe = {
      'x-queue-type': 'quorum',
      'x-dead-letter-strategy': 'at-least-once',
      'x-overflow': 'reject-publish',
    };
    await channel.assertQueue(this.deadQueue, {
      durable: true,
      arguments: { 'x-queue-type': 'quorum', 'x-delivery-limit': 1_000_000 },
    });
    await channel.bindQueue(this.deadQueue, this.dead, '');
    for (const tier of TIERS) {
      const queue = `${this.delay(tier.name)}.v1`;
      await channel.assertQueue(queue, {
        durable: true,
        arguments: {
          ...safe,
          'x-message-ttl': tier.ms,
          'x-dead-letter-exchange': this.back,
          'x-delivery-limit': 1_000_000,
        },
      });
      await channel.bindQueue(queue, this.delay(tier.name), '');
    }
    for (const pool of BROKER_POOLS) {
      const queue = this.queue(pool);
      await channel.assertQueue(queue, {
        durable: true,
        arguments: { ...safe, 'x-delivery-limit': DELIVERY_LIMIT, 'x-dead-letter-exchange': this.dead },
      });
      await channel.bindQueue(queue, this.back, queue);
    }
    const { orderedQueue } = this;
    await channel.assertQueue(orderedQueue, {
      durable: true,
      arguments: {
        ...safe,
        'x-delivery-limit': DELIVERY_LIMIT,
        'x-dead-letter-exchange': this.dead,
        'x-single-active-consumer': true,
      },
    });
    await channel.bindQueue(orderedQueue, this.back, orderedQueue);
    await channel.bindQueue(orderedQueue, this.intake, '', { 'x-match': 'all', ...ORDERED_HEADER });
    await channel.bindQueue(this.queue('fanout'), this.fanout, '');
    await channel.bindExchange(this.intake, this.events, '#');
    // Of installations from before there was an order; does nothing where there is no such binding.
    await channel.unbindQueue(this.queue('fanout'), this.events, '#');
    await channel.bindQueue(this.queue('audit'), this.audit, '');
    await channel.bindQueue(this.queue('webhooks'), this.deliveries, '');
    for (const { type, pool } of commandTypes) await channel.bindQueue(this.queue(pool), this.commands, type);
  }

  /** Deletes all of it. For tests and for the demo, which own their namespace. */
  async remove(channel: Channel): Promise<void> {
    for (const queue of this.everyQueue) await channel.deleteQueue(queue);
    for (const exchange of this.everyExchange) await channel.deleteExchange(exchange);
  }
}

/** The tier that holds a message for at least `delayMs`; with jitter sometimes the next longer one, never a shorter. */
export function tierFor(delayMs: number, random: number = Math.random()): (typeof TIERS)[number] {
  const index = TIERS.findIndex((tier) => tier.ms >= delayMs);
  const exact = index === -1 ? TIERS.length - 1 : index;
  const jittered = random < 0.15 && exact < 2 ? exact + 1 : exact;
  return TIERS[jittered] ?? TIERS[3];
}
