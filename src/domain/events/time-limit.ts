import { createContext, Script } from 'node:vm';

/** What was run took longer than it may. */
export class TimeLimitExceeded extends Error {
  override name = 'TimeLimitExceeded';
}

const context = createContext(
  { work: undefined, result: undefined },
  { codeGeneration: { strings: false, wasm: false } },
);
const script = new Script('result = work()');

/** What this thread has worked so far, in ms of a processor: on a busy machine the clock runs on without it. */
export function workedMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

/** How often what was given too little of the processor is begun anew, each time with twice the time by the clock. */
const TRIES = 5;

/**
 * Runs `work` and ends it after `ms` of work, wherever it is: in the middle of a loop or of a regular expression that
 * backtracks for ever. Throws `TimeLimitExceeded` then, and what `work` throws otherwise. `work` is synchronous, must
 * leave nothing half-done that matters, and may be run more than once. Costs 0.3 ms (two cores, November 2026): a thread
 * watches the clock.
 */
export function withinTime<T>(ms: number, work: () => T): T {
  const began = workedMs();
  for (let tries = 1; ; tries += 1) {
    const left = ms - (workedMs() - began);
    const outcome = byTheClock(Math.max(1, Math.ceil(left)) * 2 ** (tries - 1), work);
    if (outcome) return outcome.result;
    // A tenth is what the watching takes.
    if (tries === TRIES || workedMs() - began >= 0.9 * ms) throw new TimeLimitExceeded(`took longer than ${ms} ms`);
  }
}

/** `undefined` when the time was over first. */
function byTheClock<T>(ms: number, work: () => T): { result: T } | undefined {
  context.work = work;
  try {
    script.runInContext(context, { timeout: ms });
    return { result: context.result as T };
  } catch (error) {
    if ((error as { code?: unknown } | null)?.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') return undefined;
    throw error;
  } finally {
    context.work = undefined;
    context.result = undefined;
  }
}
