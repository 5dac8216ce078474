import type { Redis } from 'ioredis';
import { type Service, withDeadline } from './service.ts';

/** What a request may wait for Redis. */
const DEADLINE_MS = 100;

/**
 * Tells all processes that something has a new revision, so that they need not find out by themselves. A hint only:
 * whoever keeps something in memory reads the revision all the same (`RevisionWatch`).
 *
 * Two states. *Deaf*: not subscribed, `since` is undefined and notices may be missed. *Hearing*: subscribed since
 * `since`. A connection that is ready and subscribed leads to hearing, its end to deaf.
 */
export class Notices implements Service {
  readonly name = 'notices';
  readonly #publisher: Redis;
  readonly #subscriber: Redis;
  readonly #channel: string;
  readonly #listeners = new Map<string, Set<() => void>>();
  #since: number | undefined;
  #connection = 0;

  /** `publisher` fails fast; `subscriber` may be shared with other channels. */
  constructor(deps: { publisher: Redis; subscriber: Redis; namespace: string }) {
    this.#publisher = deps.publisher;
    this.#subscriber = deps.subscriber;
    this.#channel = `${deps.namespace}:revisions`;
  }

  /** Since when every notice is heard, by `performance.now()`. */
  get since(): number | undefined {
    return this.#since;
  }

  async start(): Promise<void> {
    this.#subscriber.on('ready', this.#onReady).on('close', this.#onClose).on('message', this.#onMessage);
    if (this.#subscriber.status === 'ready') this.#onReady();
  }

  async stop(): Promise<void> {
    this.#subscriber.off('ready', this.#onReady).off('close', this.#onClose).off('message', this.#onMessage);
    this.#onClose();
  }

  onNotice(name: string, listener: () => void): void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
  }

  /** Call it after the commit. This process hears of it now; false when Redis could not tell the others within 100 ms. */
  async announce(name: string): Promise<boolean> {
    this.#tell(name);
    try {
      await withDeadline(this.#publisher.publish(this.#channel, name), DEADLINE_MS, 'a notice');
      return true;
    } catch {
      return false;
    }
  }

  readonly #onReady = (): void => {
    this.#connection += 1;
    const connection = this.#connection;
    this.#subscriber.subscribe(this.#channel).then(
      () => {
        if (connection === this.#connection) this.#since = performance.now();
      },
      () => undefined, // the connection ended again; the next one subscribes
    );
  };

  readonly #onClose = (): void => {
    this.#connection += 1;
    this.#since = undefined;
  };

  readonly #onMessage = (channel: string, name: string): void => {
    if (channel === this.#channel) this.#tell(name);
  };

  #tell(name: string): void {
    for (const listener of this.#listeners.get(name) ?? []) listener();
  }
}
