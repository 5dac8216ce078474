import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { iso, isoOrNull } from '../../services/database.ts';
import { ATTEMPT_COLUMNS, type Attempt, type AttemptView, attemptsOf, attemptView } from './attempts.ts';
import { currentOf, toDecide } from './current.ts';
import type { AttemptStatus, KycStatus } from './transitions.ts';

/** An attempt as those see it who decide on it: with the user, the internal comment and the version. */
export interface ReviewView extends AttemptView {
  user_id: string;
  previous_id: string | null;
  comment: string | null;
  version: number;
  /** The reviewer who holds it and until when; `null` when nobody does. */
  claimed_by: string | null;
  claimed_until: string | null;
}

/** One line of an attempt's history. `from` is null for its opening. */
export interface TransitionView {
  at: string;
  from: AttemptStatus | null;
  to: AttemptStatus;
  actor: string;
  reason: string | null;
  comment: string | null;
}

export interface CaseView {
  user_id: string;
  kyc_status: KycStatus;
  /** Newest first, each with its moves, oldest first. */
  attempts: (ReviewView & { transitions: TransitionView[] })[];
}

export const reviewView = (attempt: Attempt, kycStatus: KycStatus): ReviewView => ({
  ...attemptView(attempt, kycStatus),
  user_id: attempt.user_id,
  previous_id: attempt.previous_id,
  comment: attempt.comment,
  version: attempt.version,
  claimed_by: attempt.claimed_by,
  claimed_until: attempt.claimed_by && isoOrNull(attempt.claimed_until),
});

async function kycStatusOf(em: EntityManager, userId: string): Promise<KycStatus | undefined> {
  const { rows } = await sql<{ kyc_status: KycStatus }>`
    select kyc_status from users where id = ${userId} and deleted_at is null`.execute(em.getKysely());
  return rows[0]?.kyc_status;
}

/** The attempt that stands for a user, as the user sees it; `undefined` when there was never one. */
export async function findOwnKyc(em: EntityManager, userId: string): Promise<AttemptView | undefined> {
  const kycStatus = await kycStatusOf(em, userId);
  const attempt = kycStatus && currentOf(await attemptsOf(em, userId));
  return attempt && attemptView(attempt, kycStatus);
}

/** The attempt that a decision on a user is about: the one named, or the one that stands. */
export async function findToDecide(
  em: EntityManager,
  userId: string,
  attemptId?: string,
): Promise<Attempt | undefined> {
  return toDecide(await attemptsOf(em, userId), attemptId);
}

/** All of a user's attempts with their history; `undefined` when there is no such user. */
export async function findCase(em: EntityManager, userId: string): Promise<CaseView | undefined> {
  const kycStatus = await kycStatusOf(em, userId);
  if (!kycStatus) return undefined;
  const attempts = await attemptsOf(em, userId);
  const { rows } = await sql<{
    attempt_id: string;
    from_status: AttemptStatus | null;
    to_status: AttemptStatus;
    actor: string;
    reason: string | null;
    comment: string | null;
    at: string;
  }>`
    select t.attempt_id, t.from_status, t.to_status, t.actor, t.reason, t.comment, t.at
    from kyc_transitions t join kyc_attempts a on a.id = t.attempt_id
    where a.user_id = ${userId} order by t.at, t.id`.execute(em.getKysely());
  const transitions = Map.groupBy(rows, (row) => row.attempt_id);
  return {
    user_id: userId.toLowerCase(),
    kyc_status: kycStatus,
    attempts: attempts.map((attempt) => ({
      ...reviewView(attempt, kycStatus),
      transitions: (transitions.get(attempt.id) ?? []).map((row) => ({
        at: iso(row.at),
        from: row.from_status,
        to: row.to_status,
        actor: row.actor,
        reason: row.reason,
        comment: row.comment,
      })),
    })),
  };
}

/** Held by this reviewer, by anybody (`any`) or by nobody (`none`). */
export type HeldBy = { reviewer: string } | 'any' | 'none';

/**
 * The attempts in one state, oldest first, from after the attempt `after` on; one more than `limit` at most, so that
 * the caller sees whether there are more.
 */
export async function listByStatus(
  em: EntityManager,
  query: { status: AttemptStatus; limit: number; after?: string | undefined; held?: HeldBy | undefined },
): Promise<ReviewView[]> {
  const held =
    query.held === undefined
      ? sql``
      : query.held === 'none'
        ? sql`and (claimed_until is null or claimed_until <= now())`
        : query.held === 'any'
          ? sql`and claimed_until > now()`
          : sql`and claimed_by = ${query.held.reviewer} and claimed_until > now()`;
  const after = query.after ? sql`and id > ${query.after}` : sql``;
  const { rows } = await sql<Attempt & { kyc_status: KycStatus }>`
    select ${ATTEMPT_COLUMNS}, (select kyc_status from users where users.id = user_id) as kyc_status
    from kyc_attempts
    where status = ${query.status} ${after} ${held} and exists (select from users where users.id = user_id and deleted_at is null)
    order by id limit ${query.limit + 1}`.execute(em.getKysely());
  return rows.map((row) => reviewView(row, row.kyc_status));
}
