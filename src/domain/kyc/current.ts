import type { Attempt } from './attempts.ts';
import { isOpen } from './transitions.ts';

/**
 * The attempt that stands for a user: the open one, else the newest that was not cancelled, else the newest.
 * `undefined` when there was never one.
 */
export function currentOf(newestFirst: readonly Attempt[]): Attempt | undefined {
  return (
    newestFirst.find((attempt) => isOpen(attempt.status)) ??
    newestFirst.find((attempt) => attempt.status !== 'cancelled') ??
    newestFirst[0]
  );
}

/** The attempt that a decision is about: the one named, or the one that stands. */
export function toDecide(newestFirst: readonly Attempt[], attemptId: string | undefined): Attempt | undefined {
  if (attemptId === undefined) return currentOf(newestFirst);
  return newestFirst.find(({ id }) => id === attemptId.toLowerCase());
}
