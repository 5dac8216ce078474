import { sql } from 'kysely';
import { type EntityManager, iso, isoOrNull } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import { type AuditEntry, list as listAudit } from '../audit/index.ts';
import { type EmailRecord, listEmails } from '../emails/list.ts';
import { findCase } from '../kyc/queries.ts';
import { listOperations, type OperationSummary } from '../operations/list.ts';
import { refuse } from '../problem.ts';
import { findUser, type UserResource, userResource } from './user.ts';

/** Rows of one kind that an export holds at most; `truncated` names the kinds that had more. */
const MAX_ROWS = 20_000;
const PAGE = 1000;

/** Everything that is stored about a user, without what is only stored as a hash or a ciphertext. Times are RFC 3339. */
export interface UserExport {
  exported_at: string;
  profile: UserResource & {
    terms_accepted_at: string | null;
    disabled_reason: string | null;
    second_factor_enabled_at: string | null;
    recovery_codes_left: number;
  };
  sessions: Record<string, unknown>[];
  links: Record<string, unknown>[];
  emails: EmailRecord[];
  kyc: Record<string, unknown>[];
  operations: OperationSummary[];
  audit: AuditEntry[];
  truncated: string[];
}

/** Refuses NOT_FOUND. Reads only; several statements, so what is written meanwhile may or may not be in it. */
export async function exportUser(em: EntityManager, keyring: Keyring, userId: string): Promise<UserExport> {
  const user = (await findUser(em, userId)) ?? refuse('NOT_FOUND', 'there is no such user');
  const truncated: string[] = [];
  const bounded = <T>(kind: string, rows: T[]): T[] => {
    if (rows.length > MAX_ROWS) truncated.push(kind);
    return rows.slice(0, MAX_ROWS);
  };
  return {
    exported_at: new Date().toISOString(),
    profile: { ...userResource(user), ...(await account(em, userId)) },
    sessions: bounded('sessions', await sessions(em, userId)),
    links: bounded('links', await links(em, userId)),
    emails: bounded('emails', await emails(em, userId)),
    kyc: await attempts(em, userId),
    operations: bounded('operations', await listOperations(em, { caller: `user:${userId}` }, MAX_ROWS + 1)),
    audit: bounded('audit', await auditRows(em, keyring, userId)),
    truncated,
  };
}

async function account(em: EntityManager, userId: string) {
  const { rows } = await sql<{
    terms_accepted_at: string | null;
    disabled_reason: string | null;
    totp_enabled_at: string | null;
    codes: number;
  }>`
    select terms_accepted_at, disabled_reason, totp_enabled_at, cardinality(recovery_codes) as codes
    from users where id = ${userId}`.execute(em.getKysely());
  const row = rows[0];
  return {
    terms_accepted_at: isoOrNull(row?.terms_accepted_at),
    disabled_reason: row?.disabled_reason ?? null,
    second_factor_enabled_at: isoOrNull(row?.totp_enabled_at),
    recovery_codes_left: row?.codes ?? 0,
  };
}

async function sessions(em: EntityManager, userId: string): Promise<Record<string, unknown>[]> {
  const { rows } = await sql<Record<string, unknown> & Record<'created_at' | 'last_seen_at' | 'expires_at', string>>`
    select id, ip, user_agent, amr, created_at, last_seen_at, expires_at, revoked_at, revoked_reason
    from sessions where user_id = ${userId} order by created_at desc limit ${MAX_ROWS + 1}`.execute(em.getKysely());
  return rows.map((row) => ({
    ...row,
    created_at: iso(row.created_at),
    last_seen_at: iso(row.last_seen_at),
    expires_at: iso(row.expires_at),
    revoked_at: isoOrNull(row.revoked_at as string | null),
  }));
}

/** Links that were mailed; a `change-email` one names the address it was for. */
async function links(em: EntityManager, userId: string): Promise<Record<string, unknown>[]> {
  const { rows } = await sql<{
    purpose: string;
    email: string | null;
    created_at: string;
    expires_at: string;
    used_at: string | null;
  }>`
    select purpose, email, created_at, expires_at, used_at from user_tokens
    where user_id = ${userId} order by created_at desc limit ${MAX_ROWS + 1}`.execute(em.getKysely());
  return rows.map((row) => ({
    ...row,
    created_at: iso(row.created_at),
    expires_at: iso(row.expires_at),
    used_at: isoOrNull(row.used_at),
  }));
}

async function emails(em: EntityManager, userId: string): Promise<EmailRecord[]> {
  const found: EmailRecord[] = [];
  while (found.length <= MAX_ROWS) {
    const page = await listEmails(em, { userId }, PAGE, found.at(-1)?.id);
    found.push(...page);
    if (page.length < PAGE) break;
  }
  return found;
}

/** Attempts with their history; what reviewers noted for each other is theirs. */
async function attempts(em: EntityManager, userId: string): Promise<Record<string, unknown>[]> {
  const found = (await findCase(em, userId))?.attempts ?? [];
  return found.map(({ comment, version, transitions, ...attempt }) => ({
    ...attempt,
    transitions: transitions.map(({ comment: internal, actor, ...transition }) => transition),
  }));
}

/** Rows of which the user is the actor or a target, each once, the newest first. */
async function auditRows(em: EntityManager, keyring: Keyring, userId: string): Promise<AuditEntry[]> {
  const keys = keyring.for('audit');
  const found = new Map<string, AuditEntry>();
  for (const filter of [{ actor: userId }, { target: userId }]) {
    let cursor: string | undefined;
    do {
      const page = await listAudit(em, { ...filter, limit: PAGE, cursor }, keys);
      for (const row of page.rows) found.set(row.id, row);
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined && found.size <= MAX_ROWS);
  }
  return [...found.values()].sort((a, b) => (a.occurred_at < b.occurred_at ? 1 : -1));
}
