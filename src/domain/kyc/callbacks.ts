import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import { newId } from '../ids.ts';
import type { Unit } from '../messages/emit.ts';
import { type Problem, Refusal } from '../problem.ts';
import type { Verdict } from './adapters/adapter.ts';
import { ADAPTERS, type CallbackProvider } from './adapters/index.ts';
import { ATTEMPT_COLUMNS, type Attempt, lockSubject } from './attempts.ts';
import { mailVerdict } from './decide.ts';
import { move } from './moves.ts';

/** What became of a stored callback. */
export type CallbackOutcome = 'received' | 'applied' | 'stale' | 'refused' | 'malformed' | 'ignored';

export interface StoredCallback {
  id: string;
  eventId: string | null;
  /** `received` is still to be applied, anything else is done with. */
  outcome: CallbackOutcome;
  /** The provider sent this event before. */
  duplicate: boolean;
  /** Why it cannot be read. */
  problem?: Problem;
}

/**
 * Stores a callback whose signature was checked, as it came (encrypted), before anything is done about it. The same
 * event of one provider is stored once; what cannot be read is stored too, with a problem to answer, and what asks for
 * nothing.
 */
export async function storeCallback(
  em: EntityManager,
  provider: CallbackProvider,
  body: Buffer,
  keyring: Keyring,
): Promise<StoredCallback> {
  const id = newId();
  const sealed = keyring.encrypt('kyc', body, id);
  const reading = ADAPTERS[provider].read(body);
  if ('problem' in reading) {
    const { problem } = reading;
    await sql`
      insert into kyc_callbacks (id, provider, sealed_body, outcome, detail, handled_at)
      values (${id}, ${provider}, ${sealed}, 'malformed', ${problem.message}, now())`.execute(em.getKysely());
    return { id, eventId: null, outcome: 'malformed', duplicate: false, problem };
  }
  const eventId = 'event' in reading ? reading.event.eventId : reading.eventId;
  const columns =
    'event' in reading
      ? sql`${reading.event.attemptId}, ${reading.event.status}, ${reading.event.reason ?? null},
          ${reading.event.occurredAt}, 'received', null, null`
      : sql`${reading.attemptId}, null, null, null, 'ignored', ${reading.ignored}, now()`;
  const { rows } = await sql<{ id: string; outcome: CallbackOutcome }>`
    insert into kyc_callbacks (id, provider, event_id, sealed_body, attempt_id, status, reason, occurred_at, outcome, detail, handled_at)
    values (${id}, ${provider}, ${eventId}, ${sealed}, ${columns})
    on conflict (provider, event_id) do update set event_id = excluded.event_id
    returning id, outcome`.execute(em.getKysely());
  const row = rows[0];
  if (!row) throw new Error('an upsert returned no row');
  return { id: row.id, eventId, outcome: row.outcome, duplicate: row.id !== id };
}

interface PendingCallback {
  id: string;
  provider: string;
  attempt_id: string;
  status: Verdict;
  reason: string | null;
  occurred_at: string;
  outcome: CallbackOutcome;
}

/** A provider that refuses without saying why still has to give the user something. */
const NO_REASON = 'The provider gave no reason.';

/**
 * Applies a stored callback to its attempt, once, and notes on its row what became of it: `stale` when a later one was
 * applied before, `refused` when the attempt is not this provider's to move or the table does not have the move.
 */
export async function applyCallback(unit: Unit, callbackId: string, keyring: Keyring): Promise<CallbackOutcome> {
  const { rows } = await sql<PendingCallback>`
    select id, provider, attempt_id, status, reason, occurred_at, outcome from kyc_callbacks
    where id = ${callbackId} for update`.execute(unit.em.getKysely());
  const callback = rows[0];
  if (!callback) return 'refused';
  if (callback.outcome !== 'received') return callback.outcome;
  const { outcome, detail } = await verdictOn(unit, callback, keyring);
  await sql`
    update kyc_callbacks set outcome = ${outcome}, detail = ${detail ?? null}, handled_at = clock_timestamp()
    where id = ${callback.id}`.execute(unit.em.getKysely());
  if (outcome === 'applied') return outcome;
  unit.emit.audit({
    action: `kyc.callback_${outcome}`,
    outcome: 'denied',
    targets: [{ type: 'kyc_attempt', id: callback.attempt_id }],
    metadata: { provider: callback.provider, to: callback.status, ...(detail ? { detail } : {}) },
  });
  return outcome;
}

async function verdictOn(
  unit: Unit,
  callback: PendingCallback,
  keyring: Keyring,
): Promise<{ outcome: CallbackOutcome; detail?: string }> {
  const found = await attemptOf(unit.em, callback.attempt_id);
  if (!found) return { outcome: 'refused', detail: 'there is no such identity check' };
  if (found.provider !== callback.provider)
    return { outcome: 'refused', detail: `the check is with ${found.provider}` };
  try {
    const subject = await lockSubject(unit.em, found.user_id);
    const attempt = (await attemptOf(unit.em, found.id)) ?? found;
    if (await laterApplied(unit.em, callback)) return { outcome: 'stale' };
    if (attempt.status === 'in_review' && !(await putInReviewBy(unit.em, attempt))) {
      return { outcome: 'refused', detail: 'the check is in review by a person' };
    }
    const moved = await move(
      unit,
      { subject, attempt },
      {
        to: callback.status,
        by: 'provider',
        reason: callback.reason ?? (needsReason(callback.status) ? NO_REASON : undefined),
      },
    );
    await mailVerdict(unit, moved, keyring);
    return { outcome: 'applied' };
  } catch (error) {
    // A move is refused before anything of it is written.
    if (error instanceof Refusal) return { outcome: 'refused', detail: error.problem.message };
    throw error;
  }
}

const needsReason = (status: Verdict): boolean => status === 'rejected' || status === 'awaiting_input';

async function attemptOf(em: EntityManager, id: string): Promise<Attempt | undefined> {
  const { rows } = await sql<Attempt>`select ${ATTEMPT_COLUMNS} from kyc_attempts where id = ${id}`.execute(
    em.getKysely(),
  );
  return rows[0];
}

/** Providers send several final results in any order (approved, later refused): the latest to have occurred counts. */
async function laterApplied(em: EntityManager, callback: PendingCallback): Promise<boolean> {
  const { rows } = await sql`
    select 1 from kyc_callbacks later join kyc_callbacks this on this.id = ${callback.id}
    where later.attempt_id = this.attempt_id and later.provider = this.provider
      and later.outcome = 'applied' and later.occurred_at > this.occurred_at limit 1`.execute(em.getKysely());
  return rows.length > 0;
}

/** Whether it was the attempt's provider that put it in review; what a reviewer took up is for reviewers to decide. */
async function putInReviewBy(em: EntityManager, attempt: Attempt): Promise<boolean> {
  const { rows } = await sql<{ actor: string }>`
    select actor from kyc_transitions where attempt_id = ${attempt.id} and to_status = 'in_review'
    order by at desc limit 1`.execute(em.getKysely());
  return rows[0]?.actor === `provider:${attempt.provider}`;
}
