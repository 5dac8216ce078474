import { DatabaseClock } from '../services/clock.ts';
import type { Logger } from '../services/logger.ts';
import { type Service, stopAll, together, withDeadline } from '../services/service.ts';
import type { Runtime } from './runtime.ts';

/** Beyond the drain, what its last steps may be late by on a busy machine. */
const LATE_MS = 1000;

/**
 * Starts services in order and keeps the process up until it is told to stop.
 *
 *   starting ──all started──► running ──SIGTERM, SIGINT, SIGHUP──► draining ──all stopped, or the deadline──► gone
 *   starting ──a signal──► draining: what is still to be started is refused
 *   draining ──a second signal──► gone at once
 *
 * A service that cannot start takes those before it down again and rejects.
 */
export class Supervisor {
  readonly #services: Service[] = [];
  readonly #log: Logger;
  readonly #drainMs: number;
  readonly #onDrain: (() => unknown)[] = [];
  #stopping: Promise<void> | undefined;
  #signalled = false;
  #unwatch: () => void = () => undefined;

  constructor(log: Logger, drainMs: number) {
    this.#log = log;
    this.#drainMs = drainMs;
  }

  /** Whether a signal has asked for the end. */
  get signalled(): boolean {
    return this.#signalled;
  }

  async start(services: Service[]): Promise<void> {
    for (const service of services) {
      this.#admit(service);
      this.#services.push(service);
      await this.#begin(service);
    }
  }

  /** Starts a service that will stop together with the one that was started last. */
  async startBeside(service: Service): Promise<void> {
    this.#admit(service);
    const last = this.#services.pop();
    this.#services.push(last ? together(`${last.name} and ${service.name}`, [last, service]) : service);
    await this.#begin(service);
  }

  #admit(service: Service): void {
    if (this.#stopping) throw new Error(`${service.name} is not started: the process is stopping`);
  }

  async #begin(service: Service): Promise<void> {
    try {
      await service.start();
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  /** Called when draining begins, before anything is stopped. */
  onDrain(listener: () => unknown): void {
    this.#onDrain.push(listener);
  }

  /** Drains and stops everything, once. */
  stop(): Promise<void> {
    this.#stopping ??= (async () => {
      for (const listener of this.#onDrain) listener();
      await stopAll(this.#services, this.#drainMs, (service, error) =>
        this.#log.warn({ service: service.name, error: (error as Error).message }, 'did not stop in time'),
      );
      this.#unwatch();
    })();
    return this.#stopping;
  }

  /** Watches for signals from here on; resolves when one has come and everything is stopped. */
  untilSignal(): Promise<NodeJS.Signals> {
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
    return new Promise((resolve) => {
      const onSignal = (signal: NodeJS.Signals) => {
        if (this.#stopping) {
          this.#log.warn({ signal }, 'stopping at once');
          process.exit(1);
        }
        this.#signalled = true;
        this.#log.info({ signal, drain_ms: this.#drainMs }, 'draining');
        const end = performance.now() + this.#drainMs;
        withDeadline(this.stop(), this.#drainMs + LATE_MS, 'stopping').then(
          () => {
            // A handle that a service left open at its deadline must not keep the process up beyond that.
            setTimeout(() => process.exit(), Math.max(0, end - performance.now())).unref();
            resolve(signal);
          },
          () => process.exit(1),
        );
      };
      for (const name of signals) process.on(name, onSignal);
      this.#unwatch = () => {
        for (const name of signals) process.off(name, onSignal);
      };
    });
  }
}

/** The store as the last service to stop, and the time that goes by it. */
export function storeService({ database }: Pick<Runtime, 'database'>): Service {
  const clock = new DatabaseClock(database);
  return {
    name: 'database',
    start: () => clock.start(),
    stop: async () => {
      clock.stop();
      await database.close(true);
    },
  };
}
