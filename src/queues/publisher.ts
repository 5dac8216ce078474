import amqp, { type ChannelModel, type ConfirmChannel } from 'amqplib';
import type { Logger } from '../services/logger.ts';
import { pause, withDeadline } from '../services/service.ts';
import type { Broker } from './broker.ts';
import { BrokerUnavailable } from './gateway.ts';

export interface Message {
  exchange: string;
  routingKey: string;
  body: Buffer;
  messageId: string;
  type: string;
  headers?: Record<string, unknown>;
}

/** The broker has no queue for it, also after everything was declared again. */
export class Unroutable extends Error {
  override name = 'Unroutable';
}

class Returned extends Error {}
class ChannelLost extends Error {
  /** It may have the message. */
  readonly sent: boolean;
  constructor(sent: boolean) {
    super('the channel is lost');
    this.sent = sent;
  }
}

/** A sequence of messages on one channel: open until `broken` says what ended it. */
export interface Run {
  channel?: Promise<ConfirmChannel>;
  broken?: Error;
}

const unroutable = (message: Message) => new Unroutable(`no queue takes ${message.type} from ${message.exchange}`);

/** Bound of unconfirmed publishes per process: 1,000 outstanding reach 45,000/s on a quorum queue, more only queues up. */
const MAX_IN_FLIGHT = 2000;

/**
 * Publishes with confirms: persistent, mandatory, many in flight on one channel.
 *
 *   no channel ──connected──► open ──channel or connection closed──► no channel
 *
 * - A message counts as published when the broker confirmed it and did not return it. The broker confirms an
 *   unroutable message too; its `return` arrives first (RabbitMQ docs, "Confirms"), so returns are keyed by message id.
 * - When the channel closes under a publish its outcome is unknown: it is published again with the same id, and the
 *   consumer's inbox makes the second one harmless.
 * - Where order counts, nothing is published again by itself: see `publishInOrder`.
 * - What is in flight is bounded; whoever comes over the bound waits, up to its deadline.
 */
export class Publisher {
  readonly #broker: Broker;
  readonly #log: Logger;
  readonly #declare: () => Promise<void>;
  readonly #returned = new Set<string>();
  readonly #waiting: (() => void)[] = [];
  readonly #onOpen: (() => void)[] = [];
  #channel: ConfirmChannel | undefined;
  #inFlight = 0;
  #inOrder = 0;

  /** `declare` makes the topology anew when a message comes back unroutable. */
  constructor(broker: Broker, declare: () => Promise<void>, log: Logger) {
    this.#broker = broker;
    this.#declare = declare;
    this.#log = log;
    broker.onConnect((model) => this.#open(model));
    broker.on('lost', () => this.#dropChannel());
  }

  get inFlight(): number {
    return this.#inFlight + this.#inOrder;
  }

  /** Whether a publish would start at once. */
  get ready(): boolean {
    return this.#channel !== undefined && this.#broker.blockedBy === undefined;
  }

  /** For good. */
  get stopped(): boolean {
    return this.#broker.stopped;
  }

  /**
   * Resolves when the broker has the message. Throws `BrokerUnavailable` after `deadlineMs` (`sent` when any try of this
   * call may have got through), `Unroutable` when no queue takes it or it cannot be put on the wire.
   */
  async publish(message: Message, deadlineMs = 30_000): Promise<void> {
    const end = Date.now() + deadlineMs;
    await this.#slot(end);
    let sent = false;
    let declared = false;
    try {
      for (let attempt = 0; ; attempt += 1) {
        const channel = await this.#ready(end);
        if (attempt > 0 && Date.now() >= end) throw new BrokerUnavailable('RabbitMQ did not take the message in time');
        try {
          return await this.#once(channel, message, end);
        } catch (error) {
          if (error instanceof Returned) {
            if (declared) throw unroutable(message);
            declared = await this.#declareBy(end);
            if (declared) continue;
          } else if (error instanceof ChannelLost) {
            sent ||= error.sent;
            // A missing exchange closes the channel (404) each time: declare it before the next try.
            if (attempt > 0 && this.#broker.connected) await this.#declareBy(end);
          } else throw error;
          await pause(Math.min(50 * 2 ** attempt, 1000, Math.max(0, end - Date.now())));
        }
      }
    } catch (error) {
      if (sent && error instanceof BrokerUnavailable && !error.sent) throw new BrokerUnavailable(error.message, true);
      throw error;
    } finally {
      this.#inFlight -= 1;
      this.#waiting.shift()?.();
    }
  }

  /**
   * Publishes messages that must arrive in their order, behind those that were given to the same run before: all on the
   * run's one channel and each once. The first that fails breaks the run: what was not handed out by then never is, and
   * its owner begins a new run with the first message that was not confirmed. A message's result rejects with
   * `BrokerUnavailable`, or with `Unroutable` when no queue took it though everything is declared. How much is in flight
   * is for the owner to bound.
   */
  async publishInOrder(messages: Message[], run: Run, deadlineMs: number): Promise<PromiseSettledResult<void>[]> {
    const end = Date.now() + deadlineMs;
    this.#inOrder += messages.length;
    try {
      run.channel ??= this.#ready(end);
      const channel = await run.channel.catch((error: Error) => {
        run.broken ??= error;
        return undefined;
      });
      return await Promise.allSettled(messages.map((message) => this.#next(channel, message, run, end)));
    } finally {
      this.#inOrder -= messages.length;
    }
  }

  async #next(channel: ConfirmChannel | undefined, message: Message, run: Run, end: number): Promise<void> {
    if (run.broken || !channel) throw new BrokerUnavailable('a message before this one was not published');
    try {
      await this.#once(channel, message, end, (error) => {
        run.broken ??= error;
      });
    } catch (error) {
      if (error instanceof ChannelLost) throw new BrokerUnavailable('the channel to RabbitMQ was lost', error.sent);
      if (!(error instanceof Returned)) throw error;
      if (await this.#declareBy(end)) throw unroutable(message);
      throw new BrokerUnavailable('the queues of RabbitMQ cannot be declared');
    }
  }

  /** Whether everything was declared; a broker that fails at it is like a channel that is lost. */
  async #declareBy(end: number): Promise<boolean> {
    try {
      await withDeadline(this.#declare(), Math.max(0, end - Date.now()), 'declaring the queues');
      return true;
    } catch (error) {
      this.#log.debug({ error: (error as Error).message }, 'the queues cannot be declared');
      return false;
    }
  }

  async #slot(end: number): Promise<void> {
    while (this.#inFlight >= MAX_IN_FLIGHT) {
      await this.#until(this.#waiting, end, 'too many messages wait for the broker');
    }
    this.#inFlight += 1;
  }

  async #ready(end: number): Promise<ConfirmChannel> {
    while (!this.#channel || this.#broker.blockedBy) {
      if (this.#broker.blockedBy) {
        if (Date.now() >= end) throw new BrokerUnavailable(`RabbitMQ blocks publishers: ${this.#broker.blockedBy}`);
        await pause(Math.min(100, Math.max(1, end - Date.now())));
      } else {
        await this.#until(this.#onOpen, end, 'RabbitMQ is out of reach');
      }
    }
    return this.#channel;
  }

  #until(list: (() => void)[], end: number, why: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const wake = () => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(
        () => {
          list.splice(list.indexOf(wake), 1);
          reject(new BrokerUnavailable(why));
        },
        Math.max(0, end - Date.now()),
      );
      list.push(wake);
    });
  }

  /** `onFail` is called in the same turn of the event loop in which the failure shows. */
  #once(channel: ConfirmChannel, message: Message, end: number, onFail?: (error: Error) => void): Promise<void> {
    return new Promise((resolve, rejectWith) => {
      const reject = (error: Error) => {
        clearTimeout(timer);
        onFail?.(error);
        rejectWith(error);
      };
      const timer = setTimeout(
        () => reject(new BrokerUnavailable('RabbitMQ did not confirm in time', true)),
        Math.max(0, end - Date.now()),
      );
      const options = {
        persistent: true,
        mandatory: true,
        messageId: message.messageId,
        type: message.type,
        contentType: 'application/json',
        timestamp: Math.floor(Date.now() / 1000),
        headers: message.headers,
      };
      try {
        channel.publish(message.exchange, message.routingKey, message.body, options, (error) => {
          // Without an answer amqplib calls back with an error when the channel closes: the outcome is unknown.
          const returned = this.#returned.delete(message.messageId);
          if (error) reject(new ChannelLost(true));
          else if (returned) reject(new Returned());
          else {
            clearTimeout(timer);
            resolve();
          }
        });
      } catch (error) {
        // A closed channel throws synchronously, and so does what AMQP cannot express.
        if (error instanceof amqp.IllegalOperationError) reject(new ChannelLost(false));
        else reject(new Unroutable(`AMQP cannot carry it: ${(error as Error).message}`));
      }
    });
  }

  async #open(model: ChannelModel): Promise<void> {
    const channel = await model.createConfirmChannel();
    channel.on('error', (error: Error) => this.#log.warn({ error: error.message }, 'the publisher channel failed'));
    channel.on('return', (message) => this.#returned.add(String(message.properties.messageId)));
    channel.on('close', () => {
      if (this.#channel !== channel) return;
      this.#dropChannel();
      // Only the channel went, the connection stands: open another one there.
      const current = this.#broker.model;
      if (current) this.#open(current).catch(() => undefined);
    });
    this.#returned.clear();
    this.#channel = channel;
    for (const wake of this.#onOpen.splice(0)) wake();
  }

  #dropChannel(): void {
    this.#channel = undefined;
  }
}
