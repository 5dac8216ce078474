import { sql } from 'kysely';
import { type EntityManager, iso, isoOrNull } from '../../services/database.ts';
import { refuse } from '../problem.ts';
import type { KycStatus, Role } from './entities.ts';

/** A living account as it is read from the table. */
export interface UserRow {
  id: string;
  email: string;
  password_hash: string | null;
  full_name: string;
  avatar_url: string | null;
  role: Role;
  is_verified: boolean;
  is_active: boolean;
  kyc_status: KycStatus;
  version: number;
  disabled_reason: string | null;
  disabled_until: string | Date | null;
  /** Whether a second factor is on. */
  mfa: boolean;
  created_at: string | Date;
  updated_at: string | Date;
}

/** The user resource of the public contract, section 3. */
export interface UserResource {
  user_id: string;
  email: string;
  full_name: string;
  avatar_url: string | null;
  role: Role;
  is_verified: boolean;
  is_active: boolean;
  kyc_status: KycStatus;
  created_at: string;
  updated_at: string;
}

export const userColumns = sql`id, email, password_hash, full_name, avatar_url, role, is_verified, is_active, kyc_status,
  version, disabled_reason, disabled_until, totp_enabled_at is not null as mfa, created_at, updated_at`;

export const userResource = (row: UserRow): UserResource => ({
  user_id: row.id,
  email: row.email,
  full_name: row.full_name,
  avatar_url: row.avatar_url,
  role: row.role,
  is_verified: row.is_verified,
  is_active: row.is_active,
  kyc_status: row.kyc_status,
  created_at: iso(row.created_at),
  updated_at: iso(row.updated_at),
});

/** The same for administrators: why and until when an account is disabled, where that was said. */
export const adminUserResource = (
  row: UserRow,
): UserResource & { disabled_reason?: string; disabled_until?: string } => {
  const until = isoOrNull(row.disabled_until);
  return {
    ...userResource(row),
    ...(row.disabled_reason === null ? {} : { disabled_reason: row.disabled_reason }),
    ...(until === null ? {} : { disabled_until: until }),
  };
};

export async function findUser(em: EntityManager, id: string): Promise<UserRow | undefined> {
  const { rows } = await sql<UserRow>`
    select ${userColumns} from users where id = ${id} and deleted_at is null`.execute(em.getKysely());
  return rows[0];
}

export async function findUserByEmail(em: EntityManager, email: string): Promise<UserRow | undefined> {
  const { rows } = await sql<UserRow>`
    select ${userColumns} from users where lower(email) = lower(${email}) and deleted_at is null`.execute(
    em.getKysely(),
  );
  return rows[0];
}

/** Locks a living account for this transaction, so that its events keep their order. Refuses NOT_FOUND. */
export async function lockUser(em: EntityManager, id: string): Promise<UserRow> {
  const { rows } = await sql<UserRow>`
    select ${userColumns} from users where id = ${id} and deleted_at is null for update`.execute(em.getKysely());
  return rows[0] ?? refuse('NOT_FOUND', 'there is no such user');
}

/** Takes the next `count` sequence numbers of a user's events (and locks the row); returns the last of them. */
export async function advanceVersion(em: EntityManager, id: string, count = 1): Promise<number> {
  const { rows } = await sql<{ version: number }>`
    update users set version = version + ${count} where id = ${id} returning version`.execute(em.getKysely());
  const row = rows[0];
  if (!row) throw new Error('the user of an event is gone');
  return row.version;
}
