/**
 * What a process is made of. Each part starts once, and stops once however often it is asked:
 * a second `stop` waits for the first.
 */
export interface Service {
  readonly name: string;
  start(): Promise<void>;
  /** Finishes or hands back what it holds; resolves by `deadlineMs` from now at the latest. */
  stop(deadlineMs: number): Promise<void>;
}

/** Rejects with a `TimeoutError` that names the wait when `promise` takes longer than `ms`. */
export async function withDeadline<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TimeoutError(`${what} took longer than ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, expired]);
  } finally {
    clearTimeout(timer);
  }
}

export class TimeoutError extends Error {
  override name = 'TimeoutError';
}

/** Waits `ms`, or less when `signal` aborts; never rejects. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}

/** Full-jitter exponential backoff (AWS Architecture Blog, "Exponential Backoff And Jitter"), in ms. */
export function backoffMs(attempt: number, base: number, max: number): number {
  const ceiling = Math.min(max, base * 2 ** Math.min(attempt, 30));
  return ceiling / 2 + Math.random() * (ceiling / 2);
}

/** What each service is sure to get of a deadline, however long those before it take; less when they are many. */
const RESERVE_MS = 500;

/**
 * Stops services in the reverse order of their start, all within `deadlineMs`; one that fails does not keep the others
 * up. Each is told a little less than it gets, so that what it does at its deadline is still waited for.
 */
export async function stopAll(
  services: Service[],
  deadlineMs: number,
  onError: (service: Service, error: unknown) => void,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  const reserve = Math.min(RESERVE_MS, Math.floor(deadlineMs / 2 / services.length));
  for (const [before, service] of [...services.entries()].toReversed()) {
    const share = Math.round(Math.max(reserve, end - performance.now() - before * reserve));
    try {
      await withDeadline(service.stop(share - Math.floor(reserve / 5)), share, `stopping ${service.name}`);
    } catch (error) {
      onError(service, error);
    }
  }
}

/** Several services as one: started in order, stopped all at once, so that none takes new work while another drains. */
export function together(name: string, services: Service[]): Service {
  return {
    name,
    async start() {
      for (const service of services) await service.start();
    },
    async stop(deadlineMs) {
      const results = await Promise.allSettled(services.map((service) => service.stop(deadlineMs)));
      const failed = results.find((result) => result.status === 'rejected');
      if (failed) throw failed.reason;
    },
  };
}
