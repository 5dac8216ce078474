import { sql } from 'kysely';
import { isoOrNull } from '../../services/database.ts';
import type { Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import { ATTEMPT_COLUMNS, type Attempt, lockSubject, type Subject } from './attempts.ts';
import { type ReviewView, reviewView } from './queries.ts';
import type { AttemptStatus } from './transitions.ts';

/** How long a claim holds, in minutes. */
export const CLAIM_MINUTES = { min: 1, max: 120, default: 15 };

/** States in which there is something for a reviewer to decide. */
const CLAIMABLE: readonly AttemptStatus[] = ['processing', 'in_review'];

/**
 * A reviewer takes an attempt, or takes it for longer: until then nobody else's decision on it is taken. It ends by
 * itself, by `releaseKyc`, and when the attempt is decided.
 * Refuses with NOT_FOUND an unknown attempt, FORBIDDEN one's own, CONFLICT one with nothing to decide and one that
 * somebody else holds, naming them and until when.
 */
export async function claimKyc(unit: Unit, input: { attemptId: string; minutes: number }): Promise<ReviewView> {
  const { reviewer, subject, attempt } = await openCase(unit, input.attemptId);
  if (reviewer === subject.id) refuse('FORBIDDEN', 'nobody decides on their own identity check');
  if (!CLAIMABLE.includes(attempt.status))
    refuse('CONFLICT', `there is nothing to decide on a check that is ${attempt.status}`, {
      details: { status: attempt.status },
    });
  refuseHeld(attempt, reviewer);
  const { rows } = await sql<Attempt>`
    update kyc_attempts set claimed_by = ${reviewer},
      claimed_until = clock_timestamp() + ${input.minutes} * interval '1 minute'
    where id = ${attempt.id} returning ${ATTEMPT_COLUMNS}`.execute(unit.em.getKysely());
  const claimed = rows[0] ?? attempt;
  note(unit, 'kyc.claimed', { subject, attempt }, { minutes: input.minutes, renewed: attempt.claimed_by !== null });
  return reviewView(claimed, subject.kyc_status);
}

/**
 * Gives a claim back; one that has ended is nothing to give back, and no fault. Somebody else's only an admin ends.
 * Refuses with NOT_FOUND an unknown attempt, CONFLICT one that somebody else holds.
 */
export async function releaseKyc(unit: Unit, input: { attemptId: string; anybodys: boolean }): Promise<ReviewView> {
  const { reviewer, subject, attempt } = await openCase(unit, input.attemptId);
  if (!input.anybodys) refuseHeld(attempt, reviewer);
  if (!attempt.claimed_by) return reviewView(attempt, subject.kyc_status);
  const { rows } = await sql<Attempt>`
    update kyc_attempts set claimed_by = null, claimed_until = null
    where id = ${attempt.id} returning ${ATTEMPT_COLUMNS}`.execute(unit.em.getKysely());
  note(unit, 'kyc.claim_released', { subject, attempt }, { holder: attempt.claimed_by });
  return reviewView(rows[0] ?? attempt, subject.kyc_status);
}

/** CONFLICT while somebody else holds the attempt, with their id and the end of their claim. */
export function refuseHeld(attempt: Attempt, reviewer: string): void {
  const { claimed_by } = attempt;
  if (claimed_by === null || claimed_by === reviewer.toLowerCase()) return;
  const claimed_until = isoOrNull(attempt.claimed_until);
  refuse('CONFLICT', `the identity check is claimed by another reviewer until ${claimed_until}`, {
    details: { claimed_by, claimed_until },
  });
}

/** The attempt as it is under its user's lock, and who asks. */
async function openCase(
  unit: Unit,
  attemptId: string,
): Promise<{ reviewer: string; subject: Subject; attempt: Attempt }> {
  const { actor } = unit.emit.context;
  if (actor.type !== 'user' || !actor.id) refuse('FORBIDDEN', 'only a person can claim an identity check');
  const find = async () => {
    const { rows } = await sql<Attempt>`
      select ${ATTEMPT_COLUMNS} from kyc_attempts where id = ${attemptId}`.execute(unit.em.getKysely());
    return rows[0] ?? refuse('NOT_FOUND', 'there is no such identity check');
  };
  const { user_id } = await find();
  const subject = await lockSubject(unit.em, user_id);
  return { reviewer: actor.id.toLowerCase(), subject, attempt: await find() };
}

function note(
  unit: Unit,
  action: string,
  { subject, attempt }: { subject: Subject; attempt: Attempt },
  metadata: Record<string, string | number | boolean>,
): void {
  unit.emit.audit({
    action,
    targets: [
      { type: 'user', id: subject.id },
      { type: 'kyc_attempt', id: attempt.id },
    ],
    subject: subject.id,
    metadata,
  });
}
