import { sql } from 'kysely';
import { iso } from '../../services/database.ts';
import type { Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import { userCreated, userVerified } from './events.ts';
import { type AccountSettings, mailAlreadyRegistered, mailVerification } from './mail.ts';
import { spendToken } from './tokens.ts';
import { findUserByEmail, type UserResource, type UserRow, userColumns, userResource } from './user.ts';

export interface Registration {
  userId: string;
  email: string;
  passwordHash: string;
  fullName: string;
}

export interface Registered {
  user_id: string;
  email: string;
  full_name: string;
  is_verified: false;
  created_at: string;
}

/** What the caller is told: the new account, or with `REGISTRATION_CONFLICT=conceal` only the address given. */
export type RegistrationAnswer = { status: 201; result: Registered } | { status: 202; result: { email: string } };

/**
 * Creates an account and mails the link that verifies its address. When the address is taken: refuses (CONFLICT, field
 * `email`), or, when conflicts are concealed, answers as if it were not and mails the owner.
 */
export async function register(
  unit: Unit,
  settings: AccountSettings,
  input: Registration,
): Promise<RegistrationAnswer> {
  const conceal = settings.config.registrationConflict === 'conceal';
  const { rows } = await sql<UserRow>`
    insert into users (id, email, password_hash, full_name, terms_accepted_at)
    values (${input.userId}, ${input.email}, ${input.passwordHash}, ${input.fullName}, now())
    on conflict (lower(email)) where deleted_at is null do nothing
    returning ${userColumns}`.execute(unit.em.getKysely());
  const user = rows[0];
  if (!user) {
    if (!conceal) refuse('CONFLICT', 'this e-mail address is in use', { field: 'email' });
    const owner = await findUserByEmail(unit.em, input.email);
    if (owner) {
      await mailAlreadyRegistered(unit, settings, owner);
      unit.emit.audit({
        action: 'user.register_refused',
        outcome: 'failure',
        targets: [{ type: 'user', id: owner.id }],
        subject: owner.id,
      });
    }
    return { status: 202, result: { email: input.email } };
  }
  announceUser(unit, user, 'user.registered');
  await mailVerification(unit, settings, user);
  if (conceal) return { status: 202, result: { email: input.email } };
  const { user_id, email, full_name, created_at } = userResource(user);
  return { status: 201, result: { user_id, email, full_name, is_verified: false, created_at } };
}

/** Tells of a new account: the event `user.created` and an audit row of the action. */
export function announceUser(unit: Unit, user: UserRow, action: string): void {
  const created = { user_id: user.id, email: user.email, full_name: user.full_name, created_at: iso(user.created_at) };
  unit.emit.event(userCreated, created, { subject: user.id, sequence: user.version });
  unit.emit.audit({
    action,
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { email: user.email, role: user.role },
  });
}

/** Marks an address as verified, once. Whoever can read its mail owns it, so a reset verifies too. */
export async function markVerified(unit: Unit, userId: string): Promise<void> {
  const { rows } = await sql<UserRow>`
    update users set is_verified = true, version = version + 1, updated_at = now()
    where id = ${userId} and deleted_at is null and not is_verified
    returning ${userColumns}`.execute(unit.em.getKysely());
  const user = rows[0];
  if (!user) return;
  unit.emit.event(
    userVerified,
    { user_id: user.id, email: user.email, verified_at: iso(user.updated_at) },
    { subject: user.id, sequence: user.version },
  );
  unit.emit.audit({ action: 'user.verified', targets: [{ type: 'user', id: user.id }], subject: user.id });
}

/** Verifies the address that the token was mailed to. Refuses (VALIDATION_ERROR, field `token`) a token not good. */
export async function verifyEmail(unit: Unit, token: string): Promise<UserResource> {
  const { userId } = await spendToken(unit, 'verify-email', token);
  await markVerified(unit, userId);
  const { rows } = await sql<UserRow>`select ${userColumns} from users where id = ${userId}`.execute(
    unit.em.getKysely(),
  );
  const user = rows[0] ?? refuse('NOT_FOUND', 'there is no such user');
  return userResource(user);
}

/** Mails the link again if there is an account that waits for it; the answer is the same either way. */
export async function resendVerification(
  unit: Unit,
  settings: AccountSettings,
  input: { email: string },
): Promise<{ email: string }> {
  const user = await findUserByEmail(unit.em, input.email);
  if (user && !user.is_verified && user.is_active) {
    await mailVerification(unit, settings, user);
    unit.emit.audit({
      action: 'user.verification_resent',
      targets: [{ type: 'user', id: user.id }],
      subject: user.id,
    });
  }
  return { email: input.email };
}
