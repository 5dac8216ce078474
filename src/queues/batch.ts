import type { Envelope } from '../domain/messages/envelope.ts';
import { isTransient } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { backoffMs, pause, TimeoutError } from '../services/service.ts';
import type { Incoming } from './consumer.ts';
import { within } from './deadline.ts';
import type { Detour } from './detour.ts';
import { BrokerUnavailable } from './gateway.ts';
import { attemptsBefore, checkData, decodeEnvelope, mayBeRepeat, Poison } from './incoming.ts';
import type { BatchItem, BatchWorker } from './worker.ts';

/** Tries of a batch before its messages take the way through the delay queues. */
const PATIENCE = 60;

interface Entry {
  message: Incoming;
  item: BatchItem<unknown>;
  settle: (error?: Error) => void;
}

/**
 * Takes messages together.
 *
 *   empty ──first message──► filling ──`size` reached, or `waitMs` over──► handling ──► empty | filling
 *
 * At most `parallel` batches are handled at a time, one unless the worker says more: while one waits for its commit the
 * next is prepared.
 *
 * A batch that fails on its data is bisected in fresh transactions down to the culprit, which alone is buried; a
 * connection error, and a batch that outlasts `timeoutMs`, repeat the whole batch with backoff. A message is acknowledged when its batch is committed.
 */
export class Batcher {
  readonly #worker: BatchWorker;
  readonly #detour: Detour;
  readonly #log: Logger;
  readonly #measure: (worker: string, outcome: string, ms: number) => void;
  readonly #parallel: number;
  readonly #patience: number;
  #size: number;
  #filling: Entry[] = [];
  #timer: NodeJS.Timeout | undefined;
  #handling = 0;

  constructor(
    worker: BatchWorker,
    detour: Detour,
    measure: (worker: string, outcome: string, ms: number) => void,
    log: Logger,
    patience = PATIENCE,
  ) {
    this.#worker = worker;
    this.#patience = patience;
    this.#size = worker.batch.size;
    this.#parallel = worker.batch.parallel ?? 1;
    this.#detour = detour;
    this.#measure = measure;
    this.#log = log.child({ worker: worker.name });
  }

  /** The most that are handled together, from the next batch on. */
  resize(size: number): void {
    this.#size = size;
    this.#arm();
  }

  /** Resolves when the message is dealt with. */
  async take(message: Incoming): Promise<void> {
    let item: BatchItem<unknown>;
    try {
      item = await itemOf(this.#worker, message);
    } catch (error) {
      if (!(error instanceof Poison)) throw error;
      this.#log.warn(
        { message_id: message.messageId, reason: error.message },
        'buried a message that cannot be handled',
      );
      return this.#detour.bury(message, error.message, this.#worker.name);
    }
    await new Promise<void>((resolve, reject) => {
      this.#filling.push({ message, item, settle: (error) => (error ? reject(error) : resolve()) });
      this.#arm();
    });
  }

  #arm(): void {
    if (this.#handling >= this.#parallel || this.#filling.length === 0) return;
    if (this.#filling.length >= this.#size) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      void this.#run();
    } else {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        if (this.#handling < this.#parallel) void this.#run();
      }, this.#worker.batch.waitMs);
    }
  }

  async #run(): Promise<void> {
    this.#handling += 1;
    const entries = this.#filling.splice(0, this.#size);
    this.#arm(); // what is left over may start at once
    await this.#handle(entries);
    this.#handling -= 1;
    this.#arm();
  }

  /** Deals with every entry, whatever happens; never rejects. */
  async #handle(entries: Entry[]): Promise<void> {
    if (entries.length === 0) return;
    const began = performance.now();
    for (let tries = 0; ; tries += 1) {
      try {
        await within(this.#worker.timeoutMs, this.#worker.name, () =>
          this.#worker.handle(
            entries.map((entry) => entry.item),
            this.#log,
          ),
        );
        for (const entry of entries) entry.settle();
        this.#measure(this.#worker.name, 'done', performance.now() - began);
        return;
      } catch (error) {
        // What the failed try did get through is not known: whatever comes next is a repeat.
        for (const entry of entries) entry.item.redelivered = true;
        if (!isPassing(error)) return this.#bisect(entries, error as Error);
        if (tries === 0)
          this.#log.warn(
            { error: (error as Error).message, size: entries.length },
            'a service is out of reach, the batch waits',
          );
        // About two minutes: another process may do better. To hand it back would count against the delivery limit.
        if (tries >= this.#patience) return this.#postpone(entries, (error as Error).message);
        await pause(backoffMs(tries, 200, 2000));
      }
    }
  }

  /** Uses up no attempt. */
  async #postpone(entries: Entry[], why: string): Promise<void> {
    this.#measure(this.#worker.name, 'postponed', 0);
    await Promise.all(
      entries.map((entry) =>
        this.#detour.retry(entry.message, 1000, attemptsBefore(entry.message), why).then(
          () => entry.settle(),
          (failure: Error) => entry.settle(failure),
        ),
      ),
    );
  }

  async #bisect(entries: Entry[], error: Error): Promise<void> {
    if (entries.length > 1) {
      const middle = entries.length >> 1;
      await this.#handle(entries.slice(0, middle));
      await this.#handle(entries.slice(middle));
      return;
    }
    const [entry] = entries;
    if (!entry) return;
    this.#log.error({ err: error, message_id: entry.message.messageId }, 'the handler failed on this message');
    this.#measure(this.#worker.name, 'buried', 0);
    const attempts = attemptsBefore(entry.message) + 1;
    // A fault of the handler may pass (a deadlock, a bug mended by the next version), so the message is tried again first.
    const next =
      attempts < 3
        ? this.#detour.retry(entry.message, 1000 * attempts, attempts, error.message)
        : this.#detour.bury(entry.message, `failed ${attempts} times: ${error.message}`, this.#worker.name, attempts);
    await next.then(
      () => entry.settle(),
      (failure: Error) => entry.settle(failure),
    );
  }
}

/** What is not the messages' fault: a service is out of reach, or does not answer in time. */
export const isPassing = (error: unknown): boolean =>
  isTransient(error) || error instanceof BrokerUnavailable || error instanceof TimeoutError;

/** Bytes → what a batch worker takes. Throws `Poison`. */
export async function itemOf(worker: BatchWorker, message: Incoming): Promise<BatchItem<unknown>> {
  const decoded = decodeEnvelope(message);
  const data = checkData(worker.schema, decoded.data, decoded.type);
  const envelope = { ...decoded, data } as Envelope;
  const refused = await worker.refuses?.(envelope);
  if (refused) throw new Poison(refused);
  return { envelope, redelivered: mayBeRepeat(message) };
}
