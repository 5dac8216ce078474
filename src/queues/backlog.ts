import { currentTime } from '../services/clock.ts';
import { withDeadline } from '../services/service.ts';
import type { Messaging } from './messaging.ts';
import { BROKER_POOLS, type BrokerPool } from './topology.ts';

const ANSWER_MS = 500;

/**
 * How much waits in the broker's queues, and since when at most.
 *
 * RabbitMQ cannot be asked for the age of a queue's head, and getting a message to look at it counts towards its
 * delivery limit. So the age is bounded from what is known for certain: a queue hands its messages out in order, so
 * whatever waits was published after the message that a worker took last, and after the queue was last seen empty.
 * Every worker process looks at its queues with each beat; the bound is as fine as that beat and the whole seconds of
 * the `timestamp` property, and clocks that differ add to it.
 */
export class Backlog {
  readonly #messaging: Messaging;
  readonly #emptyAt = new Map<BrokerPool, number>();

  constructor(messaging: Messaging) {
    this.#messaging = messaging;
  }

  /** When a queue was last seen empty, in ms since the epoch. */
  emptyAt(pool: BrokerPool): number | undefined {
    return this.#emptyAt.get(pool);
  }

  /** Messages that nobody has taken, by pool. Rejects when the broker does not answer. */
  async look(pools: readonly BrokerPool[] = BROKER_POOLS): Promise<Map<BrokerPool, number>> {
    const waiting = new Map<BrokerPool, number>();
    const model = this.#messaging.publisherBroker.model;
    if (!model || pools.length === 0) return waiting;
    const channel = await withDeadline(model.createChannel(), ANSWER_MS, 'opening a channel');
    channel.on('error', () => undefined);
    try {
      const { topology } = this.#messaging;
      for (const pool of pools) {
        const at = currentTime();
        const queues = [topology.queue(pool), ...(pool === 'fanout' ? [topology.orderedQueue] : [])];
        const checked = Promise.all(queues.map((queue) => channel.checkQueue(queue)));
        const counts = await withDeadline(checked, ANSWER_MS, 'asking for a backlog');
        const messageCount = counts.reduce((sum, queue) => sum + queue.messageCount, 0);
        waiting.set(pool, messageCount);
        if (messageCount === 0) this.#emptyAt.set(pool, at);
      }
    } finally {
      await channel.close().catch(() => undefined);
    }
    return waiting;
  }
}
