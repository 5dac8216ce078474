import type { Keyring } from '../../services/keyring.ts';
import { queueEmail } from '../emails/queue.ts';
import type { Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import { type AttemptView, attemptsOf, attemptView, lockSubject } from './attempts.ts';
import { refuseHeld } from './claims.ts';
import { toDecide } from './current.ts';
import type { DecisionInput } from './messages.ts';
import { move } from './moves.ts';
import type { Case } from './save.ts';

/**
 * An admin or reviewer decides on a user's current attempt, or on the one named; the caller has checked the role.
 * Refuses with FORBIDDEN one's own case, NOT_FOUND without user or attempt, CONFLICT a move that the table does not
 * have, an attempt that moved since the decision was taken and one that another reviewer holds, VALIDATION_ERROR a reason
 * that is missing.
 */
export async function decideKyc(unit: Unit, input: DecisionInput, keyring: Keyring): Promise<AttemptView> {
  const { actor } = unit.emit.context;
  if (actor.type !== 'user' || !actor.id) refuse('FORBIDDEN', 'only a person can decide on an identity check');
  if (actor.id.toLowerCase() === input.user_id.toLowerCase())
    refuse('FORBIDDEN', 'nobody decides on their own identity check');
  const subject = await lockSubject(unit.em, input.user_id);
  const attempt = toDecide(await attemptsOf(unit.em, subject.id), input.attempt_id);
  if (!attempt) refuse('NOT_FOUND', 'there is no such identity check');
  refuseHeld(attempt, actor.id);
  if (input.version !== undefined && input.version !== attempt.version) {
    refuse(
      'CONFLICT',
      `the identity check was moved to ${attempt.status} meanwhile and cannot be moved to ${input.status} by this decision`,
      {
        details: { from: attempt.status, to: input.status },
      },
    );
  }
  const moved = await move(
    unit,
    { subject, attempt },
    { to: input.status, by: 'reviewer', reason: input.reason, comment: input.comment },
  );
  await mailVerdict(unit, moved, keyring);
  return attemptView(moved.attempt, moved.subject.kyc_status);
}

/** Tells the user of an approval or a refusal; of anything else they learn where they look. */
export async function mailVerdict(unit: Unit, { subject, attempt }: Case, keyring: Keyring): Promise<void> {
  if (attempt.status !== 'approved' && attempt.status !== 'rejected') return;
  await queueEmail(
    unit,
    {
      userId: subject.id,
      to: subject.email,
      template: attempt.status === 'approved' ? 'kyc-approved' : 'kyc-rejected',
      data: { full_name: subject.full_name, reason: attempt.reason ?? '' },
    },
    keyring,
  );
}
