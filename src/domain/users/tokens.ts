import { createHash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { newId } from '../ids.ts';
import type { Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import type { TokenPurpose } from './entities.ts';

/** 256 bits of randomness: a plain SHA-256 of it can be stored (OWASP ASVS 5.0, 6.5.2). */
const digest = (token: string): Buffer => createHash('sha256').update(token).digest();

const HOUR = 3600;
export const TOKEN_SECONDS: Record<TokenPurpose, number> = {
  'verify-email': 24 * HOUR,
  'reset-password': HOUR,
  'change-email': HOUR,
};
/** The first password of an account that an admin made: the person did not ask for the mail and may read it later. */
export const INVITATION_SECONDS = 24 * HOUR;

/** Makes a token for a link; only its hash is stored. Older links of the same purpose stay good until one is used. */
export async function issueToken(
  em: EntityManager,
  userId: string,
  purpose: TokenPurpose,
  options: { seconds?: number; email?: string; sessionId?: string } = {},
): Promise<string> {
  const token = randomBytes(32).toString('base64url');
  const seconds = options.seconds ?? TOKEN_SECONDS[purpose];
  await sql`
    insert into user_tokens (id, user_id, purpose, token_hash, expires_at, email, session_id)
    values (${newId()}, ${userId}, ${purpose}, ${digest(token)}, now() + make_interval(secs => ${seconds}),
      ${options.email ?? null}, ${options.sessionId ?? null})`.execute(em.getKysely());
  return token;
}

const unknownToken = (): never =>
  refuse('VALIDATION_ERROR', 'the link is not valid: it was used before, has expired, or was never sent', {
    field: 'token',
  });

/**
 * The address of the account that a token belongs to. Refuses (field `token`) one that could not be used now. A look
 * before costly work; `spendToken` decides.
 */
export async function checkToken(em: EntityManager, purpose: TokenPurpose, token: string): Promise<{ email: string }> {
  const { rows } = await sql<{ email: string }>`
    select u.email from user_tokens t join users u on u.id = t.user_id
    where t.token_hash = ${digest(token)} and t.purpose = ${purpose} and t.used_at is null and t.expires_at > now()
      and u.deleted_at is null`.execute(em.getKysely());
  return rows[0] ?? unknownToken();
}

export interface SpentToken {
  userId: string;
  /** The address that a `change-email` token confirms. */
  email: string | null;
  /** The session that asked for it. */
  sessionId: string | null;
}

/**
 * Uses a token up, together with the user's other tokens of its purpose, and says whose it is. Of two at once one
 * wins. Refuses (VALIDATION_ERROR, field `token`) a token that is spent, expired or unknown.
 */
export async function spendToken(unit: Unit, purpose: TokenPurpose, token: string): Promise<SpentToken> {
  const em = unit.em.getKysely();
  // The user first, then the tokens: every use case locks in this order, so no two wait for each other.
  const owner = await sql<{ id: string }>`
    select id from users
    where id = (select user_id from user_tokens where token_hash = ${digest(token)}) and deleted_at is null
    for update`.execute(em);
  const { rows } = await sql<{ user_id: string; email: string | null; session_id: string | null }>`
    update user_tokens set used_at = now()
    where token_hash = ${digest(token)} and purpose = ${purpose} and used_at is null and expires_at > now()
    returning user_id, email, session_id`.execute(em);
  const spent = rows[0];
  if (!spent || owner.rows[0]?.id !== spent.user_id) return unknownToken();
  await spendTokens(unit.em, spent.user_id, purpose);
  return { userId: spent.user_id, email: spent.email, sessionId: spent.session_id };
}

/** Uses up every token of a user, of one purpose or of all. */
export async function spendTokens(em: EntityManager, userId: string, purpose?: TokenPurpose): Promise<void> {
  await sql`
    update user_tokens set used_at = now()
    where user_id = ${userId} and used_at is null and (${purpose ?? null}::text is null or purpose = ${purpose ?? null})`.execute(
    em.getKysely(),
  );
}
