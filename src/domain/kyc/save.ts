import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { tableOf } from '../../services/rows.ts';
import type { Emit } from '../messages/emit.ts';
import { ATTEMPT_COLUMNS, type Attempt, type Subject } from './attempts.ts';
import type { AttemptStatus } from './transitions.ts';

/** A row of `kyc_transitions`; its time is the database's. */
export interface TransitionRow {
  id: string;
  attempt_id: string;
  from_status: AttemptStatus | null;
  to_status: AttemptStatus;
  actor: string;
  reason: string | undefined;
  comment: string | undefined;
  correlation_id: string;
}

/** The locked user and one attempt, as they are now. Every move gives a new one. */
export interface Case {
  subject: Subject;
  attempt: Attempt;
}

/**
 * One attempt on its way through any number of moves that are written together: `advance` decides and tells of each,
 * `save` writes what came of them. Nothing is written for a draft that is never saved.
 */
export interface Draft {
  readonly emit: Emit;
  readonly fresh: boolean;
  subject: Subject;
  /** Times are the database's, and whether a claim has lasted until then: known after `save`. */
  attempt: Omit<Attempt, 'claimed_by' | 'claimed_until' | 'submitted_at' | 'decided_at' | 'created_at' | 'updated_at'>;
  /** The user's attempts that count for the projection, newest first. */
  history: readonly { id: string; status: AttemptStatus }[];
  /** Document number and birth date as they are kept, when they were handed in with this draft. */
  sealed?: Buffer;
  submitted: boolean;
  decided: 'now' | 'never' | 'as before';
  readonly transitions: TransitionRow[];
}

/**
 * Writes drafts of different users in one statement: the attempts, their history and what the users are shown as.
 * The caller holds the users' locks. Returns each as it stands now, in the order given.
 */
export async function save(em: EntityManager, drafts: readonly Draft[]): Promise<Case[]> {
  if (drafts.length === 0) return [];
  const attempts = drafts.map(({ attempt, fresh, submitted, decided, sealed }) => ({
    ...attempt,
    fresh,
    submitted,
    decided,
    sealed,
  }));
  const { rows } = await sql<Attempt>`
    with d as materialized (
      select * from ${tableOf(attempts, {
        id: 'uuid',
        user_id: 'uuid',
        previous_id: 'uuid',
        status: 'text',
        provider: 'text',
        country: 'text',
        document_type: 'text',
        expires_on: 'date',
        reason: 'text',
        comment: 'text',
        version: 'int',
        fresh: 'bool',
        submitted: 'bool',
        decided: 'text',
        sealed: 'bytea',
      })} as d (id, user_id, previous_id, status, provider, country, document_type, expires_on, reason, comment, version, fresh, submitted, decided, sealed)
    ), opened as (
      insert into kyc_attempts (id, user_id, previous_id, status, provider, country, document_type, expires_on, reason,
        comment, version, sealed_document, created_at, updated_at, submitted_at, decided_at)
      select id, user_id, previous_id, status, provider, country, document_type, expires_on, reason, comment, version, sealed,
        clock_timestamp(), clock_timestamp(), case when submitted then clock_timestamp() end,
        case when decided = 'now' then clock_timestamp() end
      from d where fresh
      returning ${ATTEMPT_COLUMNS}
    ), moved as (
      update kyc_attempts a set
        status = d.status, provider = d.provider, country = d.country, document_type = d.document_type,
        expires_on = d.expires_on, reason = d.reason, comment = d.comment, version = d.version,
        sealed_document = coalesce(d.sealed, a.sealed_document), updated_at = clock_timestamp(),
        submitted_at = case when d.submitted then clock_timestamp() else a.submitted_at end,
        decided_at = case d.decided when 'now' then clock_timestamp() when 'as before' then a.decided_at end,
        claimed_by = case when d.status in ('processing', 'in_review') then a.claimed_by end,
        claimed_until = case when d.status in ('processing', 'in_review') then a.claimed_until end
      from d where a.id = d.id and not d.fresh
      returning a.*
    ), noted as (
      insert into kyc_transitions (id, attempt_id, from_status, to_status, actor, reason, comment, correlation_id, at)
      select t.*, clock_timestamp() from ${tableOf(
        drafts.flatMap(({ transitions }) => transitions),
        {
          id: 'uuid',
          attempt_id: 'uuid',
          from_status: 'text',
          to_status: 'text',
          actor: 'text',
          reason: 'text',
          comment: 'text',
          correlation_id: 'text',
        },
      )} as t
    ), shown as (
      update users u set kyc_status = s.kyc_status, version = s.version, updated_at = clock_timestamp()
      from ${tableOf(
        drafts.map(({ subject }) => subject),
        { id: 'uuid', kyc_status: 'text', version: 'int' },
      )} as s (id, kyc_status, version)
      where u.id = s.id
    )
    select ${ATTEMPT_COLUMNS} from opened union all select ${ATTEMPT_COLUMNS} from moved`.execute(em.getKysely());
  const written = new Map(rows.map((row) => [row.id, row]));
  return drafts.map(({ subject, attempt: { id } }) => {
    const attempt = written.get(id);
    if (!attempt) throw new Error('an attempt under its user’s lock was not written');
    return { subject, attempt };
  });
}
