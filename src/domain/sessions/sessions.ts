/**
 * A session is open, then ended: revoked (by its owner, an administrator, a new password, or a refresh token that was
 * used twice), expired 30 days after its start, or idle for 7 days. An ended session never opens again.
 */
import { sql } from 'kysely';
import { type EntityManager, iso } from '../../services/database.ts';
import { newId } from '../ids.ts';
import type { Unit } from '../messages/emit.ts';
import { advanceVersion } from '../users/user.ts';
import { type RevocationReason, sessionCreated, sessionRevoked } from './events.ts';
import { newRefreshToken } from './refresh-token.ts';

const DAY = 86_400;
export const SESSION_SECONDS = 30 * DAY;
export const IDLE_SECONDS = 7 * DAY;

/** A session as its owner sees it. */
export interface SessionResource {
  id: string;
  /** Whether it is the one that asks. */
  current: boolean;
  ip: string | null;
  user_agent: string | null;
  created_at: string;
  last_seen_at: string;
  expires_at: string;
}

/** What of a client is kept with its session. */
export const clientOf = (unit: Unit): { ip: string | null; userAgent: string | null } => ({
  ip: unit.emit.context.ip ?? null,
  userAgent: unit.emit.context.userAgent?.slice(0, 512).toWellFormed() ?? null,
});

/** Opens a session for a user whose row this transaction has locked at `version`; `amr` says how it was proven who it is. */
export async function openSession(
  unit: Unit,
  user: { id: string; version: number },
  amr: string[] = ['pwd'],
): Promise<{ sessionId: string; refreshToken: string }> {
  const id = newId();
  const token = newRefreshToken();
  const { ip, userAgent } = clientOf(unit);
  const { rows } = await sql<{ created_at: string; expires_at: string }>`
    insert into sessions (id, user_id, family_hash, current_hash, ip, user_agent, amr, expires_at, idle_expires_at)
    values (${id}, ${user.id}, ${token.familyHash}, ${token.hash}, ${ip}, ${userAgent}, ${amr},
      now() + make_interval(secs => ${SESSION_SECONDS}), now() + make_interval(secs => ${IDLE_SECONDS}))
    returning created_at, expires_at`.execute(unit.em.getKysely());
  const row = rows[0];
  if (!row) throw new Error('an insert returned no row');
  const created = {
    session_id: id,
    user_id: user.id,
    created_at: iso(row.created_at),
    expires_at: iso(row.expires_at),
  };
  unit.emit.event(sessionCreated, created, { subject: user.id, sequence: user.version });
  unit.emit.audit({
    action: 'session.created',
    actor: { type: 'user', id: user.id },
    targets: [
      { type: 'session', id },
      { type: 'user', id: user.id },
    ],
    subject: user.id,
    metadata: { amr: amr.join(',') },
  });
  return { sessionId: id, refreshToken: token.text };
}

export const SESSION_SORTS = ['created_at', 'last_seen_at'] as const;

export interface SessionQuery {
  page: number;
  limit: number;
  sort: (typeof SESSION_SORTS)[number];
  order: 'asc' | 'desc';
}

/** One page of a user's open sessions and how many there are in all. */
export async function listSessions(
  em: EntityManager,
  user: { userId: string; sessionId: string },
  query: SessionQuery,
): Promise<{ sessions: SessionResource[]; total: number }> {
  const order = query.order === 'asc' ? sql`asc` : sql`desc`;
  const { rows } = await sql<Omit<SessionResource, 'current'>>`
    select id, ip, user_agent, created_at, last_seen_at, expires_at from sessions
    where user_id = ${user.userId} and revoked_at is null and expires_at > now() and idle_expires_at > now()
    order by ${sql.ref(query.sort)} ${order}, id ${order}
    limit ${query.limit} offset ${(query.page - 1) * query.limit}`.execute(em.getKysely());
  const count = await sql<{ total: string }>`
    select count(*) as total from sessions
    where user_id = ${user.userId} and revoked_at is null and expires_at > now() and idle_expires_at > now()`.execute(
    em.getKysely(),
  );
  const sessions = rows.map((row) => ({
    id: row.id,
    current: row.id === user.sessionId,
    ip: row.ip,
    user_agent: row.user_agent,
    created_at: iso(row.created_at),
    last_seen_at: iso(row.last_seen_at),
    expires_at: iso(row.expires_at),
  }));
  return { sessions, total: Number(count.rows[0]?.total ?? 0) };
}

/**
 * Ends the open sessions of a user: all of them, `only` one, or all `except` one. Returns the ids of those it ended;
 * their access tokens stop working with the commit.
 */
export async function revokeSessions(
  unit: Unit,
  userId: string,
  reason: RevocationReason,
  which: { only?: string; except?: string } = {},
): Promise<string[]> {
  const em = unit.em.getKysely();
  // The user first, then the sessions: every use case locks in this order.
  await sql`select 1 from users where id = ${userId} for update`.execute(em);
  const { rows } = await sql<{ id: string; revoked_at: string }>`
    update sessions set revoked_at = now(), revoked_reason = ${reason}
    where user_id = ${userId} and revoked_at is null
      and (${which.only ?? null}::uuid is null or id = ${which.only ?? null}::uuid)
      and (${which.except ?? null}::uuid is null or id <> ${which.except ?? null}::uuid)
    returning id, revoked_at`.execute(em);
  if (rows.length === 0) return [];
  const last = await advanceVersion(unit.em, userId, rows.length);
  for (const [index, row] of rows.entries()) {
    unit.emit.event(
      sessionRevoked,
      { session_id: row.id, user_id: userId, reason, revoked_at: iso(row.revoked_at) },
      { subject: userId, sequence: last - rows.length + 1 + index },
    );
    unit.emit.audit({
      action: 'session.revoked',
      targets: [
        { type: 'session', id: row.id },
        { type: 'user', id: userId },
      ],
      subject: userId,
      metadata: { reason },
    });
  }
  return rows.map((row) => row.id);
}
