import type { Channel, ConsumeMessage } from 'amqplib';
import type { Logger } from '../services/logger.ts';
import { backoffMs, pause, type Service, withDeadline } from '../services/service.ts';
import { isPassing, itemOf } from './batch.ts';
import type { Broker } from './broker.ts';
import type { Incoming } from './consumer.ts';
import { opened, within } from './deadline.ts';
import type { Detour } from './detour.ts';
import { Poison } from './incoming.ts';
import type { BatchItem, BatchWorker } from './worker.ts';

/** Tries of a batch of one message that fails on its data, before the message is buried. */
const MAX_TRIES = 3;

/**
 * Takes the messages of a single-active-consumer queue in batches, strictly in their order.
 *
 *   waiting ──connection there──► consuming (active, or standing by for another process) ──channel closed──► waiting
 *   waiting | consuming ──pause──► paused ──resume──► waiting
 *       any ──stop──► stopped
 *
 * Nothing leaves its place: a batch that fails is repeated where it is, never sent through the delay queues, and a
 * message is handled only after everything before it is committed or buried. The consumer is never cancelled: the
 * broker would make another process active while this one still holds messages. Instead the batch at hand is finished
 * and acknowledged, and the channel closed, whereupon the broker hands what was not acknowledged to the next process, in
 * order. A process whose connection broke meanwhile may finish its batch beside its successor, who begins with the same
 * messages: the handler must drop what is stored already.
 */
export class OrderedConsumer implements Service {
  readonly name: string;
  readonly #broker: Broker;
  readonly #options: { queue: string; worker: BatchWorker; detour: Detour; declare: () => Promise<void> };
  readonly #measure: (worker: string, outcome: string, ms: number) => void;
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  #line: OrderedLine | undefined;
  #paused = false;
  #wake: () => void = () => undefined;
  #running: Promise<void> | undefined;

  constructor(
    broker: Broker,
    options: { queue: string; worker: BatchWorker; detour: Detour; declare: () => Promise<void> },
    measure: (worker: string, outcome: string, ms: number) => void,
    log: Logger,
  ) {
    this.name = `ordered consumer of ${options.queue}`;
    this.#broker = broker;
    this.#options = options;
    this.#measure = measure;
    this.#log = log.child({ queue: options.queue, worker: options.worker.name });
  }

  get inFlight(): number {
    return this.#line?.atHand ?? 0;
  }

  /** Also true for a process that stands by. */
  get consuming(): boolean {
    return this.#line !== undefined;
  }

  async start(): Promise<void> {
    this.#running ??= this.#supervise();
  }

  /** Resolves when the batch at hand is committed; another process may then be active. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#line?.close();
  }

  resume(): void {
    this.#paused = false;
    this.#wake();
  }

  async stop(deadlineMs: number): Promise<void> {
    this.#stopping.abort();
    this.#wake();
    const line = this.#line;
    if (line) await withDeadline(line.close(), deadlineMs, this.name).catch(() => line.abandon());
    await withDeadline(this.#running ?? Promise.resolve(), 500, this.name).catch(() => undefined);
  }

  async #supervise(): Promise<void> {
    for (let failures = 0; !this.#stopping.signal.aborted; ) {
      if (this.#paused) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      let line: OrderedLine | undefined;
      try {
        await this.#broker.ready(5000);
        await this.#options.declare();
        line = await opened(OrderedLine.open(this.#broker, this.#options), (late) => late.close());
        this.#line = line;
        failures = 0;
        if (this.#stopping.signal.aborted || this.#paused) await line.close();
        await this.#work(line);
      } catch (error) {
        failures += 1;
        if (failures === 3) this.#log.warn({ error: (error as Error).message }, 'cannot consume yet');
      } finally {
        await line?.abandon(); // left open, it would stay the active consumer that handles nothing
      }
      this.#line = undefined;
      if (!this.#stopping.signal.aborted) await pause(backoffMs(failures, 50, 2000), this.#stopping.signal);
    }
  }

  async #work(line: OrderedLine): Promise<void> {
    for (;;) {
      const messages = await line.next(this.#options.worker.batch);
      if (messages === undefined) return;
      await this.#handle(line, await this.#readable(line, messages));
      line.done();
    }
  }

  /** What cannot be read is buried at once; the rest is returned in its order. */
  async #readable(line: OrderedLine, messages: Incoming[]): Promise<{ message: Incoming; item: BatchItem<unknown> }[]> {
    const entries: { message: Incoming; item: BatchItem<unknown> }[] = [];
    for (const message of messages) {
      try {
        entries.push({ message, item: await itemOf(this.#options.worker, message) });
      } catch (error) {
        if (!(error instanceof Poison)) throw error;
        await this.#bury(line, message, error.message);
      }
    }
    return entries;
  }

  /** Resolves when every entry is handled or buried, or when the line is over. */
  async #handle(line: OrderedLine, entries: { message: Incoming; item: BatchItem<unknown> }[]): Promise<void> {
    const { worker } = this.#options;
    const [first] = entries;
    if (!first) return;
    const began = performance.now();
    for (let tries = 1; !line.broken; tries += 1) {
      try {
        await within(worker.timeoutMs, worker.name, () =>
          worker.handle(
            entries.map((entry) => entry.item),
            this.#log,
          ),
        );
        this.#measure(worker.name, 'done', performance.now() - began);
        return;
      } catch (error) {
        for (const entry of entries) entry.item.redelivered = true; // what the failed try did get through is not known
        const { message } = error as Error;
        if (isPassing(error)) {
          if (tries === 1)
            this.#log.warn({ error: message, size: entries.length }, 'a service is out of reach, the batch waits');
        } else if (entries.length > 1) {
          const middle = entries.length >> 1;
          await this.#handle(line, entries.slice(0, middle));
          return this.#handle(line, entries.slice(middle));
        } else {
          this.#log.error({ err: error, message_id: first.message.messageId }, 'the handler failed on this message');
          if (tries >= MAX_TRIES) return this.#bury(line, first.message, `failed ${tries} times: ${message}`, tries);
        }
        await pause(backoffMs(tries, 200, 2000), line.brokenSignal);
      }
    }
  }

  /** Until the copy is confirmed. */
  async #bury(line: OrderedLine, message: Incoming, reason: string, tries = 1): Promise<void> {
    const { detour, worker } = this.#options;
    this.#log.warn({ message_id: message.messageId, reason }, 'buried a message that cannot be handled');
    this.#measure(worker.name, 'buried', 0);
    for (let n = 1; !line.broken; n += 1) {
      try {
        return await detour.bury(message, reason, worker.name, tries);
      } catch {
        await pause(backoffMs(n, 200, 2000), line.brokenSignal);
      }
    }
  }
}

/** One channel's life. What it holds is either at hand, the batch being handled, or waits in the order it came. */
class OrderedLine {
  readonly #channel: Channel;
  readonly #waiting: (Incoming & { tag: number })[] = [];
  readonly #broken = new AbortController();
  #lastTag: number | undefined;
  #closing = false;
  #wake: () => void = () => undefined;
  #handled: () => void = () => undefined;
  atHand = 0;

  private constructor(channel: Channel) {
    this.#channel = channel;
    channel.on('error', () => undefined); // `close` follows
    channel.on('close', () => {
      this.#broken.abort();
      this.#wake();
    });
  }

  static async open(broker: Broker, { queue, worker }: { queue: string; worker: BatchWorker }): Promise<OrderedLine> {
    const model = broker.model;
    if (!model) throw new Error('not connected');
    const line = new OrderedLine(await model.createChannel());
    await line.#channel.prefetch(2 * worker.batch.size);
    await line.#channel.consume(queue, (message) => {
      if (message) line.#take(message);
      else line.#channel.close().catch(() => undefined); // cancelled by the broker: the queue is gone
    });
    return line;
  }

  /** The channel is gone, so the broker has handed out again what was not acknowledged. */
  get broken(): boolean {
    return this.#broken.signal.aborted;
  }

  get brokenSignal(): AbortSignal {
    return this.#broken.signal;
  }

  /** The next messages, at most `size`, once the first is `waitMs` old; `undefined` when there will be none. */
  async next({ size, waitMs }: { size: number; waitMs: number }): Promise<Incoming[] | undefined> {
    while (this.#waiting.length === 0 && !this.broken && !this.#closing) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#waiting.length > 0 && this.#waiting.length < size) await pause(waitMs, this.#broken.signal);
    if (this.broken || this.#closing) return undefined;
    const messages = this.#waiting.splice(0, size);
    this.#lastTag = messages.at(-1)?.tag;
    this.atHand = messages.length;
    return messages;
  }

  /** Acknowledges what is at hand. */
  done(): void {
    this.atHand = 0;
    if (this.#lastTag !== undefined && !this.broken) {
      try {
        this.#channel.ack({ fields: { deliveryTag: this.#lastTag } } as ConsumeMessage, true);
      } catch {
        this.#broken.abort(); // a closed channel throws synchronously
      }
    }
    this.#handled();
  }

  /** After the batch at hand. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#wake();
    if (this.atHand > 0 && !this.broken) {
      await new Promise<void>((resolve) => {
        this.#handled = resolve;
        this.#broken.signal.addEventListener('abort', () => resolve(), { once: true });
      });
    }
    await this.abandon();
  }

  /** At once; the batch at hand may still be committed, and is then dropped where it is handed out again. */
  async abandon(): Promise<void> {
    this.#broken.abort();
    try {
      await withDeadline(this.#channel.close(), 500, 'closing a channel');
    } catch {
      // it was closed already
    }
  }

  #take(message: ConsumeMessage): void {
    const { messageId, type, headers } = message.properties;
    this.#waiting.push({
      body: message.content,
      messageId: String(messageId ?? ''),
      type: String(type ?? ''),
      redelivered: message.fields.redelivered,
      headers: headers ?? {},
      routingKey: message.fields.routingKey,
      receivedAt: performance.now(),
      tag: message.fields.deliveryTag,
    });
    this.#wake();
  }
}
