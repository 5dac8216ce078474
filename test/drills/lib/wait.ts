import { pause } from '../../../src/services/service.ts';

/** Polls until `check` gives something true; fails with `what` after `ms`. Resolves with it and the seconds it took. */
export async function eventually<T>(
  what: string,
  check: () => T | Promise<T>,
  ms: number,
  everyMs = 100,
): Promise<{ value: NonNullable<T>; seconds: number }> {
  const began = performance.now();
  for (;;) {
    const value = await check();
    if (value) return { value: value as NonNullable<T>, seconds: (performance.now() - began) / 1000 };
    if (performance.now() - began > ms) throw new Error(`not within ${ms / 1000} s: ${what}`);
    await pause(everyMs);
  }
}

/** What `work` gives, or `undefined` when it throws: for looking at something that may be down. */
export async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch {
    return undefined;
  }
}
