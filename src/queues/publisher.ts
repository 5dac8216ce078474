import amqp, { type ChannelModel, type ConfirmChannel } from 'amqplib';
import { currentTime } from '../services/clock.ts';
import type { Logger } from '../services/logger.ts';
import { pause, withDeadline } from '../services/service.ts';
import type { Broker } from './broker.ts';
import { opened } from './deadline.ts';
import { BrokerUnavailable } from './gateway.ts';
import { HEADERS } from './incoming.ts';

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

class Returned extends Error {
  override message = 'no queue took a message';
}
/** The broker has refused it (`basic.nack`): a queue is full, or could not write it. Some of several queues may have it. */
class Refused extends Error {
  override message = 'RabbitMQ refused a message';
}
class ChannelLost extends Error {
  /** It may have the message. */
  readonly sent: boolean;
  constructor(sent: boolean) {
    super('the channel is lost');
    this.sent = sent;
  }
}

/** A message that must not pass those before it that share a key with it. */
export interface OrderedMessage extends Message {
  /** What its order is kept by: its aggregate, an ordering key. Without any it is published at once. */
  keys: string[];
}

/** A sequence of messages on one channel: open until `broken` says what ended it. */
export class Run {
  channel: Promise<ConfirmChannel> | undefined;
  broken: Error | undefined;
  /** Of each key the message that was given last, while it is not confirmed. */
  readonly unconfirmed = new Map<string, Promise<void>>();
}

const unroutable = (message: Message) => new Unroutable(`no queue takes ${message.type} from ${message.exchange}`);

/** What amqplib calls back with when the broker refuses a message, and not when the channel closes (its channel.js). */
const NACKED = 'message nacked';

/** Bound of unconfirmed publishes per process: 1,000 outstanding reach 45,000/s on a quorum queue, more only queues up. */
const MAX_IN_FLIGHT = 2000;
/** And of their bodies, which lie in memory while the broker does not read: 64 MiB. A larger one goes alone. */
const MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024;

/**
 * Publishes with confirms: persistent, mandatory, many in flight on one channel.
 *
 *   no channel ──connected──► open ──channel or connection closed──► no channel
 *
 * - A message counts as published when the broker confirmed it and did not return it. The broker confirms an
 *   unroutable message too; its `return` arrives first (RabbitMQ docs, "Confirms"), so returns are keyed by message id.
 * - When the channel closes under a publish its outcome is unknown: it is published again with the same id and marked
 *   as a repeat, and what the first one did is not done again.
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
  #declaring: Promise<void> | undefined;
  #inFlight = 0;
  #bytes = 0;
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
    const end = performance.now() + deadlineMs;
    await this.#slot(end, message.body.length);
    let sent = false;
    let declared = false;
    try {
      for (let attempt = 0; ; attempt += 1) {
        const channel = await this.#ready(end);
        if (attempt > 0 && performance.now() >= end)
          throw new BrokerUnavailable('RabbitMQ did not take the message in time');
        try {
          // The broker may have it already: whoever gets the second one looks whether it is dealt with.
          const again = { ...message, headers: { ...message.headers, [HEADERS.repeat]: true } };
          return await this.#once(channel, sent ? again : message, end);
        } catch (error) {
          if (error instanceof Returned) {
            if (declared) throw unroutable(message);
            declared = await this.#declareBy(end);
            if (declared) continue;
          } else if (error instanceof Refused) {
            sent = true;
          } else if (error instanceof ChannelLost) {
            sent ||= error.sent;
            // A missing exchange closes the channel (404) each time: declare it before the next try.
            if (attempt > 0 && this.#broker.connected) await this.#declareBy(end);
          } else throw error;
          await pause(Math.min(50 * 2 ** attempt, 1000, Math.max(0, end - performance.now())));
        }
      }
    } catch (error) {
      if (sent && error instanceof BrokerUnavailable && !error.sent) throw new BrokerUnavailable(error.message, true);
      throw error;
    } finally {
      this.#inFlight -= 1;
      this.#bytes -= message.body.length;
      this.#waiting.shift()?.();
    }
  }

  /**
   * Publishes messages behind those that were given to the same run before, so that those with a key in common arrive
   * in their order: all on the run's one channel, each once, and of a key the next when the one before is confirmed,
   * since a broker may refuse a single message and take those behind it. Different keys do not wait for each other.
   *
   * The first failure breaks the run: what was not handed out by then never is, and its owner begins a new run with what
   * was not confirmed. `deadlineMs` counts for each message from when it is handed out. A message's result rejects with
   * `BrokerUnavailable`, or with `Unroutable` when no queue took it though everything is declared. How much is in flight
   * is for the owner to bound.
   */
  async publishInOrder(
    messages: OrderedMessage[],
    run: Run,
    deadlineMs: number,
  ): Promise<PromiseSettledResult<void>[]> {
    this.#inOrder += messages.length;
    try {
      run.channel ??= this.#ready(performance.now() + deadlineMs);
      const channel = await run.channel.catch((error: Error) => {
        run.broken ??= error;
        return undefined;
      });
      return await Promise.allSettled(messages.map((message) => this.#inTurn(channel, message, run, deadlineMs)));
    } finally {
      this.#inOrder -= messages.length;
    }
  }

  #inTurn(channel: ConfirmChannel | undefined, message: OrderedMessage, run: Run, deadlineMs: number): Promise<void> {
    const before = message.keys.flatMap((key) => run.unconfirmed.get(key) ?? []);
    const next = () => this.#next(channel, message, run, performance.now() + deadlineMs);
    // One that failed has broken the run, so whoever waited for it is told so.
    const published = before.length > 0 ? Promise.allSettled(before).then(next) : next();
    for (const key of message.keys) run.unconfirmed.set(key, published);
    return published.then(() => {
      for (const key of message.keys) if (run.unconfirmed.get(key) === published) run.unconfirmed.delete(key);
    });
  }

  async #next(channel: ConfirmChannel | undefined, message: Message, run: Run, end: number): Promise<void> {
    if (run.broken || !channel) throw new BrokerUnavailable('a message before this one was not published');
    try {
      await this.#once(channel, message, end, (error) => {
        run.broken ??= error;
      });
    } catch (error) {
      if (error instanceof ChannelLost) throw new BrokerUnavailable('the channel to RabbitMQ was lost', error.sent);
      if (error instanceof Refused) throw new BrokerUnavailable(error.message, true);
      if (!(error instanceof Returned)) throw error;
      if (await this.#declareBy(end)) throw unroutable(message);
      throw new BrokerUnavailable('the queues of RabbitMQ cannot be declared');
    }
  }

  /** Whether everything was declared; a broker that fails at it is like a channel that is lost. */
  async #declareBy(end: number): Promise<boolean> {
    try {
      // Of a whole batch that came back each message asks for it.
      this.#declaring ??= this.#declare().finally(() => {
        this.#declaring = undefined;
      });
      await withDeadline(this.#declaring, Math.max(0, end - performance.now()), 'declaring the queues');
      return true;
    } catch (error) {
      this.#log.debug({ error: (error as Error).message }, 'the queues cannot be declared');
      return false;
    }
  }

  async #slot(end: number, bytes: number): Promise<void> {
    while (!this.#fits(bytes)) await this.#until(this.#waiting, end, 'too many messages wait for the broker');
    this.#inFlight += 1;
    this.#bytes += bytes;
    // A large message that is over may have made room for several.
    if (this.#fits(0)) this.#waiting.shift()?.();
  }

  #fits(bytes: number): boolean {
    if (this.#inFlight === 0) return true;
    return this.#inFlight < MAX_IN_FLIGHT && this.#bytes + bytes <= MAX_BYTES_IN_FLIGHT;
  }

  async #ready(end: number): Promise<ConfirmChannel> {
    while (!this.#channel || this.#broker.blockedBy) {
      if (this.#broker.blockedBy) {
        if (performance.now() >= end)
          throw new BrokerUnavailable(`RabbitMQ blocks publishers: ${this.#broker.blockedBy}`);
        await pause(Math.min(100, Math.max(1, end - performance.now())));
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
        Math.max(0, end - performance.now()),
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
        Math.max(0, end - performance.now()),
      );
      const options = {
        persistent: true,
        mandatory: true,
        messageId: message.messageId,
        type: message.type,
        contentType: 'application/json',
        timestamp: Math.floor(currentTime() / 1000),
        headers: message.headers,
      };
      try {
        channel.publish(message.exchange, message.routingKey, message.body, options, (error) => {
          // Without an answer amqplib calls back with an error when the channel closes: the outcome is unknown.
          const returned = this.#returned.delete(message.messageId);
          if (error) reject(error.message === NACKED ? new Refused() : new ChannelLost(true));
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
    const channel = await opened(model.createConfirmChannel(), (late) => late.close());
    channel.on('error', (error: Error) => this.#log.warn({ error: error.message }, 'the publisher channel failed'));
    channel.on('return', (message) => this.#returned.add(String(message.properties.messageId)));
    channel.on('close', () => {
      if (this.#channel !== channel) return;
      this.#dropChannel();
      // Only the channel went, the connection stands: open another one there, or begin with a new connection.
      const current = this.#broker.model;
      if (current) this.#open(current).catch(() => current.close().catch(() => undefined));
    });
    this.#returned.clear();
    this.#channel = channel;
    for (const wake of this.#onOpen.splice(0)) wake();
  }

  #dropChannel(): void {
    this.#channel = undefined;
  }
}
