/**
 * Looks at what others change, for many callers at once. Whoever comes while one looks shares the next look: the present
 * one may have read before the change that the caller knows of.
 */
export class SharedLook<T> {
  readonly #look: () => Promise<T>;
  #running: Promise<T> | undefined;
  #next: Promise<T> | undefined;

  constructor(look: () => Promise<T>) {
    this.#look = look;
  }

  /** What a look finds that begins after this call. Rejects as the look does. */
  now(): Promise<T> {
    if (this.#running === undefined) return this.#run();
    const again = () => {
      this.#next = undefined;
      // A look that somebody began in between began after everyone who waits here had come.
      return this.#running ?? this.#run();
    };
    this.#next ??= this.#running.then(again, again);
    return this.#next;
  }

  #run(): Promise<T> {
    const running = this.#look().finally(() => {
      if (this.#running === running) this.#running = undefined;
    });
    this.#running = running;
    return running;
  }
}
