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
import {
  type Attempt,
  accountKey,
  admitAttempt,
  countFailure,
  forgetAccountLock,
  refuseLocked,
} from './signin-locks.ts';

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
  | {
      refused: 'wrong' | 'changed' | 'code_needed' | 'wrong_code' | 'not_verified' | 'inactive';
      until?: string | null;
    };

/**
 * Signs in with an address and a password and opens a session. Refuses UNAUTHORIZED alike, and after as long, for an
 * address nobody has and a wrong password, and (`mfa_required` in the details) without a good code when the second
 * factor is on; FORBIDDEN for an account that is not verified or not active, to whoever knows the password;
 * RATE_LIMIT_EXCEEDED with `retry_after` while the address or the network is locked, also when that came about while the
 * password was checked. An account disabled until a time that has come is enabled.
 */
export async function signIn(
  deps: SignInDeps,
  context: RequestContext,
  input: { email: string; password: string; code?: string | undefined },
): Promise<TokenPair> {
  let outcome = await trySignIn(deps, context, input);
  // Whoever signed in at the same moment may have had the password hashed anew.
  if ('refused' in outcome && outcome.refused === 'changed') outcome = await trySignIn(deps, context, input);
  if ('opened' in outcome) return deps.accessTokens.pair(outcome.opened, outcome.opened.refreshToken);
  switch (outcome.refused) {
    case 'wrong':
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

async function trySignIn(
  deps: SignInDeps,
  context: RequestContext,
  input: { email: string; password: string; code?: string | undefined },
): Promise<SignInOutcome> {
  const attempt = { email: input.email, ip: context.ip };
  try {
    await refuseLocked(deps.em, deps.keyring, attempt);
    const user = await findUserByEmail(deps.em, input.email);
    const right = await deps.passwords.verify(user?.password_hash ?? null, input.password);
    if (!user || !right) return await deps.transact(context, (unit) => fail(unit, deps.keyring, attempt, user));
    const outcome = await deps.transact(context, (unit) => open(unit, deps, attempt, user, input.code));
    if ('opened' in outcome) await rehash(deps, context, user, input.password);
    return outcome;
  } catch (error) {
    if (error instanceof Refusal && error.problem.code === 'RATE_LIMIT_EXCEEDED')
      await deps.transact(context, async (unit) => refused(unit, deps.keyring, input.email, undefined, 'locked'));
    throw error;
  }
}

/** What comes after the right password, in one transaction. A wrong code counts; asking for one does not. */
async function open(
  unit: Unit,
  { keyring }: SignInDeps,
  attempt: Attempt,
  user: UserRow,
  code: string | undefined,
): Promise<SignInOutcome> {
  const checked = await lockIfUnchanged(unit, user);
  await admitAttempt(unit.em, keyring, attempt);
  if (!checked) return { refused: 'changed' };
  const is_active = checked.is_active || (await enableIfDue(unit, checked.id));
  if (!is_active || !checked.is_verified) {
    await forgetAccountLock(unit.em, keyring, attempt.email);
    const why = is_active ? 'not_verified' : 'inactive';
    refused(unit, keyring, attempt.email, checked, why);
    return { refused: why, until: isoOrNull(checked.disabled_until) };
  }
  if (checked.mfa && code === undefined) return { refused: 'code_needed' };
  const kind = checked.mfa ? await useCode(unit.em, keyring, checked.id, code ?? '') : undefined;
  if (checked.mfa && !kind) {
    await countFailure(unit.em, keyring, attempt);
    refused(unit, keyring, attempt.email, checked, 'wrong_code');
    return { refused: 'wrong_code' };
  }
  await forgetAccountLock(unit.em, keyring, attempt.email);
  const client = clientOf(unit);
  if (await isNewDevice(unit.em, checked.id, client)) await mailNewSignIn(unit, keyring, checked, client);
  const version = await advanceVersion(unit.em, checked.id);
  const amr = kind ? AMR[kind] : ['pwd'];
  const session = await openSession(unit, { id: checked.id, version }, amr);
  return { opened: { ...session, userId: checked.id, role: checked.role, amr } };
}

async function fail(unit: Unit, keyring: Keyring, attempt: Attempt, user: UserRow | undefined): Promise<SignInOutcome> {
  await countFailure(unit.em, keyring, attempt);
  refused(unit, keyring, attempt.email, user, user ? 'wrong_password' : 'unknown_address');
  return { refused: 'wrong' };
}

/**
 * Hashes a password again when the settings have changed since. Only after the sign-in, whose refusals would otherwise
 * take longer for a right password. When all slots are taken it is left to the next sign-in.
 */
async function rehash(deps: SignInDeps, context: RequestContext, user: UserRow, password: string): Promise<void> {
  if (user.password_hash === null || !deps.passwords.needsRehash(user.password_hash)) return;
  const hash = await deps.passwords.hash(password).catch((error: unknown) => {
    if (error instanceof Refusal) return undefined;
    throw error;
  });
  if (hash === undefined) return;
  await deps.transact(context, (unit) =>
    sql`update users set password_hash = ${hash} where id = ${user.id} and password_hash = ${user.password_hash}`.execute(
      unit.em.getKysely(),
    ),
  );
}

/** Locks the account if it still has the password that was checked. */
async function lockIfUnchanged(unit: Unit, user: UserRow): Promise<UserRow | undefined> {
  const { rows } = await sql<UserRow>`
    select ${userColumns} from users
    where id = ${user.id} and password_hash = ${user.password_hash} and deleted_at is null
    for update`.execute(unit.em.getKysely());
  return rows[0];
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
