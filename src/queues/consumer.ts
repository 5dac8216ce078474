import type { Channel, ConsumeMessage } from 'amqplib';
import type { Logger } from '../services/logger.ts';
import { backoffMs, pause, type Service, withDeadline } from '../services/service.ts';
import type { Broker } from './broker.ts';
import { opened } from './deadline.ts';

/** A message as the broker handed it out. */
export interface Incoming {
  body: Buffer;
  messageId: string;
  type: string;
  redelivered: boolean;
  headers: Record<string, unknown>;
  routingKey: string;
  /** When this process got it, in ms of the monotonic clock. */
  receivedAt: number;
}

export interface ConsumerOptions {
  queue: string;
  prefetch: number;
  /** Resolves when the message is dealt with (it is then acknowledged); a rejection hands it back to the broker. */
  onMessage: (message: Incoming) => Promise<void>;
  /** Declares what the queue needs, before each (re)start of consuming. */
  declare: () => Promise<void>;
}

/** Out-of-order completions that may wait for the oldest one before they are acknowledged one by one. */
const ACK_HOLE_LIMIT = 64;

/**
 * One queue, one channel, supervised.
 *
 *   waiting ──connection there──► consuming ──channel closed, consumer cancelled (a null message), connection lost──► waiting
 *   consuming ──another prefetch──► waiting
 *   waiting | consuming ──pause──► paused ──resume──► waiting
 *       any ──stop──► draining ──nothing in flight──► stopped
 *
 * amqplib recovers neither a closed channel nor a cancelled consumer; here every way out of `consuming` leads back to
 * it, with jittered backoff where it was not wanted. A line that is left on purpose is retired: it takes nothing new,
 * finishes and acknowledges what it holds on its own channel, and closes it after the last, while a new line may
 * consume already (a channel's prefetch counts for consumers that begin after it was set). Acknowledgements are grouped
 * (`multiple`) over the oldest run of finished messages: single ones cost a quarter of the rate. Those of an older
 * channel are dropped, the broker has handed the messages out again. Only `#supervise` sets `#line`, and `#retire`
 * takes it away.
 */
export class Consumer implements Service {
  readonly name: string;
  readonly #broker: Broker;
  readonly #options: ConsumerOptions;
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  /** Every open line: the one that consumes, and retired ones that still hold messages. */
  readonly #lines = new Set<Line>();
  #line: Line | undefined;
  /** The next line on its way; it retires by itself when it was not wanted any more. */
  #opening: Promise<Line> | undefined;
  #prefetch: number;
  #paused = false;
  /** A retired line's successor is on its way. */
  #swapping = false;
  #wake: () => void = () => undefined;
  #running: Promise<void> | undefined;
  #inFlight = 0;
  #lastPublishedAt: number | undefined;
  #idle: (() => void)[] = [];

  constructor(broker: Broker, options: ConsumerOptions, log: Logger) {
    this.name = `consumer of ${options.queue}`;
    this.#broker = broker;
    this.#options = options;
    this.#prefetch = options.prefetch;
    this.#log = log.child({ queue: options.queue });
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get consuming(): boolean {
    return this.#line !== undefined || this.#swapping;
  }

  /** When the message that came last was published, in ms since the epoch, by its `timestamp` (whole seconds). */
  get lastPublishedAt(): number | undefined {
    return this.#lastPublishedAt;
  }

  /** Takes nothing new until `resume`; resolves once that holds. What is in flight is finished and acknowledged. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#leave();
  }

  resume(): void {
    this.#paused = false;
    this.#wake();
  }

  /** Messages in flight at once from now on; those of before come on top until they are finished. */
  async setPrefetch(prefetch: number): Promise<void> {
    if (prefetch === this.#prefetch) return;
    this.#prefetch = prefetch;
    await this.#leave();
  }

  async start(): Promise<void> {
    this.#running ??= this.#supervise();
  }

  async stop(deadlineMs: number): Promise<void> {
    const end = performance.now() + deadlineMs;
    this.#stopping.abort();
    this.#wake();
    // A connection that is half dead answers neither; it gets no more than its share of the time.
    const bounded = (work: Promise<unknown>, ms: number) => withDeadline(work, ms, this.name).catch(() => undefined);
    await bounded(Promise.all([...this.#lines].map((line) => line.cancel())), deadlineMs / 2);
    while (this.#inFlight > 0 && performance.now() < end) {
      await Promise.race([new Promise<void>((resolve) => this.#idle.push(resolve)), pause(end - performance.now())]);
    }
    const left = Math.max(50, Math.min(end - performance.now(), 2000));
    const closed = Promise.all([...this.#lines].map((line) => line.close())).then(() => this.#running);
    await bounded(closed, left);
    for (const line of this.#lines) line.abandon();
  }

  async #supervise(): Promise<void> {
    let failures = 0;
    while (!this.#stopping.signal.aborted) {
      if (this.#paused) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      let left: 'lost' | 'retired' = 'lost';
      try {
        await this.#broker.ready(5000);
        await this.#options.declare();
        if (this.#paused) {
          this.#swapping = false;
          continue;
        }
        this.#opening = this.#open(this.#prefetch);
        const line = await this.#opening;
        failures = 0;
        if (this.#stopping.signal.aborted) {
          // `stop` came before there was a line and so has not closed it; what was just handed out goes back.
          await line.cancel();
          await line.close();
        }
        left = await line.left;
      } catch (error) {
        failures += 1;
        if (failures === 3) this.#log.warn({ error: (error as Error).message }, 'cannot consume yet');
        this.#swapping = false;
      }
      if (left === 'retired') continue;
      this.#line = undefined;
      if (this.#stopping.signal.aborted) return;
      await pause(backoffMs(failures, 50, 2000), this.#stopping.signal);
    }
  }

  async #open(prefetch: number): Promise<Line> {
    const options = { queue: this.#options.queue, prefetch };
    const line = await opened(
      Line.open(this.#broker, options, (...message) => this.#take(...message), this.#log),
      (late) => late.close(),
    );
    this.#lines.add(line);
    line.over.then(() => this.#lines.delete(line));
    this.#line = line;
    this.#swapping = false;
    // What was asked for while the line was being opened.
    if (this.#paused || prefetch !== this.#prefetch) await this.#retire();
    return line;
  }

  /** Resolves when neither the present line nor one that was just being opened takes anything new. */
  async #leave(): Promise<void> {
    await this.#retire();
    await this.#opening?.catch(() => undefined);
  }

  async #retire(): Promise<void> {
    const line = this.#line;
    if (!line || this.#stopping.signal.aborted) return;
    this.#line = undefined;
    this.#swapping = !this.#paused;
    await line.retire();
  }

  async #take(message: Incoming, publishedAt: number | undefined): Promise<void> {
    this.#inFlight += 1;
    if (publishedAt !== undefined) this.#lastPublishedAt = publishedAt;
    try {
      await this.#options.onMessage(message);
    } finally {
      this.#inFlight -= 1;
      if (this.#inFlight === 0) for (const wake of this.#idle.splice(0)) wake();
    }
  }
}

type Take = (message: Incoming, publishedAt: number | undefined) => Promise<void>;

/**
 * One channel's life as a consumer, with its own book of unacknowledged tags.
 *
 *   consuming ──cancel──► cancelled ──close──► over
 *   consuming ──retire──► retiring ──cancelled, and the book is empty──► over
 *        any ──channel closed, connection lost──► over
 */
class Line {
  readonly over: Promise<void>;
  /** How it ceased to be the line that consumes. */
  readonly left: Promise<'lost' | 'retired'>;
  readonly #channel: Channel;
  readonly #log: Logger;
  #consumerTag = '';
  #open = true;
  #retiring = false;
  #cancelled = false;
  #closing: Promise<void> | undefined;
  #leave: (how: 'lost' | 'retired') => void = () => undefined;
  /** Delivery tags in the order they came; `true` when finished. */
  readonly #book = new Map<number, boolean>();
  #finished = 0;
  #flushing = false;

  private constructor(channel: Channel, log: Logger) {
    this.#channel = channel;
    this.#log = log;
    this.left = new Promise((resolve) => {
      this.#leave = resolve;
    });
    this.over = new Promise((resolve) => {
      channel.on('close', () => {
        this.#open = false;
        this.#leave('lost');
        resolve();
      });
    });
    channel.on('error', (error: Error) => this.#log.warn({ error: error.message }, 'the consumer channel failed'));
  }

  static async open(
    broker: Broker,
    options: Pick<ConsumerOptions, 'queue' | 'prefetch'>,
    take: Take,
    log: Logger,
  ): Promise<Line> {
    const model = broker.model;
    if (!model) throw new Error('not connected');
    const line = new Line(await model.createChannel(), log);
    await line.#channel.prefetch(options.prefetch);
    const { consumerTag } = await line.#channel.consume(options.queue, (message) => {
      if (message) line.#deliver(message, take);
      else line.#channel.close().catch(() => undefined); // cancelled by the broker: the queue is gone
    });
    line.#consumerTag = consumerTag;
    return line;
  }

  /** Takes nothing new; what is in flight can still be acknowledged. */
  async cancel(): Promise<void> {
    if (this.#open) await this.#channel.cancel(this.#consumerTag).catch(() => undefined);
  }

  /** Takes nothing new, resolves once that holds, and closes by itself after the last message is settled. */
  async retire(): Promise<void> {
    this.#retiring = true;
    this.#leave('retired');
    await this.cancel();
    this.#cancelled = true;
    this.#closeWhenDone();
  }

  async close(): Promise<void> {
    this.#flush();
    await this.#end();
  }

  /** Without the broker's answer. */
  abandon(): void {
    this.#open = false;
    this.#leave('lost');
  }

  #end(): Promise<void> {
    this.#closing ??= this.#open ? this.#channel.close().catch(() => undefined) : Promise.resolve();
    return this.#closing;
  }

  #closeWhenDone(): void {
    if (this.#retiring && this.#cancelled && this.#book.size === 0) void this.#end();
  }

  #deliver(message: ConsumeMessage, take: Take): void {
    const tag = message.fields.deliveryTag;
    this.#book.set(tag, false);
    const incoming: Incoming = {
      body: message.content,
      messageId: String(message.properties.messageId ?? ''),
      type: String(message.properties.type ?? ''),
      redelivered: message.fields.redelivered,
      headers: message.properties.headers ?? {},
      routingKey: message.fields.routingKey,
      receivedAt: performance.now(),
    };
    const { timestamp } = message.properties;
    take(incoming, typeof timestamp === 'number' ? timestamp * 1000 : undefined).then(
      () => this.#settle(tag),
      (error: Error) => this.#handBack(tag, error),
    );
  }

  #settle(tag: number): void {
    this.#book.set(tag, true);
    this.#finished += 1;
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => this.#flush());
  }

  #flush(): void {
    this.#flushing = false;
    let last: number | undefined;
    for (const [tag, finished] of this.#book) {
      if (!finished) break;
      last = tag;
      this.#book.delete(tag);
      this.#finished -= 1;
    }
    if (last !== undefined) this.#ack(last, true);
    if (this.#finished > ACK_HOLE_LIMIT) this.#flushBehindHole();
    this.#closeWhenDone();
  }

  #flushBehindHole(): void {
    for (const [tag, finished] of this.#book) {
      if (!finished) continue;
      this.#book.delete(tag);
      this.#finished -= 1;
      this.#ack(tag, false);
    }
  }

  #ack(tag: number, upTo: boolean): void {
    if (!this.#open) return;
    try {
      this.#channel.ack({ fields: { deliveryTag: tag } } as ConsumeMessage, upTo);
    } catch {
      this.#open = false; // a closed channel throws synchronously; the broker hands the message out again
    }
  }

  /** Last resort, when not even a copy could be published: a short wait, then the broker hands it out again. */
  async #handBack(tag: number, error: Error): Promise<void> {
    this.#log.error({ error: error.message }, 'a message is handed back to the broker');
    await pause(1000);
    if (!this.#book.delete(tag) || !this.#open) return;
    try {
      this.#channel.reject({ fields: { deliveryTag: tag } } as ConsumeMessage, true);
    } catch {
      this.#open = false;
    }
    this.#closeWhenDone();
  }
}
