import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import type { RequestContext } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { type Attempt, admitAttempt, countFailure, forgetAccountLock, refuseLocked } from '../sessions/signin-locks.ts';
import { useCode } from './one-time-codes.ts';
import type { PasswordHasher } from './password.ts';
import { findUser, type UserRow, userColumns } from './user.ts';

/** What work with passwords takes besides a transaction: it hashes before one is opened. */
export interface PasswordDeps {
  /** Reads outside of the transaction. */
  em: EntityManager;
  transact: Transact;
  passwords: PasswordHasher;
  keyring: Keyring;
}

/** What a signed-in user shows once more before something that would lock the owner out of the account. */
export interface Proof {
  userId: string;
  password: string;
  /** Of the second factor, needed when it is on. */
  code?: string | undefined;
  /** What the password is called in the request. */
  field: string;
  /** What it is about, for the audit log: `user.password_change`. */
  action: string;
}

type Outcome<T> = { done: T } | { refused: 'password' | CodeRefused };

/**
 * Does `work` for a user who proves again who it is: by the password and, when a second factor is on, by a code of it
 * (OWASP ASVS 5.0, 7.5.1). The password is checked, then `prepare` runs, both outside of a transaction. Wrong ones count
 * towards the sign-in lock. Refuses VALIDATION_ERROR on the password's field or on `code` (with `mfa_required` in the
 * details), RATE_LIMIT_EXCEEDED while the address is locked.
 */
export async function reauthenticated<P, T>(
  deps: PasswordDeps,
  context: RequestContext,
  proof: Proof,
  prepare: () => Promise<P>,
  work: (unit: Unit, user: UserRow, prepared: P) => Promise<T>,
): Promise<T> {
  const before = (await findUser(deps.em, proof.userId)) ?? refuse('UNAUTHORIZED', 'please sign in');
  const { keyring } = deps;
  const attempt = { email: before.email, ip: context.ip };
  await refuseLocked(deps.em, keyring, attempt);
  const right = await deps.passwords.verify(before.password_hash, proof.password);
  const checked = right ? { prepared: await prepare() } : undefined;
  const outcome = await deps.transact(context, async (unit): Promise<Outcome<T>> => {
    const user = checked && (await lockUnchanged(unit.em, before));
    if (!user) {
      await fail(unit, keyring, attempt, before, proof, 'password');
      return { refused: 'password' };
    }
    await admitAttempt(unit.em, keyring, attempt);
    const refused = await lacksCode(unit, keyring, attempt, user, proof);
    if (refused) return { refused };
    await forgetAccountLock(unit.em, keyring, attempt.email);
    return { done: await work(unit, user, checked.prepared) };
  });
  if ('done' in outcome) return outcome.done;
  if (outcome.refused !== 'password') return refuseCode(outcome.refused);
  return refuse('VALIDATION_ERROR', `${proof.field} is not your password`, { field: proof.field });
}

/**
 * Does `work` for a user who, when a second factor is on, shows a code of it; whoever has none is not asked for more than
 * the session. Wrong codes count towards the sign-in lock. Refuses VALIDATION_ERROR on `code` (with `mfa_required` in the
 * details), RATE_LIMIT_EXCEEDED while the address is locked.
 */
export async function withCode<T>(
  deps: Pick<PasswordDeps, 'transact' | 'keyring'>,
  context: RequestContext,
  proof: Pick<Proof, 'userId' | 'code' | 'action'>,
  work: (unit: Unit) => Promise<T>,
): Promise<T> {
  const outcome = await deps.transact(context, async (unit) => {
    const { rows } = await sql<UserRow>`
      select ${userColumns} from users where id = ${proof.userId} and totp_enabled_at is not null
      for update`.execute(unit.em.getKysely());
    const user = rows[0];
    if (user) {
      const attempt = { email: user.email, ip: context.ip };
      await admitAttempt(unit.em, deps.keyring, attempt);
      const refused = await lacksCode(unit, deps.keyring, attempt, user, proof);
      if (refused) return { refused };
    }
    return { done: await work(unit) };
  });
  return 'done' in outcome ? outcome.done : refuseCode(outcome.refused);
}

type CodeRefused = 'code_needed' | 'code_wrong';

/** Uses the code up where a second factor is on; says what is wrong with it, and counts a wrong one. */
async function lacksCode(
  unit: Unit,
  keyring: Keyring,
  attempt: Attempt,
  user: UserRow,
  proof: Pick<Proof, 'code' | 'action'>,
): Promise<CodeRefused | undefined> {
  if (!user.mfa) return undefined;
  if (proof.code === undefined) return 'code_needed';
  if (await useCode(unit.em, keyring, user.id, proof.code)) return undefined;
  await fail(unit, keyring, attempt, user, proof, 'code_wrong');
  return 'code_wrong';
}

function refuseCode(why: CodeRefused): never {
  switch (why) {
    case 'code_needed':
      return refuse('VALIDATION_ERROR', 'code is required: your second factor is on', {
        field: 'code',
        details: { mfa_required: true },
      });
    case 'code_wrong':
      return refuse('VALIDATION_ERROR', 'code is wrong or was used before', {
        field: 'code',
        details: { mfa_required: true },
      });
  }
}

/** Locks the account if it still has the password that was checked: of two changes at once the second is refused. */
async function lockUnchanged(em: EntityManager, before: UserRow): Promise<UserRow | undefined> {
  const { rows } = await sql<UserRow>`
    select ${userColumns} from users
    where id = ${before.id} and deleted_at is null and password_hash is not distinct from ${before.password_hash}::text
    for update`.execute(em.getKysely());
  return rows[0];
}

async function fail(
  unit: Unit,
  keyring: Keyring,
  attempt: Attempt,
  user: UserRow,
  proof: Pick<Proof, 'action'>,
  why: 'password' | 'code_wrong',
): Promise<void> {
  await countFailure(unit.em, keyring, attempt);
  unit.emit.audit({
    action: `${proof.action}_refused`,
    outcome: 'failure',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { why },
  });
}
