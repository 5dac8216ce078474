import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { newId } from '../ids.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import { type RequestContext, SYSTEM } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import type { KycStatus, Role } from './entities.ts';
import { type AccountSettings, mailInvitation } from './mail.ts';
import type { PasswordHasher } from './password.ts';
import { announceUser } from './registration.ts';
import { findUserByEmail, type UserResource, type UserRow, userColumns, userResource } from './user.ts';

/**
 * Creates an account for somebody else and mails a link to choose a password: administrators never choose one. Refuses
 * CONFLICT (field `email`) when the address is in use.
 */
export async function createUser(
  unit: Unit,
  settings: AccountSettings,
  input: { email: string; fullName: string; role: Role },
): Promise<UserResource> {
  const user = await insertUser(unit, { ...input, passwordHash: null, verified: false });
  if (!user) return refuse('CONFLICT', 'this e-mail address is in use', { field: 'email' });
  announceUser(unit, user, 'user.created');
  await mailInvitation(unit, settings, user);
  return userResource(user);
}

async function insertUser(
  unit: Unit,
  input: { email: string; fullName: string; role: Role; passwordHash: string | null; verified: boolean },
): Promise<UserRow | undefined> {
  const { rows } = await sql<UserRow>`
    insert into users (id, email, password_hash, full_name, role, is_verified)
    values (${newId()}, ${input.email}, ${input.passwordHash}, ${input.fullName}, ${input.role}, ${input.verified})
    on conflict (lower(email)) where deleted_at is null do nothing
    returning ${userColumns}`.execute(unit.em.getKysely());
  return rows[0];
}

/**
 * Makes the first administrator, verified and active. An account that has the address already stays as it is, password
 * and role included; `created` says which it was. The password is the operator's own choice: whoever reads it (the
 * configuration, the command line) checks it.
 */
export async function ensureAdmin(
  deps: { em: EntityManager; transact: Transact; passwords: PasswordHasher },
  input: { email: string; password: string },
): Promise<{ user: UserResource; created: boolean }> {
  const existing = await findUserByEmail(deps.em, input.email);
  if (existing) return { user: userResource(existing), created: false };
  const passwordHash = await deps.passwords.hash(input.password);
  const id = newId();
  const context: RequestContext = { requestId: id, correlationId: id, actor: SYSTEM };
  const made = await deps.transact(context, async (unit) => {
    const admin = { email: input.email, fullName: 'Administrator', role: 'admin' as const };
    const user = await insertUser(unit, { ...admin, passwordHash, verified: true });
    if (user) announceUser(unit, user, 'user.created');
    return user;
  });
  if (made) return { user: userResource(made), created: true };
  // Two processes starting at once: the other one made it.
  const other = (await findUserByEmail(deps.em, input.email)) ?? refuse('CONFLICT', 'the address is in use');
  return { user: userResource(other), created: false };
}

export const USER_SORTS = ['created_at', 'email', 'full_name', 'updated_at'] as const;

export interface UserQuery {
  page: number;
  limit: number;
  sort: (typeof USER_SORTS)[number];
  order: 'asc' | 'desc';
  is_active?: boolean | undefined;
  is_verified?: boolean | undefined;
  kyc_status?: KycStatus | undefined;
  role?: Role | undefined;
  /** RFC 3339; the bounds themselves are outside. */
  created_after?: string | undefined;
  created_before?: string | undefined;
  /** Part of the e-mail address or the name, in any case. */
  search?: string | undefined;
}

/** One page of the living accounts and how many there are in all. */
export async function listUsers(
  em: EntityManager,
  query: UserQuery,
): Promise<{ users: UserResource[]; total: number }> {
  const conditions = [sql`deleted_at is null`];
  if (query.is_active !== undefined) conditions.push(sql`is_active = ${query.is_active}`);
  if (query.is_verified !== undefined) conditions.push(sql`is_verified = ${query.is_verified}`);
  if (query.kyc_status !== undefined) conditions.push(sql`kyc_status = ${query.kyc_status}`);
  if (query.role !== undefined) conditions.push(sql`role = ${query.role}`);
  if (query.created_after !== undefined) conditions.push(sql`created_at > ${new Date(query.created_after)}`);
  if (query.created_before !== undefined) conditions.push(sql`created_at < ${new Date(query.created_before)}`);
  if (query.search !== undefined) {
    const pattern = `%${query.search.replace(/[\\%_]/g, '\\$&')}%`;
    conditions.push(sql`(email ilike ${pattern} or full_name ilike ${pattern})`);
  }
  const where = sql.join(conditions, sql` and `);
  // Both are from closed lists; the id makes the order total.
  const order = query.order === 'asc' ? sql`asc` : sql`desc`;
  const column = query.sort === 'email' ? sql`lower(email)` : sql.ref(query.sort);
  const count = await sql<{ total: string }>`select count(*) as total from users where ${where}`.execute(
    em.getKysely(),
  );
  const { rows } = await sql<UserRow>`
    select ${userColumns} from users where ${where}
    order by ${column} ${order}, id ${order}
    limit ${query.limit} offset ${(query.page - 1) * query.limit}`.execute(em.getKysely());
  return { users: rows.map(userResource), total: Number(count.rows[0]?.total ?? 0) };
}
