import { sql } from 'kysely';
import { iso, isoOrNull } from '../../services/database.ts';
import type { Unit } from '../messages/emit.ts';
import type { Actor } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { revokeSessions } from '../sessions/sessions.ts';
import type { Role } from './entities.ts';
import { userDeleted, userDisabled, userEnabled, userUpdated } from './events.ts';
import { spendTokens } from './tokens.ts';
import { lockUser, type UserRow, userColumns, userResource } from './user.ts';

/** What users may change of themselves. */
export interface ProfileChange {
  full_name?: string | undefined;
  avatar_url?: string | null | undefined;
}

/** What administrators may change besides. */
export interface UserChange extends ProfileChange {
  role?: Role | undefined;
  is_active?: boolean | undefined;
  /** Why it is disabled; goes with `is_active: false` alone. */
  disabled_reason?: string | null | undefined;
  /** When it comes back by itself, RFC 3339; goes with `is_active: false` alone. */
  disabled_until?: string | null | undefined;
}

export interface UpdateOptions {
  /** Who does it, when it is not whoever sent the request. */
  actor?: Actor;
  /** The account must still be at one of these versions. */
  versions?: number[] | undefined;
}

const CHANGEABLE = ['full_name', 'avatar_url', 'role', 'is_active', 'disabled_reason', 'disabled_until'] as const;

/** Two administrators who demote each other at once wait here, so that one of them stays. */
const ADMIN_LOCK = 7_120_011;

/** Refuses (CONFLICT) what would leave the platform without an active administrator. */
async function keepAnAdmin(unit: Unit, user: UserRow): Promise<void> {
  if (user.role !== 'admin' || !user.is_active) return;
  const { rows } = await sql`
    select 1 from users
    where role = 'admin' and is_active and is_verified and deleted_at is null and id <> ${user.id} limit 1`.execute(
    unit.em.getKysely(),
  );
  if (rows.length === 0) refuse('CONFLICT', 'this is the last administrator; make another one first');
}

/**
 * Changes an account and tells of it; a change to what it is already is none. Disabling ends every session. Refuses
 * NOT_FOUND, CONFLICT for the last administrator, and PRECONDITION_FAILED at another version than one of those given.
 */
export async function updateUser(
  unit: Unit,
  id: string,
  change: UserChange,
  options: UpdateOptions = {},
): Promise<UserRow> {
  if (change.role !== undefined || change.is_active === false) await lockAdmins(unit);
  const locked = await lockUser(unit.em, id);
  if (options.versions && !options.versions.includes(locked.version))
    refuse('PRECONDITION_FAILED', 'the account was changed in the meantime');
  const user = { ...locked, disabled_until: isoOrNull(locked.disabled_until) };
  // Enabling says that no reason and no end are left.
  const wanted = change.is_active ? { ...change, disabled_reason: null, disabled_until: null } : change;
  const changed = CHANGEABLE.filter((name) => wanted[name] !== undefined && wanted[name] !== user[name]);
  if (changed.length === 0) return user;
  const next = { ...user, ...Object.fromEntries(changed.map((name) => [name, wanted[name]])) } as typeof user;
  if (next.role !== 'admin' || !next.is_active) await keepAnAdmin(unit, user);

  const switched = next.is_active !== user.is_active;
  const steps = switched ? 2 : 1;
  const { rows } = await sql<UserRow>`
    update users set full_name = ${next.full_name}, avatar_url = ${next.avatar_url}, role = ${next.role},
      is_active = ${next.is_active}, disabled_reason = ${next.disabled_reason}, disabled_until = ${next.disabled_until},
      version = version + ${steps}, updated_at = now()
    where id = ${id} returning ${userColumns}`.execute(unit.em.getKysely());
  const after = rows[0] ?? refuse('NOT_FOUND', 'there is no such user');
  const { user_id, full_name, avatar_url, role, updated_at } = userResource(after);
  const updated = { user_id, full_name, avatar_url, role, changed: [...changed], updated_at };
  unit.emit.event(userUpdated, updated, { subject: id, sequence: after.version - steps + 1 });
  unit.emit.audit({
    action: 'user.updated',
    targets: [{ type: 'user', id }],
    subject: id,
    metadata: { changed: changed.join(','), ...beforeAndAfter(changed, user, next) },
    ...(options.actor ? { actor: options.actor } : {}),
  });
  if (switched) await announceSwitch(unit, after, options.actor);
  return after;
}

/** Every changed field as it was and as it is; those that are personal are encrypted by the log. */
function beforeAndAfter(
  changed: readonly (typeof CHANGEABLE)[number][],
  before: Pick<UserRow, (typeof CHANGEABLE)[number]>,
  after: Pick<UserRow, (typeof CHANGEABLE)[number]>,
): Record<string, string | boolean> {
  const told = (value: unknown) =>
    typeof value === 'boolean'
      ? value
      : String(value ?? '')
          .slice(0, 500)
          .toWellFormed();
  // A reason is free text that may name somebody, and the log is for ever.
  const fields = changed.filter((name) => name !== 'disabled_reason');
  return Object.fromEntries(
    fields.flatMap((name): [string, string | boolean][] => [
      [`previous_${name}`, told(before[name])],
      [name, told(after[name])],
    ]),
  );
}

async function announceSwitch(unit: Unit, user: UserRow, actor: Actor | undefined): Promise<void> {
  const at = iso(user.updated_at);
  const options = { subject: user.id, sequence: user.version };
  if (user.is_active) unit.emit.event(userEnabled, { user_id: user.id, enabled_at: at }, options);
  else {
    const until = isoOrNull(user.disabled_until);
    unit.emit.event(userDisabled, { user_id: user.id, disabled_at: at, ...(until ? { until } : {}) }, options);
  }
  unit.emit.audit({
    action: user.is_active ? 'user.enabled' : 'user.disabled',
    targets: [{ type: 'user', id: user.id }],
    subject: user.id,
    metadata: { previous_is_active: !user.is_active, is_active: user.is_active },
    ...(actor ? { actor } : {}),
  });
  if (!user.is_active) await revokeSessions(unit, user.id, 'user_disabled');
}

/**
 * Soft delete: sessions and links end now and the address is free at once. Refuses NOT_FOUND, and CONFLICT for the last
 * administrator.
 */
export async function deleteUser(unit: Unit, id: string): Promise<{ user_id: string; deleted_at: string }> {
  await lockAdmins(unit);
  const user = await lockUser(unit.em, id);
  await keepAnAdmin(unit, user);
  await revokeSessions(unit, id, 'user_deleted');
  await spendTokens(unit.em, id);
  const { rows } = await sql<{ version: number; deleted_at: string }>`
    update users set deleted_at = now(), updated_at = now(), version = version + 1
    where id = ${id} returning version, deleted_at`.execute(unit.em.getKysely());
  const row = rows[0] ?? refuse('NOT_FOUND', 'there is no such user');
  const deleted = { user_id: id, deleted_at: iso(row.deleted_at) };
  unit.emit.event(userDeleted, deleted, { subject: id, sequence: row.version });
  unit.emit.audit({
    action: 'user.deleted',
    targets: [{ type: 'user', id }],
    subject: id,
    metadata: { previous_deleted: false, deleted: true },
  });
  return deleted;
}

async function lockAdmins(unit: Unit): Promise<void> {
  await sql`select pg_advisory_xact_lock(${ADMIN_LOCK})`.execute(unit.em.getKysely());
}
