import type { Logger } from './logger.ts';
import { pause, type Service } from './service.ts';

/** Runs `work` every `everyMs`, one run at a time; a run that fails is logged and the next one comes all the same. */
export class Timer implements Service {
  readonly name: string;
  readonly #everyMs: number;
  readonly #work: () => Promise<unknown>;
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(name: string, everyMs: number, work: () => Promise<unknown>, log: Logger) {
    this.name = name;
    this.#everyMs = everyMs;
    this.#work = work;
    this.#log = log.child({ service: name });
  }

  async start(): Promise<void> {
    this.#running ??= this.#loop();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #loop(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      await this.#work().catch((error: Error) =>
        this.#log.warn({ error: error.message }, `${this.name}: trying again later`),
      );
      await pause(this.#everyMs, this.#stopping.signal);
    }
  }
}
