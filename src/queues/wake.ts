import type { Redis } from 'ioredis';

/** How the relay hears of new outbox rows: in this process by a call, from others by one Redis channel. */
export class Wake {
  readonly #publisher: Redis;
  readonly #channel: string;
  readonly #listeners = new Set<() => void>();
  #announced = false;

  constructor(publisher: Redis, namespace: string) {
    this.#publisher = publisher;
    this.#channel = `${namespace}:outbox`;
  }

  get channel(): string {
    return this.#channel;
  }

  /** Tells everyone, at most once per turn of the event loop; Redis away costs the others one poll interval. */
  readonly call = (): void => {
    this.here();
    if (this.#announced) return;
    this.#announced = true;
    setImmediate(() => {
      this.#announced = false;
      if (this.#publisher.status === 'ready') this.#publisher.publish(this.#channel, '').catch(() => undefined);
    });
  };

  /** Wakes this process only. */
  here(): void {
    for (const listener of this.#listeners) listener();
  }

  onWake(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
