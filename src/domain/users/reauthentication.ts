import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import type { RequestContext } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { type CountedAttempt, cancelAttempt, countAttempt, settleAttempt } from '../sessions/signin-locks.ts';
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

type Outcome<T> = { done: T } | { refused: 'password' | 'code_needed' | 'code_wrong' };

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
  const attempt = await deps.transact(context, (unit) =>
    countAttempt(unit.em, deps.keyring, { email: before.email, ip: context.ip }),
  );
  const checked = await cancelling(deps, context, attempt, async () =>
    (await deps.passwords.verify(before.password_hash, proof.password)) ? { prepared: await prepare() } : undefined,
  );
  const outcome = await deps.transact(context, async (unit): Promise<Outcome<T>> => {
    const user = checked && (await lockUnchanged(unit.em, before));
    if (!user) return note(unit, before, proof, 'password');
    if (user.mfa) {
      if (proof.code === undefined) {
        await cancelAttempt(unit.em, attempt);
        return { refused: 'code_needed' };
      }
      if (!(await useCode(unit.em, deps.keyring, user.id, proof.code))) return note(unit, user, proof, 'code_wrong');
    }
    await settleAttempt(unit.em, attempt);
    return { done: await work(unit, user, checked.prepared) };
  });
  if ('done' in outcome) return outcome.done;
  switch (outcome.refused) {
    case 'password':
      return refuse('VALIDATION_ERROR', `${proof.field} is not your password`, { field: proof.field });
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

/** What fails for another reason than a wrong password was no guess. */
async function cancelling<T>(
  deps: PasswordDeps,
  context: RequestContext,
  attempt: CountedAttempt,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    await deps.transact(context, (unit) => cancelAttempt(unit.em, attempt));
    throw error;
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

function note(unit: Unit, user: UserRow, proof: Proof, why: 'password' | 'code_wrong'): { refused: typeof why } {
  unit.emit.audit({
    action: `${proof.action}_refused`,
    outcome: 'failure',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { why },
  });
  return { refused: why };
}
