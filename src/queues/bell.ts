/** Rouses one sleeper, who may be told of news while at work: a ring that nobody slept through counts for the next rest. */
export class Bell {
  #rung = false;
  #wake: (() => void) | undefined;

  ring(): void {
    this.#rung = true;
    this.#wake?.();
  }

  /** Forgets what rang so far: whoever calls this is about to look. */
  quiet(): void {
    this.#rung = false;
  }

  /** Until it rings or has rung, `ms` are over or `signal` aborts; never rejects. One at a time. */
  async heard(ms: number, signal: AbortSignal): Promise<void> {
    if (this.#rung || signal.aborted) return;
    await new Promise<void>((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(wake, ms);
      signal.addEventListener('abort', wake, { once: true });
      this.#wake = wake;
    });
  }
}
