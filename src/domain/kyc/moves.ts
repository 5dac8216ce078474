import { sql } from 'kysely';
import { newId } from '../ids.ts';
import type { Unit } from '../messages/emit.ts';
import { type Actor, actorText, SYSTEM } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { ATTEMPT_COLUMNS, type Attempt, type Subject } from './attempts.ts';
import { ARRIVAL_EVENTS, type KycEventData } from './messages.ts';
import type { KycProvider } from './providers.ts';
import { type AttemptStatus, canMove, findTransition, isOpen, type Mover, project } from './transitions.ts';

export interface Move {
  to: AttemptStatus;
  by: Mover;
  /** Shown to the user. */
  reason?: string | undefined;
  /** Shown to reviewers only. */
  comment?: string | undefined;
}

/** The locked user and one attempt, as they are now. Every move gives a new one. */
export interface Case {
  subject: Subject;
  attempt: Attempt;
}

/**
 * Opens an attempt in `awaiting_input`, linked to `previous`. The caller holds the user's lock and has seen to it that
 * none is open.
 */
export async function openAttempt(
  unit: Unit,
  subject: Subject,
  previous: Attempt | undefined,
  provider: KycProvider,
): Promise<Case> {
  const { rows } = await sql<Attempt>`
    insert into kyc_attempts (id, user_id, previous_id, status, provider, created_at, updated_at)
    values (${newId()}, ${subject.id}, ${previous?.id ?? null}, 'awaiting_input', ${provider.name}, clock_timestamp(), clock_timestamp())
    returning ${ATTEMPT_COLUMNS}`.execute(unit.em.getKysely());
  const attempt = only(rows);
  const opened = { subject: await settle(unit, subject), attempt };
  await record(unit, opened, null, { to: 'awaiting_input', by: 'user' });
  return opened;
}

/**
 * The one place where an attempt changes its state: checks the table, and writes attempt, history, the user's
 * projection, event and audit record together. The caller holds the user's lock.
 * Refuses with CONFLICT a move that the table does not have, or that would open a second attempt; with
 * VALIDATION_ERROR on `reason` a move that needs one.
 */
export async function move(unit: Unit, { subject, attempt: before }: Case, to: Move): Promise<Case> {
  if (!canMove(before.status, to.to, to.by)) refuseMove(before.status, to.to);
  if (findTransition(before.status, to.to)?.reason === 'required' && !to.reason) {
    refuse('VALIDATION_ERROR', `a reason is required to move a check from ${before.status} to ${to.to}`, {
      field: 'reason',
    });
  }
  if (!isOpen(before.status) && isOpen(to.to)) await refuseSecondOpen(unit, subject.id, before);
  const { rows } = await sql<Attempt>`
    update kyc_attempts set
      status = ${to.to}, reason = ${to.reason ?? null}, comment = ${to.comment ?? null}, version = version + 1, updated_at = clock_timestamp(),
      submitted_at = case when ${to.to}::text = 'processing' then clock_timestamp() else submitted_at end,
      decided_at = case ${to.to}::text
        when 'approved' then clock_timestamp() when 'rejected' then clock_timestamp()
        when 'expired' then decided_at when 'cancelled' then decided_at end
    where id = ${before.id} returning ${ATTEMPT_COLUMNS}`.execute(unit.em.getKysely());
  const attempt = only(rows);
  const moved = { subject: await settle(unit, subject), attempt };
  await record(unit, moved, before.status, to);
  unit.emit.event(ARRIVAL_EVENTS[to.to], eventData(moved), { subject: subject.id, sequence: moved.subject.version });
  return moved;
}

/** CONFLICT, naming both states. */
export function refuseMove(from: AttemptStatus, to: AttemptStatus): never {
  return refuse('CONFLICT', `an identity check cannot move from ${from} to ${to}`, { details: { from, to } });
}

/** What an event says of a case: identifiers and states, the reason given to the user, never document data. */
export function eventData({ subject, attempt }: Case): KycEventData {
  return {
    user_id: subject.id,
    attempt_id: attempt.id,
    ...(attempt.previous_id ? { previous_id: attempt.previous_id } : {}),
    status: attempt.status,
    kyc_status: subject.kyc_status,
    ...(attempt.reason ? { reason: attempt.reason } : {}),
  };
}

/** Writes the projection of all attempts to the user and counts the user's version up: the sequence of its events. */
async function settle(unit: Unit, subject: Subject): Promise<Subject> {
  const { rows } = await sql<{ status: AttemptStatus }>`
    select status from kyc_attempts where user_id = ${subject.id} order by created_at desc, id desc`.execute(
    unit.em.getKysely(),
  );
  const status = project(rows.map((row) => row.status));
  const version = await bumpVersion(unit, subject.id, status);
  return { ...subject, kyc_status: status, version };
}

/** Counts the user's version up and returns it. */
export async function bumpVersion(unit: Unit, userId: string, status: Subject['kyc_status']): Promise<number> {
  const { rows } = await sql<{ version: number }>`
    update users set kyc_status = ${status}, version = version + 1, updated_at = clock_timestamp()
    where id = ${userId} returning version`.execute(unit.em.getKysely());
  return only(rows).version;
}

async function refuseSecondOpen(unit: Unit, userId: string, attempt: Attempt): Promise<void> {
  const { rows } = await sql<{ status: AttemptStatus }>`
    select status from kyc_attempts
    where user_id = ${userId} and id <> ${attempt.id} and status in ('awaiting_input', 'processing', 'in_review')`.execute(
    unit.em.getKysely(),
  );
  if (rows[0])
    refuse('CONFLICT', `another identity check of this user is ${rows[0].status}`, {
      details: { from: attempt.status, open: rows[0].status },
    });
}

async function record(unit: Unit, { subject, attempt }: Case, from: AttemptStatus | null, to: Move): Promise<void> {
  const mover = moverOf(unit.emit.context.actor, attempt, to.by);
  await sql`
    insert into kyc_transitions (id, attempt_id, from_status, to_status, actor, reason, comment, correlation_id, at)
    values (${newId()}, ${attempt.id}, ${from}, ${to.to}, ${mover.text}, ${to.reason ?? null}, ${to.comment ?? null},
      ${unit.emit.context.correlationId}, clock_timestamp())`.execute(unit.em.getKysely());
  unit.emit.audit({
    action: from === null ? 'kyc.opened' : ARRIVAL_EVENTS[to.to].type,
    actor: mover.actor,
    targets: [
      { type: 'user', id: subject.id },
      { type: 'kyc_attempt', id: attempt.id },
    ],
    subject: subject.id,
    // Not the reason: it is free text, may name a person, and the log is for ever.
    metadata: { ...(from ? { from } : {}), to: to.to, by: mover.text, kyc_status: subject.kyc_status },
  });
}

/** Providers, clock and platform act for themselves, whoever's request set them going. */
function moverOf(actor: Actor, attempt: Attempt, by: Mover): { actor: Actor; text: string } {
  if (by === 'user' || by === 'reviewer') return { actor, text: actorText(actor) };
  return { actor: SYSTEM, text: by === 'provider' ? `provider:${attempt.provider}` : by };
}

function only<T>(rows: T[]): T {
  const row = rows[0];
  if (row === undefined) throw new Error('a statement on a locked row returned nothing');
  return row;
}
