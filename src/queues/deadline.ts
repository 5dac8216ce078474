import { withDeadline } from '../services/service.ts';

/** Rejects with a `TimeoutError` after `ms`, and then aborts the signal that `work` was given. */
export async function within<T>(ms: number, what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const over = new AbortController();
  try {
    return await withDeadline(work(over.signal), ms, what);
  } catch (error) {
    over.abort(error);
    throw error;
  }
}

/** What the broker may take to answer before a channel consumes. */
const OPEN_MS = 10_000;

/** Waits for a channel that is being opened, 10 s unless told; one that comes too late is closed. */
export async function opened<T>(opening: Promise<T>, close: (late: T) => unknown, ms = OPEN_MS): Promise<T> {
  try {
    return await withDeadline(opening, ms, 'opening a channel');
  } catch (error) {
    opening.then(close, () => undefined);
    throw error;
  }
}
