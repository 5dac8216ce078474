import { sql } from 'kysely';
import { newId } from '../ids.ts';
import type { Emit, Unit } from '../messages/emit.ts';
import { type Actor, actorText, SYSTEM } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import type { Standing, Subject } from './attempts.ts';
import { ARRIVAL_EVENTS, type KycEventData } from './messages.ts';
import type { KycProvider } from './providers.ts';
import { type Case, type Draft, save } from './save.ts';
import { type AttemptStatus, canMove, findTransition, isOpen, type Mover, project } from './transitions.ts';

export interface Move {
  to: AttemptStatus;
  by: Mover;
  /** Shown to the user. */
  reason?: string | undefined;
  /** Shown to reviewers only. */
  comment?: string | undefined;
}

/**
 * Begins an attempt in `awaiting_input`, linked to the newest before it. The caller holds the user's lock and has seen
 * to it that none is open.
 */
export function openAttempt(emit: Emit, { subject, attempts }: Standing, provider: KycProvider): Draft {
  const attempt = {
    id: newId(),
    user_id: subject.id,
    previous_id: attempts[0]?.id ?? null,
    status: 'awaiting_input' as const,
    provider: provider.name,
    country: null,
    document_type: null,
    expires_on: null,
    reason: null,
    comment: null,
    version: 1,
  };
  const draft = draftOf(emit, { subject, attempt }, [attempt, ...attempts], true);
  settle(draft);
  record(draft, null, { to: 'awaiting_input', by: 'user' });
  return draft;
}

/** An attempt as it was found; `attempts` are the user's, newest first. */
export const draftOf = (
  emit: Emit,
  { subject, attempt }: Pick<Draft, 'subject' | 'attempt'>,
  attempts: Draft['history'],
  fresh = false,
): Draft => ({
  emit,
  fresh,
  subject,
  attempt,
  history: attempts,
  submitted: false,
  decided: 'as before',
  transitions: [],
});

/**
 * The one place where an attempt changes its state: checks the table, and drafts attempt, history, the user's
 * projection, event and audit record together. The caller holds the user's lock.
 * Refuses with CONFLICT a move that the table does not have, or that would open a second attempt; with
 * VALIDATION_ERROR on `reason` a move that needs one. A refusal leaves the draft as it was.
 */
export function advance(draft: Draft, to: Move): Draft {
  const { attempt: before } = draft;
  if (!canMove(before.status, to.to, to.by)) refuseMove(before.status, to.to);
  if (findTransition(before.status, to.to)?.reason === 'required' && !to.reason) {
    refuse('VALIDATION_ERROR', `a reason is required to move a check from ${before.status} to ${to.to}`, {
      field: 'reason',
    });
  }
  if (!isOpen(before.status) && isOpen(to.to)) refuseSecondOpen(draft);
  draft.attempt = {
    ...before,
    status: to.to,
    reason: to.reason ?? null,
    comment: to.comment ?? null,
    version: before.version + 1,
  };
  if (to.to === 'processing') draft.submitted = true;
  if (to.to === 'approved' || to.to === 'rejected') draft.decided = 'now';
  else if (to.to !== 'expired' && to.to !== 'cancelled') draft.decided = 'never';
  draft.history = draft.history.map(({ id, status }) => ({ id, status: id === before.id ? to.to : status }));
  settle(draft);
  record(draft, before.status, to);
  const { id: subject, version: sequence } = draft.subject;
  draft.emit.event(ARRIVAL_EVENTS[to.to], eventData(draft), { subject, sequence });
  return draft;
}

/** Makes one move of one attempt and writes it. The caller holds the user's lock. Refuses as `advance` does. */
export async function move(unit: Unit, { subject, attempt }: Case, to: Move): Promise<Case> {
  const { rows: history } = await sql<{ id: string; status: AttemptStatus }>`
    select id, status from kyc_attempts where user_id = ${subject.id} order by created_at desc, id desc`.execute(
    unit.em.getKysely(),
  );
  const [moved] = await save(unit.em, [advance(draftOf(unit.emit, { subject, attempt }, history), to)]);
  return only(moved);
}

/** CONFLICT, naming both states. */
export function refuseMove(from: AttemptStatus, to: AttemptStatus): never {
  return refuse('CONFLICT', `an identity check cannot move from ${from} to ${to}`, { details: { from, to } });
}

/** What an event says of a case: identifiers and states, the reason given to the user, never document data. */
export function eventData({ subject, attempt }: Pick<Draft, 'subject' | 'attempt'>): KycEventData {
  return {
    user_id: subject.id,
    attempt_id: attempt.id,
    ...(attempt.previous_id ? { previous_id: attempt.previous_id } : {}),
    status: attempt.status,
    kyc_status: subject.kyc_status,
    ...(attempt.reason ? { reason: attempt.reason } : {}),
  };
}

/** Counts the user's version up and returns it. */
export async function bumpVersion(unit: Unit, userId: string, status: Subject['kyc_status']): Promise<number> {
  const { rows } = await sql<{ version: number }>`
    update users set kyc_status = ${status}, version = version + 1, updated_at = clock_timestamp()
    where id = ${userId} returning version`.execute(unit.em.getKysely());
  return only(rows[0]).version;
}

/** Projects all attempts on the user and counts the user's version up: the sequence of its events. */
function settle(draft: Draft): void {
  draft.subject = {
    ...draft.subject,
    kyc_status: project(draft.history.map(({ status }) => status)),
    version: draft.subject.version + 1,
  };
}

function refuseSecondOpen({ attempt, history }: Draft): void {
  const open = history.find(({ id, status }) => id !== attempt.id && isOpen(status));
  if (open)
    refuse('CONFLICT', `another identity check of this user is ${open.status}`, {
      details: { from: attempt.status, open: open.status },
    });
}

function record({ emit, subject, attempt, transitions }: Draft, from: AttemptStatus | null, to: Move): void {
  const mover = moverOf(emit.context.actor, attempt.provider, to.by);
  transitions.push({
    id: newId(),
    attempt_id: attempt.id,
    from_status: from,
    to_status: to.to,
    actor: mover.text,
    reason: to.reason,
    comment: to.comment,
    correlation_id: emit.context.correlationId,
  });
  emit.audit({
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
function moverOf(actor: Actor, provider: string, by: Mover): { actor: Actor; text: string } {
  if (by === 'user' || by === 'reviewer') return { actor, text: actorText(actor) };
  return { actor: SYSTEM, text: by === 'provider' ? `provider:${provider}` : by };
}

function only<T>(row: T | undefined): T {
  if (row === undefined) throw new Error('a statement on a locked row returned nothing');
  return row;
}
