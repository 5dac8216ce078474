import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { iso, isoOrNull } from '../../services/database.ts';
import { refuse } from '../problem.ts';
import type { AttemptStatus, KycStatus } from './transitions.ts';

/** A row of `kyc_attempts` without the encrypted part. */
export interface Attempt {
  id: string;
  user_id: string;
  previous_id: string | null;
  status: AttemptStatus;
  provider: string;
  country: string | null;
  document_type: string | null;
  expires_on: string | null;
  reason: string | null;
  comment: string | null;
  version: number;
  /** The reviewer who holds it, while the claim lasts. */
  claimed_by: string | null;
  /** Also of a claim that has ended. */
  claimed_until: string | null;
  submitted_at: string | null;
  decided_at: string | null;
  created_at: string;
  updated_at: string;
}

/** The user an attempt is about, as the locked row. */
export interface Subject {
  id: string;
  email: string;
  full_name: string;
  kyc_status: KycStatus;
  version: number;
}

/** What the subject is shown of an attempt: no document data, no internal comment. Times are RFC 3339 UTC, `expires_on` is a date. */
export interface AttemptView {
  id: string;
  status: AttemptStatus;
  kyc_status: KycStatus;
  reason: string | null;
  provider: string;
  country: string | null;
  document_type: string | null;
  expires_on: string | null;
  submitted_at: string | null;
  decided_at: string | null;
  created_at: string;
  updated_at: string;
}

export function attemptView(attempt: Attempt, kycStatus: KycStatus): AttemptView {
  return {
    id: attempt.id,
    status: attempt.status,
    kyc_status: kycStatus,
    reason: attempt.reason,
    provider: attempt.provider,
    country: attempt.country,
    document_type: attempt.document_type,
    expires_on: attempt.expires_on,
    submitted_at: isoOrNull(attempt.submitted_at),
    decided_at: isoOrNull(attempt.decided_at),
    created_at: iso(attempt.created_at),
    updated_at: iso(attempt.updated_at),
  };
}

/**
 * The columns of `Attempt`; a date is taken as text, or it would become local midnight. A claim ends by the clock, not by
 * the transaction's: whoever waited for a lock sees its end too.
 */
export const ATTEMPT_COLUMNS = sql.raw(
  `id, user_id, previous_id, status, provider, country, document_type, expires_on::text as expires_on, reason, comment, version,
    case when claimed_until > clock_timestamp() then claimed_by end as claimed_by, claimed_until,
    submitted_at, decided_at, created_at, updated_at`,
);

/**
 * Locks a living user's row: all that happens to one user's attempts happens one after the other. NOT_FOUND otherwise.
 * (`no key update`, so that rows which only refer to the user, sessions for one, need not wait.)
 */
export async function lockSubject(em: EntityManager, userId: string): Promise<Subject> {
  const { rows } = await sql<Subject>`
    select id, email, full_name, kyc_status, version from users
    where id = ${userId} and deleted_at is null for no key update`.execute(em.getKysely());
  return rows[0] ?? refuse('NOT_FOUND', 'there is no such user');
}

/** All attempts of a user, newest first. */
export async function attemptsOf(em: EntityManager, userId: string): Promise<Attempt[]> {
  const { rows } = await sql<Attempt>`
    select ${ATTEMPT_COLUMNS} from kyc_attempts where user_id = ${userId}
    order by created_at desc, id desc`.execute(em.getKysely());
  return rows;
}

/** A locked user and, newest first, the attempts that count: every one that was not cancelled, and the newest of all. */
export interface Standing {
  subject: Subject;
  attempts: Attempt[];
}

/**
 * Locks several users and reads where they stand; one that does not exist or is deleted is left out, and without `wait`
 * one that somebody else has locked. What happens to one user's attempts happens one after the other, as with
 * `lockSubject`.
 */
export async function lockStandings(
  em: EntityManager,
  userIds: string[],
  { wait }: { wait: boolean },
): Promise<Map<string, Standing>> {
  const { rows: subjects } = await sql<Subject>`
    select id, email, full_name, kyc_status, version from users
    where id = any(${userIds}::uuid[]) and deleted_at is null order by id
    for no key update ${wait ? sql`` : sql`skip locked`}`.execute(em.getKysely());
  const standings = new Map(subjects.map((subject) => [subject.id, { subject, attempts: [] as Attempt[] }]));
  // A statement of its own: what was committed before the lock was granted must be seen.
  const { rows: attempts } = await sql<Attempt>`
    select ${ATTEMPT_COLUMNS}
    from unnest(${userIds}::uuid[]) as u (one_id) cross join lateral (
      select * from kyc_attempts where user_id = one_id and status <> 'cancelled'
      union all
      select * from (select * from kyc_attempts where user_id = one_id order by created_at desc, id desc limit 1) newest
      where status = 'cancelled'
    ) a
    order by created_at desc, id desc`.execute(em.getKysely());
  for (const attempt of attempts) standings.get(attempt.user_id)?.attempts.push(attempt);
  return standings;
}
