import { timingSafeEqual } from 'node:crypto';
import { sql } from 'kysely';
import { currentTime } from '../../services/clock.ts';
import type { Keyring } from '../../services/keyring.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import type { RequestContext } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import type { Role } from '../users/entities.ts';
import { mailNotice } from '../users/mail.ts';
import { advanceVersion, findUser } from '../users/user.ts';
import type { AccessTokens, TokenPair } from './access-token.ts';
import { sessionReuseDetected } from './events.ts';
import { parseRefreshToken, type RefreshToken, successorOf } from './refresh-token.ts';
import { clientOf, IDLE_SECONDS, revokeSessions } from './sessions.ts';

/** For so long the token just replaced gets the same successor again: two tabs, or an answer that was lost. */
export const GRACE_SECONDS = 30;

type Rotation =
  | { kind: 'rotated'; token: RefreshToken; sessionId: string; userId: string; role: Role; amr: string[] }
  | { kind: 'reused' }
  | { kind: 'refused' };

interface SessionState {
  id: string;
  user_id: string;
  role: Role;
  amr: string[];
  current_hash: Buffer;
  previous_hash: Buffer | null;
  open: boolean;
  in_grace: boolean | null;
}

/**
 * Trades a refresh token for the next pair (RFC 9700, section 4.14.2). Refuses UNAUTHORIZED for a token that is not
 * good; for one that was replaced earlier (beyond the grace of the one just replaced) the whole session ends too, since
 * it was copied, and the owner is told.
 */
export async function refreshSession(
  deps: { transact: Transact; keyring: Keyring; accessTokens: AccessTokens },
  context: RequestContext,
  text: string,
): Promise<TokenPair> {
  const token = parseRefreshToken(text);
  const rotation = token
    ? await deps.transact(context, (unit) => rotate(unit, deps.keyring, token))
    : ({ kind: 'refused' } as const);
  if (rotation.kind !== 'rotated') {
    return refuse('UNAUTHORIZED', 'the refresh token is not valid; sign in again');
  }
  return deps.accessTokens.pair(rotation, rotation.token.text);
}

async function rotate(unit: Unit, keyring: Keyring, token: RefreshToken): Promise<Rotation> {
  const successor = successorOf(keyring, token);
  // The second look is for a request that lost the race against another with the same token.
  for (let look = 1; look <= 2; look += 1) {
    const session = await readSession(unit, token);
    if (!session?.open) return { kind: 'refused' };
    const rotated: Rotation = {
      kind: 'rotated',
      token: successor,
      sessionId: session.id,
      userId: session.user_id,
      role: session.role,
      amr: session.amr,
    };
    if (timingSafeEqual(session.current_hash, token.hash)) {
      if (await swap(unit, session.id, token, successor)) return rotated;
      continue;
    }
    if (session.in_grace && session.previous_hash?.equals(token.hash)) {
      // Only another SECRETS_KEY since then makes another successor: no theft, but no answer either.
      return session.current_hash.equals(successor.hash) ? rotated : { kind: 'refused' };
    }
    await endReused(unit, keyring, session);
    return { kind: 'reused' };
  }
  return { kind: 'refused' };
}

async function readSession(unit: Unit, token: RefreshToken): Promise<SessionState | undefined> {
  const { rows } = await sql<SessionState>`
    select s.id, s.user_id, u.role, s.amr, s.current_hash, s.previous_hash,
      s.revoked_at is null and s.expires_at > now() and s.idle_expires_at > now()
        and u.is_active and u.deleted_at is null as open,
      s.rotated_at > clock_timestamp() - make_interval(secs => ${GRACE_SECONDS}) as in_grace
    from sessions s join users u on u.id = s.user_id
    where s.family_hash = ${token.familyHash}`.execute(unit.em.getKysely());
  return rows[0];
}

/** Compare and swap: of two requests at once one replaces the token, the other finds it replaced. */
async function swap(unit: Unit, id: string, token: RefreshToken, successor: RefreshToken): Promise<boolean> {
  const { ip, userAgent } = clientOf(unit);
  const { rows } = await sql`
    update sessions set previous_hash = current_hash, current_hash = ${successor.hash}, rotated_at = clock_timestamp(),
      generation = generation + 1, last_seen_at = now(), ip = coalesce(${ip}::text, ip),
      user_agent = coalesce(${userAgent}::text, user_agent),
      idle_expires_at = least(expires_at, now() + make_interval(secs => ${IDLE_SECONDS}))
    where id = ${id} and current_hash = ${token.hash} and revoked_at is null
    returning id`.execute(unit.em.getKysely());
  return rows.length === 1;
}

async function endReused(unit: Unit, keyring: Keyring, session: SessionState): Promise<void> {
  const ended = await revokeSessions(unit, session.user_id, 'reuse_detected', { only: session.id });
  if (ended.length === 0) return;
  const sequence = await advanceVersion(unit.em, session.user_id);
  const detected = {
    session_id: session.id,
    user_id: session.user_id,
    detected_at: new Date(currentTime()).toISOString(),
  };
  unit.emit.event(sessionReuseDetected, detected, { subject: session.user_id, sequence });
  unit.emit.audit({
    action: 'session.reuse_detected',
    outcome: 'denied',
    targets: [
      { type: 'session', id: session.id },
      { type: 'user', id: session.user_id },
    ],
    subject: session.user_id,
  });
  const user = await findUser(unit.em, session.user_id);
  if (user) await mailNotice(unit, keyring, user, 'session-reuse');
}
