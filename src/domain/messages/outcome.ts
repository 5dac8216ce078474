import type { Problem } from '../problem.ts';

/** The closed set of what a handler can say. An exception is a retry with its reason. */
export type Outcome =
  | { kind: 'done'; result: unknown; status: number }
  | { kind: 'reject'; problem: Problem }
  | { kind: 'discard'; reason: string }
  | { kind: 'retry'; delayMs: number; reason: string }
  | { kind: 'onward'; delayMs: number; reason: string };

/** The work is done; `result` becomes the operation's result, `status` the HTTP status of a waiting caller. */
export const done = (result: unknown = null, status = 200): Outcome => ({ kind: 'done', result, status });
/** The caller is refused: the transaction is rolled back, the operation fails with the problem. */
export const reject = (problem: Problem): Outcome => ({ kind: 'reject', problem });
/** The message makes no sense any more: it goes to the dead letters with the reason. */
export const discard = (reason: string): Outcome => ({ kind: 'discard', reason });
/** Not now: the message comes back after about `delayMs` (rounded up to a tier of the retry ladder). */
export const retryIn = (delayMs: number, reason: string): Outcome => ({ kind: 'retry', delayMs, reason });
/** A part of the work is done, and kept outside this transaction: the rest after about `delayMs`. Uses up no attempt. */
export const onward = (delayMs: number, reason: string): Outcome => ({ kind: 'onward', delayMs, reason });
