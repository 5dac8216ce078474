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
