/** What administrators do to accounts beyond changing them. */
import { sql } from 'kysely';
import { type EntityManager, iso } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import { newId } from '../ids.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import { SYSTEM } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { revokeSessions } from '../sessions/sessions.ts';
import { forgetAccountLock } from '../sessions/signin-locks.ts';
import { refuseTaken } from './email-change.ts';
import { userRestored } from './events.ts';
import { type AccountSettings, mailReset } from './mail.ts';
import { updateUser } from './profile.ts';
import { findUser, lockUser, type UserResource, type UserRow, userColumns, userResource } from './user.ts';

/** Lifts the sign-in lock of an account's address. The locks of networks run out by themselves. Refuses NOT_FOUND. */
export async function unlockUser(unit: Unit, keyring: Keyring, id: string): Promise<UserResource> {
  const user = (await findUser(unit.em, id)) ?? refuse('NOT_FOUND', 'there is no such user');
  const { failures, locked } = await forgetAccountLock(unit.em, keyring, user.email);
  unit.emit.audit({
    action: 'user.unlocked',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { previous_failures: failures, failures: 0, previous_locked: locked, locked: false },
  });
  return userResource(user);
}

/**
 * Takes the password away, ends every session and mails a link to choose a new one. Refuses NOT_FOUND, and CONFLICT for
 * a disabled account, whose owner could not use the link.
 */
export async function forceReset(unit: Unit, settings: AccountSettings, id: string): Promise<{ revoked: number }> {
  const user = await lockUser(unit.em, id);
  if (!user.is_active) refuse('CONFLICT', 'the account is disabled; enable it first');
  await sql`update users set password_hash = null where id = ${user.id}`.execute(unit.em.getKysely());
  const ended = await revokeSessions(unit, user.id, 'password_withdrawn');
  await mailReset(unit, settings, user, true);
  unit.emit.audit({
    action: 'user.reset_forced',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { previous_password_set: user.password_hash !== null, password_set: false },
  });
  return { revoked: ended.length };
}

/** Ends every session of an account. Refuses NOT_FOUND. */
export async function endSessionsOf(unit: Unit, id: string): Promise<{ revoked: number }> {
  const user = await lockUser(unit.em, id);
  return { revoked: (await revokeSessions(unit, user.id, 'revoked')).length };
}

/**
 * Brings a deleted account back within its grace; its sessions stay ended. Refuses NOT_FOUND when there is none, or the
 * grace is over, CONFLICT when it is not deleted or (field `email`) another account has its address.
 */
export async function restoreUser(unit: Unit, id: string, graceDays: number): Promise<UserResource> {
  const em = unit.em.getKysely();
  const found = await sql<{ living: boolean; in_grace: boolean | null }>`
    select deleted_at is null as living,
      erased_at is null and deleted_at > now() - make_interval(days => ${graceDays}) as in_grace
    from users where id = ${id} for update`.execute(em);
  const state = found.rows[0];
  if (state?.living) refuse('CONFLICT', 'the account is not deleted');
  if (!state?.in_grace) return refuse('NOT_FOUND', 'there is no such user, or it was deleted too long ago');
  const user = await revive(unit, id);
  const restored = { user_id: user.id, restored_at: iso(user.updated_at) };
  unit.emit.event(userRestored, restored, { subject: user.id, sequence: user.version });
  unit.emit.audit({
    action: 'user.restored',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { previous_deleted: true, deleted: false },
  });
  return userResource(user);
}

async function revive(unit: Unit, id: string): Promise<UserRow> {
  try {
    const { rows } = await sql<UserRow>`
      update users set deleted_at = null, version = version + 1, updated_at = now() where id = ${id}
      returning ${userColumns}`.execute(unit.em.getKysely());
    return rows[0] ?? refuse('NOT_FOUND', 'there is no such user');
  } catch (error) {
    return refuseTaken(error);
  }
}

/**
 * Enables up to `limit` accounts that were disabled until a time that has come. Each is a transaction of its own and is
 * looked at again under its lock. Returns how many came back.
 */
export async function enableDue(em: EntityManager, transact: Transact, limit: number): Promise<number> {
  const { rows } = await sql<{ id: string }>`
    select id from users where not is_active and disabled_until <= now() and deleted_at is null
    order by disabled_until limit ${limit}`.execute(em.getKysely());
  let enabled = 0;
  for (const { id } of rows) {
    const requestId = newId();
    const context = { requestId, correlationId: requestId, actor: SYSTEM };
    if (await transact(context, (unit) => enableIfDue(unit, id))) enabled += 1;
  }
  return enabled;
}

/** Enables an account whose time has come; returns whether it did. The platform does it, whoever's request it is. */
export async function enableIfDue(unit: Unit, id: string): Promise<boolean> {
  const { rows } = await sql`
    select 1 from users where id = ${id} and not is_active and disabled_until <= now() and deleted_at is null
    for update`.execute(unit.em.getKysely());
  if (rows.length === 0) return false;
  await updateUser(unit, id, { is_active: true }, { actor: SYSTEM });
  return true;
}
