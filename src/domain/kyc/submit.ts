import type { Keyring } from '../../services/keyring.ts';
import type { Emit, Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import type { AttemptView, Standing } from './attempts.ts';
import { sealEvidence } from './evidence.ts';
import { advance, draftOf, openAttempt } from './moves.ts';
import type { KycProvider } from './providers.ts';
import type { Draft } from './save.ts';
import type { Submission } from './submission.ts';
import { requestAlone } from './together.ts';
import { isOpen } from './transitions.ts';

export interface SubmitDeps {
  keyring: Keyring;
  provider: KycProvider;
}

/**
 * Takes what a user hands in. An attempt that awaits input goes on with it; otherwise a new one is opened, linked to
 * the one before, which stays as it is: an approval stands while its renewal is checked.
 * Refuses with CONFLICT while an attempt is being processed or reviewed, NOT_FOUND for an unknown user.
 */
export const submitKyc = (
  unit: Unit,
  { userId, submission }: { userId: string; submission: Submission },
  deps: SubmitDeps,
): Promise<AttemptView> =>
  requestAlone(unit, { userId, draft: (standing) => draftSubmission(unit.emit, standing, submission, deps) });

/** What `submitKyc` writes. Refuses as it does. */
export function draftSubmission(
  emit: Emit,
  standing: Standing,
  { country, document, ...rest }: Submission,
  { keyring, provider }: SubmitDeps,
): Draft {
  const { subject, attempts } = standing;
  const open = attempts.find((attempt) => isOpen(attempt.status));
  if (open && open.status !== 'awaiting_input') {
    refuse('CONFLICT', `an identity check is ${open.status} already`, {
      details: { from: open.status, to: 'processing' },
    });
  }
  const draft = open ? draftOf(emit, { subject, attempt: open }, attempts) : openAttempt(emit, standing, provider);
  draft.attempt = {
    ...draft.attempt,
    provider: provider.name,
    country,
    document_type: document.type,
    expires_on: document.expires_on,
  };
  draft.sealed = sealEvidence(keyring, draft.attempt.id, { country, document, ...rest });
  advance(draft, { to: 'processing', by: 'user' });
  if (provider.handsTo) advance(draft, { to: provider.handsTo, by: 'provider' });
  return draft;
}
