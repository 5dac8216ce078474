import type { Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import { type AttemptView, attemptsOf, attemptView, lockSubject } from './attempts.ts';
import { currentOf } from './current.ts';
import { move } from './moves.ts';

/**
 * The user takes the open attempt back. CONFLICT when none is open, NOT_FOUND when there was never one.
 */
export async function cancelKyc(unit: Unit, input: { userId: string }): Promise<AttemptView> {
  const subject = await lockSubject(unit.em, input.userId);
  const attempt = currentOf(await attemptsOf(unit.em, subject.id));
  if (!attempt) refuse('NOT_FOUND', 'there is no identity check');
  const moved = await move(unit, { subject, attempt }, { to: 'cancelled', by: 'user' });
  return attemptView(moved.attempt, moved.subject.kyc_status);
}
