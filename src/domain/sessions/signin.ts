import { sql } from 'kysely';
import { type EntityManager, isoOrNull } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import type { RequestContext } from '../messages/envelope.ts';
import { Refusal, refuse } from '../problem.ts';
import { enableIfDue } from '../users/intervention.ts';
import { mailNewSignIn } from '../users/mail.ts';
import { type CodeKind, useCode } from '../users/one-time-codes.ts';
import type { PasswordHasher } from '../users/password.ts';
import { advanceVersion, findUserByEmail, type UserRow, userColumns } from '../users/user.ts';
import type { AccessTokens, Grant, TokenPair } from './access-token.ts';
import { isNewDevice } from './devices.ts';
import { clientOf, openSession } from './sessions.ts';
import { accountKey, type CountedAttempt, cancelAttempt, countAttempt, settleAttempt } from './signin-locks.ts';

export interface SignInDeps {
  /** Reads outside of the transactions. */
  em: EntityManager;
  transact: Transact;
  keyring: Keyring;
  passwords: PasswordHasher;
  accessTokens: AccessTokens;
}

type Why = 'unknown_address' | 'wrong_password' | 'wrong_code' | 'not_verified' | 'inactive' | 'locked';

/** RFC 8176, section 2. A recovery code is no `otp`, but a second factor all the same. */
const AMR: Record<CodeKind, string[]> = { totp: ['pwd', 'otp', 'mfa'], recovery: ['pwd', 'mfa'] };

type SignInOutcome =
  | { opened: Grant & { refreshToken: string } }
  | { refused: 'changed' | 'code_needed' | 'wrong_code' | 'not_verified' | 'inactive'; until?: string | null };

/**
 * Signs in with an address and a password and opens a session. Refuses UNAUTHORIZED alike, and after as long, for an
 * address nobody has and a wrong password, and (`mfa_required` in the details) without a good code when the second
 * factor is on; FORBIDDEN for an account that is not verified or not active, to whoever knows the password;
 * RATE_LIMIT_EXCEEDED with `retry_after` while the address or the network is locked. The lock is taken and given back in
 * short transactions; the password is checked between them. An account disabled until a time that has come is enabled.
 */
export async function signIn(
  deps: SignInDeps,
  context: RequestContext,
  input: { email: string; password: string; code?: string | undefined },
): Promise<TokenPair> {
  const attempt = await count(deps, context, input.email);
  const user = await findUserByEmail(deps.em, input.email);
  const { right, rehashed } = await check(deps, context, attempt, user, input.password);
  if (!user || !right) {
    await note(deps, context, input.email, user, user ? 'wrong_password' : 'unknown_address');
    return refuse('UNAUTHORIZED', 'the e-mail address or the password is wrong');
  }
  const outcome = await deps.transact(context, (unit) => open(unit, deps, attempt, user, { ...input, rehashed }));
  if ('opened' in outcome) return deps.accessTokens.pair(outcome.opened, outcome.opened.refreshToken);
  switch (outcome.refused) {
    case 'changed':
      return refuse('UNAUTHORIZED', 'the e-mail address or the password is wrong');
    case 'code_needed':
      return refuse('UNAUTHORIZED', 'a code of your second factor is needed', { details: { mfa_required: true } });
    case 'wrong_code':
      return refuse('UNAUTHORIZED', 'the code is wrong or was used before', { details: { mfa_required: true } });
    case 'not_verified':
      return refuse('FORBIDDEN', 'please verify your e-mail address first');
    case 'inactive':
      return refuse(
        'FORBIDDEN',
        'this account is disabled',
        outcome.until ? { details: { until: outcome.until } } : {},
      );
  }
}

/** What comes after the right password, in one transaction. A wrong code stays counted; asking for one does not count. */
async function open(
  unit: Unit,
  { keyring }: SignInDeps,
  attempt: CountedAttempt,
  user: UserRow,
  input: { email: string; code?: string | undefined; rehashed: string | undefined },
): Promise<SignInOutcome> {
  const checked = await lockIfUnchanged(unit, user);
  if (!checked) return { refused: 'changed' };
  const is_active = checked.is_active || (await enableIfDue(unit, checked.id));
  if (!is_active || !checked.is_verified) {
    await settleAttempt(unit.em, attempt);
    const why = is_active ? 'not_verified' : 'inactive';
    refused(unit, keyring, input.email, checked, why);
    return { refused: why, until: isoOrNull(checked.disabled_until) };
  }
  if (checked.mfa && input.code === undefined) {
    await cancelAttempt(unit.em, attempt);
    return { refused: 'code_needed' };
  }
  const kind = checked.mfa ? await useCode(unit.em, keyring, checked.id, input.code ?? '') : undefined;
  if (checked.mfa && !kind) {
    refused(unit, keyring, input.email, checked, 'wrong_code');
    return { refused: 'wrong_code' };
  }
  await settleAttempt(unit.em, attempt);
  const client = clientOf(unit);
  if (await isNewDevice(unit.em, checked.id, client)) await mailNewSignIn(unit, keyring, checked, client);
  const version = await advance(unit, checked.id, input.rehashed);
  const amr = kind ? AMR[kind] : ['pwd'];
  const session = await openSession(unit, { id: checked.id, version }, amr);
  return { opened: { ...session, userId: checked.id, role: checked.role, amr } };
}

async function count(deps: SignInDeps, context: RequestContext, email: string): Promise<CountedAttempt> {
  try {
    return await deps.transact(context, (unit) => countAttempt(unit.em, deps.keyring, { email, ip: context.ip }));
  } catch (error) {
    if (error instanceof Refusal) await note(deps, context, email, undefined, 'locked');
    throw error;
  }
}

async function check(
  deps: SignInDeps,
  context: RequestContext,
  attempt: CountedAttempt,
  user: UserRow | undefined,
  password: string,
): Promise<{ right: boolean; rehashed: string | undefined }> {
  try {
    const hash = user?.password_hash ?? null;
    const right = await deps.passwords.verify(hash, password);
    const stale = right && hash !== null && deps.passwords.needsRehash(hash);
    return { right, rehashed: stale ? await deps.passwords.hash(password) : undefined };
  } catch (error) {
    await deps.transact(context, (unit) => cancelAttempt(unit.em, attempt));
    throw error;
  }
}

/** Locks the account if it still has the password that was checked. */
async function lockIfUnchanged(unit: Unit, user: UserRow): Promise<UserRow | undefined> {
  const { rows } = await sql<UserRow>`
    select ${userColumns} from users
    where id = ${user.id} and password_hash = ${user.password_hash} and deleted_at is null
    for update`.execute(unit.em.getKysely());
  return rows[0];
}

/** Takes the version of the event to come, and stores the password's new hash if there is one. */
async function advance(unit: Unit, id: string, rehashed: string | undefined): Promise<number> {
  if (rehashed) await sql`update users set password_hash = ${rehashed} where id = ${id}`.execute(unit.em.getKysely());
  return advanceVersion(unit.em, id);
}

/** A refusal in the audit log. An address that nobody has is kept as an HMAC only: it may be a password typed amiss. */
function refused(unit: Unit, keyring: Keyring, email: string, user: UserRow | undefined, why: Why): void {
  const lookup = accountKey(keyring, email).toString('hex').slice(0, 32);
  unit.emit.audit({
    action: 'session.refused',
    outcome: 'failure',
    ...(user ? { targets: [{ type: 'user', id: user.id }], subject: user.id } : {}),
    metadata: user ? { why } : { why, identifier_hmac: lookup },
  });
}

async function note(
  deps: SignInDeps,
  context: RequestContext,
  email: string,
  user: UserRow | undefined,
  why: Why,
): Promise<void> {
  await deps.transact(context, async (unit) => refused(unit, deps.keyring, email, user, why));
}
