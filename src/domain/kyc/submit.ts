import { sql } from 'kysely';
import type { Keyring } from '../../services/keyring.ts';
import type { Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import { type AttemptView, attemptsOf, attemptView, lockSubject } from './attempts.ts';
import { sealEvidence } from './evidence.ts';
import { move, openAttempt } from './moves.ts';
import type { KycProvider } from './providers.ts';
import type { Submission } from './submission.ts';
import { isOpen } from './transitions.ts';

/**
 * Takes what a user hands in. An attempt that awaits input goes on with it; otherwise a new one is opened, linked to
 * the one before, which stays as it is: an approval stands while its renewal is checked.
 * Refuses with CONFLICT while an attempt is being processed or reviewed, NOT_FOUND for an unknown user.
 */
export async function submitKyc(
  unit: Unit,
  input: { userId: string; submission: Submission },
  deps: { keyring: Keyring; provider: KycProvider },
): Promise<AttemptView> {
  const subject = await lockSubject(unit.em, input.userId);
  const attempts = await attemptsOf(unit.em, subject.id);
  const open = attempts.find((attempt) => isOpen(attempt.status));
  if (open && open.status !== 'awaiting_input') {
    refuse('CONFLICT', `an identity check is ${open.status} already`, {
      details: { from: open.status, to: 'processing' },
    });
  }
  const opened = open ? { subject, attempt: open } : await openAttempt(unit, subject, attempts[0], deps.provider);
  const { submission } = input;
  await sql`
    update kyc_attempts set
      provider = ${deps.provider.name}, country = ${submission.country}, document_type = ${submission.document.type},
      expires_on = ${submission.document.expires_on}, sealed_document = ${sealEvidence(deps.keyring, opened.attempt.id, submission)}
    where id = ${opened.attempt.id}`.execute(unit.em.getKysely());
  const submitted = await move(unit, opened, { to: 'processing', by: 'user' });
  const { subject: after, attempt } = deps.provider.handsTo
    ? await move(unit, submitted, { to: deps.provider.handsTo, by: 'provider' })
    : submitted;
  return attemptView(attempt, after.kyc_status);
}
