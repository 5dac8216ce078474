/**
 * Who sends a request. A token's signature is checked once and remembered for as long as the token lives. Its session is
 * remembered under the revision of sessions, which every revocation, change of role, disabled account and second factor
 * turned on or off moves; without a revision to watch it is looked up on every request.
 */
import { sql } from 'kysely';
import { currentTime } from '../../services/clock.ts';
import { type Database, iso } from '../../services/database.ts';
import type { Role } from '../users/entities.ts';
import type { AccessClaims, AccessTokens } from './access-token.ts';

/** A signed-in user. The role is the one in the database now, not the one in the token. */
export interface Authenticated {
  userId: string;
  sessionId: string;
  role: Role;
  /** The role needs a second factor and none is on: the session is good for turning one on, and for nothing else. */
  mustEnrol?: boolean;
}

const REMEMBERED = 5000;

/** `undefined` for a token that is forged, expired, or whose session or user is gone. */
export type Authenticate = (token: string) => Promise<Authenticated | undefined>;

export function createAuthenticate(deps: {
  database: Database;
  accessTokens: AccessTokens;
  /** Roles that need a second factor. */
  secondFactorRequired?: readonly Role[];
  sessions?: { current(): Promise<string> };
}): Authenticate {
  let remembered = { revision: '', sessions: new Map<string, Remembered>() };
  const verified = new Map<string, AccessClaims>();

  async function claimsOf(token: string): Promise<AccessClaims | undefined> {
    const known = verified.get(token);
    if (known) {
      if (known.expiresAt > currentTime() / 1000) return known;
      verified.delete(token);
      return undefined;
    }
    const claims = await deps.accessTokens.verify(token);
    if (!claims) return undefined;
    if (verified.size >= REMEMBERED) {
      const oldest = verified.keys().next();
      if (!oldest.done) verified.delete(oldest.value);
    }
    verified.set(token, claims);
    return claims;
  }

  async function lookUp(claims: AccessClaims): Promise<Remembered | undefined> {
    const { rows } = await sql<{ role: Role; mfa: boolean; expires_at: string }>`
      select u.role, u.totp_enabled_at is not null as mfa, s.expires_at from sessions s join users u on u.id = s.user_id
      where s.id = ${claims.sessionId} and s.user_id = ${claims.userId} and s.revoked_at is null
        and s.expires_at > now() and u.is_active and u.deleted_at is null`.execute(deps.database.em.fork().getKysely());
    const row = rows[0];
    if (!row) return undefined;
    const mustEnrol = !row.mfa && (deps.secondFactorRequired?.includes(row.role) ?? false);
    const who = { userId: claims.userId, sessionId: claims.sessionId, role: row.role, mustEnrol };
    return { who, expiresAt: Date.parse(iso(row.expires_at)) };
  }

  return async (token) => {
    const claims = await claimsOf(token);
    if (!claims) return undefined;
    if (!deps.sessions) return (await lookUp(claims))?.who;
    const revision = await deps.sessions.current();
    if (revision !== remembered.revision) remembered = { revision, sessions: new Map() };
    // A look-up that ends after the revision has moved on is put into the memory that was dropped with the old one.
    const { sessions } = remembered;
    const known = sessions.get(claims.sessionId);
    if (known && known.who.userId === claims.userId) return known.expiresAt > currentTime() ? known.who : undefined;
    const found = await lookUp(claims);
    if (found && sessions.size < REMEMBERED) sessions.set(claims.sessionId, found);
    return found?.who;
  };
}

interface Remembered {
  who: Authenticated;
  /** In ms since the epoch. */
  expiresAt: number;
}
