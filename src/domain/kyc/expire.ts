import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { newId } from '../ids.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import { type RequestContext, SYSTEM } from '../messages/envelope.ts';
import { Refusal } from '../problem.ts';
import { ATTEMPT_COLUMNS, type Attempt, lockSubject } from './attempts.ts';
import { kycExpiring } from './messages.ts';
import { bumpVersion, eventData, move } from './moves.ts';

/** A request for input that stays unanswered for so long is over. */
const IDLE = sql.raw(`interval '30 days'`);
/** How long before its document expires an approval is announced to end. */
const NOTICE = sql.raw('30');

/** A document is valid through the day it expires on, in UTC. */
const TODAY = sql.raw(`(now() at time zone 'UTC')::date`);

/** Attempts that the clock moves: approvals whose document has expired, and requests for input that timed out. */
const EXPIRED = sql`(status = 'approved' and expires_on < ${TODAY}
  or status = 'awaiting_input' and updated_at < now() - ${IDLE})`;
/** Approvals to be announced; not when a newer approval stands already. */
const EXPIRING = sql`(status = 'approved' and expires_on >= ${TODAY} and expires_on <= ${TODAY} + ${NOTICE} and reminded_at is null
  and not exists (select from kyc_attempts newer where newer.user_id = kyc_attempts.user_id
    and newer.status = 'approved' and newer.created_at > kyc_attempts.created_at))`;

/**
 * What the clock does, for at most `limit` attempts of each kind: moves what is due to `expired` and announces
 * approvals that end within 30 days (`kyc.expiring`, once). Each attempt is a transaction of its own and is looked at
 * again under its user's lock, so two of these at once do no harm. Returns how many of each were done; throws an
 * `AggregateError` when some could not be, after all the others were.
 */
export async function expireDueKyc(
  em: EntityManager,
  transact: Transact,
  limit: number,
): Promise<{ expired: number; announced: number }> {
  const failures: unknown[] = [];
  const each = async (due: Attempt[], work: (unit: Unit, due: Attempt) => Promise<boolean>) => {
    let done = 0;
    for (const attempt of due) {
      try {
        if (await apart(transact, (unit) => work(unit, attempt))) done += 1;
      } catch (error) {
        failures.push(error);
      }
    }
    return done;
  };
  const expired = await each(await select(em, EXPIRED, limit), expire);
  const announced = await each(await select(em, EXPIRING, limit), announce);
  if (failures.length > 0)
    throw new AggregateError(failures, `${failures.length} identity checks could not be expired`);
  return { expired, announced };
}

async function expire(unit: Unit, due: Attempt): Promise<boolean> {
  const subject = await lockSubject(unit.em, due.user_id);
  const attempt = await lookAgain(unit.em, due, EXPIRED);
  if (!attempt) return false;
  await move(unit, { subject, attempt }, { to: 'expired', by: 'clock' });
  return true;
}

async function announce(unit: Unit, due: Attempt): Promise<boolean> {
  const subject = await lockSubject(unit.em, due.user_id);
  const attempt = await lookAgain(unit.em, due, EXPIRING);
  if (!attempt?.expires_on) return false;
  await sql`update kyc_attempts set reminded_at = clock_timestamp() where id = ${attempt.id}`.execute(
    unit.em.getKysely(),
  );
  const version = await bumpVersion(unit, subject.id, subject.kyc_status);
  const data = { ...eventData({ subject, attempt }), expires_on: attempt.expires_on };
  unit.emit.event(kycExpiring, data, { subject: subject.id, sequence: version });
  unit.emit.audit({
    action: 'kyc.expiring',
    actor: SYSTEM,
    targets: [
      { type: 'user', id: subject.id },
      { type: 'kyc_attempt', id: attempt.id },
    ],
    subject: subject.id,
    metadata: { expires_on: attempt.expires_on, by: 'clock' },
  });
  return true;
}

/** A user that is deleted is no business of the clock's any more; the rows go with the erasure. */
async function apart(transact: Transact, work: (unit: Unit) => Promise<boolean>): Promise<boolean> {
  const id = newId();
  const context: RequestContext = { requestId: id, correlationId: id, actor: SYSTEM };
  try {
    return await transact(context, work);
  } catch (error) {
    if (error instanceof Refusal && error.problem.code === 'NOT_FOUND') return false;
    throw error;
  }
}

async function select(em: EntityManager, condition: typeof EXPIRED, limit: number): Promise<Attempt[]> {
  // Attempts of deleted users are left out here, or they would fill every page until the erasure.
  const { rows } = await sql<Attempt>`
    select ${ATTEMPT_COLUMNS} from kyc_attempts
    where ${condition} and exists (select from users where users.id = user_id and deleted_at is null)
    order by expires_on, id limit ${limit}`.execute(em.getKysely());
  return rows;
}

async function lookAgain(em: EntityManager, due: Attempt, condition: typeof EXPIRED): Promise<Attempt | undefined> {
  const { rows } =
    await sql<Attempt>`select ${ATTEMPT_COLUMNS} from kyc_attempts where id = ${due.id} and ${condition}`.execute(
      em.getKysely(),
    );
  return rows[0];
}
