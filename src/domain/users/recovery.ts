import { sql } from 'kysely';
import { iso } from '../../services/database.ts';
import type { Unit } from '../messages/emit.ts';
import type { RequestContext } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { revokeSessions } from '../sessions/sessions.ts';
import { forgetAccountLock } from '../sessions/signin-locks.ts';
import { passwordChanged } from './events.ts';
import { type AccountSettings, mailNotice, mailReset } from './mail.ts';
import { acceptPassword, refuseSimilar } from './password.ts';
import { type PasswordDeps, reauthenticated } from './reauthentication.ts';
import { markVerified } from './registration.ts';
import { checkToken, spendToken, spendTokens } from './tokens.ts';
import { findUser, findUserByEmail, type UserRow, userColumns } from './user.ts';

/** Mails a link to choose a new password if there is such an account; the answer is the same either way. */
export async function forgotPassword(
  unit: Unit,
  settings: AccountSettings,
  input: { email: string },
): Promise<{ email: string }> {
  const user = await findUserByEmail(unit.em, input.email);
  if (user?.is_active) {
    await mailReset(unit, settings, user);
    unit.emit.audit({ action: 'user.reset_requested', targets: [{ type: 'user', id: user.id }], subject: user.id });
  }
  return { email: input.email };
}

/**
 * Sets a new password with the token of a reset mail: all sessions end, the sign-in lock is lifted, the owner is told.
 * The link also proves the address, so the account is verified. Refuses (VALIDATION_ERROR) with the field `token` or
 * `password`; a password that is refused leaves the token good.
 */
export async function resetPassword(
  deps: PasswordDeps,
  context: RequestContext,
  input: { token: string; password: string },
): Promise<void> {
  const password = acceptPassword(input.password);
  const { email } = await checkToken(deps.em, 'reset-password', input.token);
  refuseSimilar(password, email);
  const hash = await deps.passwords.hash(password);
  await deps.transact(context, async (unit) => {
    const { userId } = await spendToken(unit, 'reset-password', input.token);
    const user = (await storePassword(unit, userId, hash, 'reset')) ?? refuse('NOT_FOUND', 'there is no such user');
    await markVerified(unit, userId);
    await spendTokens(unit.em, userId, 'verify-email');
    await revokeSessions(unit, userId, 'password_reset');
    await forgetAccountLock(unit.em, deps.keyring, user.email);
    await mailNotice(unit, deps.keyring, user, 'password-changed');
  });
}

/**
 * Changes the password of a signed-in user; the other sessions end, the owner is told. Refuses (VALIDATION_ERROR) with
 * the field `current_password` when that is not the password, `code` when the second factor is on and it is not one of
 * it, or `new_password`; RATE_LIMIT_EXCEEDED while the address is locked.
 */
export async function changePassword(
  deps: PasswordDeps,
  context: RequestContext,
  input: { userId: string; sessionId: string; currentPassword: string; newPassword: string; code?: string | undefined },
): Promise<void> {
  const { userId, code } = input;
  const plain = acceptPassword(input.newPassword, 'new_password');
  const owner = (await findUser(deps.em, userId)) ?? refuse('UNAUTHORIZED', 'please sign in');
  refuseSimilar(plain, owner.email, 'new_password');
  const proof = {
    userId,
    code,
    password: input.currentPassword,
    field: 'current_password',
    action: 'user.password_change',
  };
  await reauthenticated(
    deps,
    context,
    proof,
    () => deps.passwords.hash(plain),
    async (unit, { id }, hash) => {
      const user = (await storePassword(unit, id, hash, 'change')) ?? refuse('UNAUTHORIZED', 'please sign in');
      await spendTokens(unit.em, user.id, 'reset-password');
      await revokeSessions(unit, user.id, 'password_changed', { except: input.sessionId });
      await mailNotice(unit, deps.keyring, user, 'password-changed');
    },
  );
}

async function storePassword(
  unit: Unit,
  userId: string,
  hash: string,
  how: 'reset' | 'change',
): Promise<UserRow | undefined> {
  const { rows } = await sql<UserRow>`
    update users set password_hash = ${hash}, version = version + 1, updated_at = now()
    where id = ${userId} and deleted_at is null
    returning ${userColumns}`.execute(unit.em.getKysely());
  const user = rows[0];
  if (!user) return undefined;
  unit.emit.event(
    passwordChanged,
    { user_id: user.id, how, changed_at: iso(user.updated_at) },
    { subject: user.id, sequence: user.version },
  );
  unit.emit.audit({
    action: 'user.password_changed',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { how },
  });
  return user;
}
