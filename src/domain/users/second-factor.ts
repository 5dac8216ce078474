/**
 * A second factor is off, being set up (a secret is stored, nothing asks for it yet), or on. Only a code of the secret
 * leads from set-up to on, only password and code lead back to off, or an administrator for whoever lost both authenticator
 * and recovery codes. Setting up anew replaces a secret that is not on.
 */
import { sql } from 'kysely';
import type { Keyring } from '../../services/keyring.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import type { RequestContext } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { revokeSessions } from '../sessions/sessions.ts';
import { admitAttempt, countFailure, refuseLocked } from '../sessions/signin-locks.ts';
import { mailNotice } from './mail.ts';
import { newRecoveryCodes, newTotpSecret, stepOf } from './one-time-codes.ts';
import { type PasswordDeps, reauthenticated } from './reauthentication.ts';
import { findUser, lockUser } from './user.ts';

/** Stores a fresh secret and gives it, for an authenticator to scan. Refuses CONFLICT while a second factor is on. */
export async function setUpSecondFactor(
  unit: Unit,
  keyring: Keyring,
  userId: string,
): Promise<{ secret: string; otpauth_url: string }> {
  const user = await lockUser(unit.em, userId);
  if (user.mfa) return alreadyOn();
  const { sealed, secret, otpauthUrl } = newTotpSecret(keyring, user);
  await sql`
    update users set totp_secret = ${sealed}, totp_last_step = null where id = ${user.id}`.execute(unit.em.getKysely());
  audit(unit, 'user.second_factor_set_up', user.id);
  return { secret, otpauth_url: otpauthUrl };
}

/**
 * Turns the second factor on with the first code of its secret, and gives the recovery codes, which are not shown
 * again. The other sessions end, the owner is told. Wrong codes count towards the sign-in lock. Refuses CONFLICT when it
 * is on or was not set up, VALIDATION_ERROR on `code`.
 */
export async function enableSecondFactor(
  deps: { em: PasswordDeps['em']; transact: Transact; keyring: Keyring },
  context: RequestContext,
  input: { userId: string; sessionId: string; code: string },
): Promise<{ recovery_codes: string[] }> {
  const before = (await findUser(deps.em, input.userId)) ?? refuse('UNAUTHORIZED', 'please sign in');
  const attempt = { email: before.email, ip: context.ip };
  await refuseLocked(deps.em, deps.keyring, attempt);
  const codes = await deps.transact(context, async (unit) => {
    const user = await lockUser(unit.em, input.userId);
    const { rows } = await sql<{ totp_secret: Buffer | null }>`
      select totp_secret from users where id = ${user.id}`.execute(unit.em.getKysely());
    const sealed = rows[0]?.totp_secret;
    if (user.mfa || !sealed) return user.mfa ? 'on' : 'not set up';
    const step = stepOf(deps.keyring, user.id, sealed, input.code);
    if (step === undefined) {
      await countFailure(unit.em, deps.keyring, attempt);
      return 'wrong';
    }
    await admitAttempt(unit.em, deps.keyring, attempt);
    const recovery = newRecoveryCodes();
    await sql`
      update users set totp_enabled_at = now(), totp_last_step = ${step}, recovery_codes = ${recovery.hashes}::bytea[]
      where id = ${user.id}`.execute(unit.em.getKysely());
    await revokeSessions(unit, user.id, 'second_factor_changed', { except: input.sessionId });
    await sql`
      update sessions set amr = '{pwd,otp,mfa}' where id = ${input.sessionId} and user_id = ${user.id}`.execute(
      unit.em.getKysely(),
    );
    audit(unit, 'user.second_factor_enabled', user.id);
    await mailNotice(unit, deps.keyring, user, 'second-factor-on');
    return recovery.codes;
  });
  if (codes === 'on') return alreadyOn();
  if (codes === 'not set up') return refuse('CONFLICT', 'set a second factor up first');
  if (codes === 'wrong') return refuse('VALIDATION_ERROR', 'code is wrong', { field: 'code' });
  return { recovery_codes: codes };
}

/** Turns the second factor off. Refuses like `reauthenticated`, and CONFLICT when it is not on. */
export async function disableSecondFactor(
  deps: PasswordDeps,
  context: RequestContext,
  input: { userId: string; sessionId: string; password: string; code: string },
): Promise<void> {
  const before = (await findUser(deps.em, input.userId)) ?? refuse('UNAUTHORIZED', 'please sign in');
  if (!before.mfa) refuse('CONFLICT', 'no second factor is on');
  const proof = { ...input, field: 'password', action: 'user.second_factor_disable' };
  await reauthenticated(
    deps,
    context,
    proof,
    async () => undefined,
    async (unit, user) => {
      await clear(unit, user.id);
      await revokeSessions(unit, user.id, 'second_factor_changed', { except: input.sessionId });
      audit(unit, 'user.second_factor_disabled', user.id);
      await mailNotice(unit, deps.keyring, user, 'second-factor-off');
    },
  );
}

/**
 * Turns the second factor of somebody else off, for an administrator who proves who it is. Every session of the account
 * ends, the owner is told; the password stays as it is. Refuses NOT_FOUND, CONFLICT for one's own account and when none
 * is on, and like `reauthenticated`.
 */
export async function resetSecondFactor(
  deps: PasswordDeps,
  context: RequestContext,
  input: { adminId: string; userId: string; password: string; code?: string | undefined },
): Promise<{ revoked: number }> {
  const { adminId, password, code } = input;
  if (adminId === input.userId.toLowerCase()) refuse('CONFLICT', 'turn your own off at /auth/mfa/disable');
  const owner = (await findUser(deps.em, input.userId)) ?? refuse('NOT_FOUND', 'there is no such user');
  if (!owner.mfa) refuse('CONFLICT', 'no second factor is on');
  const proof = { userId: adminId, password, code, field: 'password', action: 'user.second_factor_reset' };
  const proven = async () => undefined;
  // In a transaction of its own: two administrators who do it to each other would wait for each other's row.
  await reauthenticated(deps, context, proof, proven, proven);
  return deps.transact(context, async (unit) => {
    const user = await lockUser(unit.em, owner.id);
    if (!user.mfa) refuse('CONFLICT', 'no second factor is on');
    const left = await clear(unit, user.id);
    const ended = await revokeSessions(unit, user.id, 'second_factor_changed');
    unit.emit.audit({
      action: 'user.second_factor_reset',
      targets: [{ type: 'user', id: user.id }],
      subject: user.id,
      metadata: { previous_second_factor: true, second_factor: false, previous_recovery_codes: left },
    });
    await mailNotice(unit, deps.keyring, user, 'second-factor-reset');
    return { revoked: ended.length };
  });
}

/** Forgets secret and recovery codes of a locked account; returns how many of these were left. */
async function clear(unit: Unit, userId: string): Promise<number> {
  const { rows } = await sql<{ left: number }>`
    with before as (select cardinality(recovery_codes) as "left" from users where id = ${userId})
    update users set totp_secret = null, totp_enabled_at = null, totp_last_step = null, recovery_codes = '{}'
    where id = ${userId} returning (select "left" from before)`.execute(unit.em.getKysely());
  return rows[0]?.left ?? 0;
}

const alreadyOn = (): never => refuse('CONFLICT', 'a second factor is on; turn it off first');

function audit(unit: Unit, action: string, userId: string): void {
  unit.emit.audit({ action, targets: [{ type: 'user', id: userId }], subject: userId });
}
