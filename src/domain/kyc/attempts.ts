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

/** The columns of `Attempt`; a date is taken as text, or it would become local midnight. */
export const ATTEMPT_COLUMNS = sql.raw(
  'id, user_id, previous_id, status, provider, country, document_type, expires_on::text as expires_on, reason, comment, version, submitted_at, decided_at, created_at, updated_at',
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
