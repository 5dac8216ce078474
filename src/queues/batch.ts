import type { Envelope } from '../domain/messages/envelope.ts';
import { isTransient } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { backoffMs, pause } from '../services/service.ts';
import type { Incoming } from './consumer.ts';
import { within } from './deadline.ts';
import type { Detour } from './detour.ts';
import { BrokerUnavailable } from './gateway.ts';
import {
  attemptsBefore,
  CONTENTION_TRIES,
  checkData,
  contentionsBefore,
  decodeEnvelope,
  mayBeItsOwn,
  mayBeRepeat,
  Poison,
  withContentions,
} from './incoming.ts';
import type { BatchItem, BatchWorker } from './worker.ts';

/** Tries of a batch before its messages take the way through the delay queues. */
const PATIENCE = 60;
/** Tries of a whole batch that meets contention or outlasts its time, before the culprit is looked for. */
const TOGETHER = 3;
/** Tries of a message that fails on its data alone. */
const OWN_TRIES = 3;
/** Between the tries of a message that meets contention on its own: doubling, with jitter, ms. */
const CONTENTION_BACKOFF = { base: 2000, max: 300_000 };

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
 * A batch that fails on its data is bisected in fresh transactions down to the culprit, which alone is tried again and
 * buried at last. A batch that meets contention or outlasts `timeoutMs` is so too, after 3 tries as a whole, and its
 * culprit is from then on handled by itself, so that it keeps no other message up again. While a service is out of reach
 * the whole batch is repeated with backoff. A message is acknowledged when its batch is committed.
 */
export class Batcher {
  readonly #worker: BatchWorker;
  readonly #detour: Detour;
  readonly #log: Logger;
  readonly #measure: (worker: string, outcome: string, ms: number) => void;
  readonly #parallel: number;
  readonly #patience: number;
  readonly #contentions: number;
  #size: number;
  #filling: Entry[] = [];
  #timer: NodeJS.Timeout | undefined;
  #handling = 0;

  constructor(
    worker: BatchWorker,
    detour: Detour,
    measure: (worker: string, outcome: string, ms: number) => void,
    log: Logger,
    { patience = PATIENCE, contentions = CONTENTION_TRIES } = {},
  ) {
    this.#worker = worker;
    this.#patience = patience;
    this.#contentions = contentions;
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
    const suspects = entries.filter(({ message }) => contentionsBefore(message) > 0);
    const others = entries.filter(({ message }) => contentionsBefore(message) === 0);
    await this.#handle(others, TOGETHER);
    for (const suspect of suspects) await this.#handle([suspect]);
    this.#handling -= 1;
    this.#arm();
  }

  /** Deals with every entry, whatever happens; never rejects. `together`: tries in the face of contention. */
  async #handle(entries: Entry[], together = 1): Promise<void> {
    if (entries.length === 0) return;
    const began = performance.now();
    for (let tries = 0, contentions = 0; ; tries += 1) {
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
        const { message } = error as Error;
        if (mayBeItsOwn(error)) {
          contentions += 1;
          this.#log.warn({ error: message, size: entries.length }, 'the batch met contention or outlasted its time');
          if (contentions >= together) return this.#bisect(entries, error as Error);
        } else if (tries === 0)
          this.#log.warn({ error: message, size: entries.length }, 'a service is out of reach, the batch waits');
        // About two minutes: another process may do better. To hand it back would count against the delivery limit.
        if (tries >= this.#patience) return this.#postpone(entries, message);
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
    await this.#failed(entry.message, error).then(
      () => entry.settle(),
      (failure: Error) => entry.settle(failure),
    );
  }

  /** A fault of the handler may pass (a lock, a bug mended by the next version), so the message is tried again first. */
  async #failed(message: Incoming, error: Error): Promise<void> {
    const attempts = attemptsBefore(message) + 1;
    const contended = mayBeItsOwn(error);
    const contentions = contentionsBefore(message) + (contended ? 1 : 0);
    const own = attempts - contentions;
    const again = contended ? contentions < this.#contentions : own < OWN_TRIES;
    this.#measure(this.#worker.name, again ? 'retried' : 'buried', 0);
    if (!again) {
      const reason = `failed ${attempts} times: ${error.message}`;
      return this.#detour.bury(message, reason, this.#worker.name, attempts);
    }
    const { base, max } = CONTENTION_BACKOFF;
    const delayMs = contended ? backoffMs(contentions - 1, base, max) : 1000 * own;
    return this.#detour.retry(withContentions(message, contentions), delayMs, attempts, error.message);
  }
}

/** What is not the messages' fault: a service is out of reach, or does not answer in time. */
export const isPassing = (error: unknown): boolean =>
  isTransient(error) || error instanceof BrokerUnavailable || mayBeItsOwn(error);

/** Bytes → what a batch worker takes. Throws `Poison`. */
export async function itemOf(worker: BatchWorker, message: Incoming): Promise<BatchItem<unknown>> {
  const decoded = decodeEnvelope(message);
  const data = checkData(worker.schema, decoded.data, decoded.type);
  const envelope = { ...decoded, data } as Envelope;
  const refused = await worker.refuses?.(envelope);
  if (refused) throw new Poison(refused);
  return { envelope, redelivered: mayBeRepeat(message) };
}
