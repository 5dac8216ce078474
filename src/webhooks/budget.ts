/**
 * How many deliveries of chunks this process has begun and not sent. Beyond `limit` the next chunk waits, and with it its
 * message stays unacknowledged: a backlog is RabbitMQ's to hold. Without this bound a backlog of 30,000 events over 50
 * quick endpoints overflowed their lanes and went through PostgreSQL and Redis one by one (3,450/s, measured November
 * 2026, two cores). What is sent and not recorded is the recorder's to bound: counted here too, a commit of 500 kept the
 * senders waiting.
 */
export class Budget {
  readonly #limit: () => number;
  readonly #waiting: { size: number; start: () => void }[] = [];
  #begun = 0;

  constructor(limit: () => number) {
    this.#limit = limit;
  }

  /** Resolves when there is room for `size` more, in the order of asking; one larger than all the room starts alone. */
  async take(size: number): Promise<void> {
    const started = new Promise<void>((start) => this.#waiting.push({ size, start }));
    this.#fill();
    await started;
  }

  /** One that was taken is sent, or never will be. */
  give(): void {
    this.#begun -= 1;
    this.#fill();
  }

  #fill(): void {
    for (let next = this.#waiting[0]; next && this.#fits(next.size); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#begun += next.size;
      next.start();
    }
  }

  #fits(size: number): boolean {
    return this.#begun === 0 || this.#begun + size <= this.#limit();
  }
}
