import { sql } from 'kysely';
import { z } from 'zod';
import { queueEmail } from '../domain/emails/queue.ts';
import { isUuid } from '../domain/ids.ts';
import type { Unit } from '../domain/messages/emit.ts';
import { parseActor } from '../domain/messages/envelope.ts';
import type { EntityManager } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';
import { disableEndpoint } from './endpoints.ts';

/** Administrators who are told when nobody else can be, the oldest accounts first. */
const MOST_ADMINS = 5;

interface Recipient {
  userId: string | null;
  to: string;
}

/**
 * Disables an endpoint for what it did (see `disableEndpoint`) and tells its owner by e-mail: the address in its metadata
 * (`owner_email`), else who made it, or the API key that made it, else the administrators. `why` is what the e-mail says.
 * False, and nothing done, when the endpoint is disabled or deleted already.
 */
export async function disableAndTell(
  unit: Unit,
  id: string,
  { reason, why }: { reason: string; why: string },
  keyring: Keyring,
): Promise<boolean> {
  if (!(await disableEndpoint(unit, id, reason))) return false;
  const { rows } = await sql<{ url: string; metadata: Record<string, string>; created_by: string | null }>`
    select url, metadata, created_by from webhook_endpoints where id = ${id}`.execute(unit.em.getKysely());
  const [row] = rows;
  if (!row) return true;
  const data = { url: row.url, reason: why };
  for (const { userId, to } of await recipients(unit.em, row.metadata.owner_email, row.created_by))
    await queueEmail(unit, { userId, to, template: 'endpoint-disabled', data }, keyring);
  return true;
}

async function recipients(em: EntityManager, named: string | undefined, maker: string | null): Promise<Recipient[]> {
  const owner = z.email().max(254).safeParse(named);
  if (owner.success) return [{ userId: null, to: owner.data }];
  const userId = maker === null ? null : await userBehind(em, maker);
  const { rows } = await sql<Recipient>`
    select id as "userId", email as to from users
    where deleted_at is null and is_active and (id = ${userId}::uuid or role = 'admin')
    order by (id = ${userId}::uuid) desc nulls last, created_at limit ${MOST_ADMINS}`.execute(em.getKysely());
  return rows[0]?.userId === userId ? rows.slice(0, 1) : rows;
}

/** The account of `user:<id>`, or of who made the key of `api_key:<id>`. */
async function userBehind(em: EntityManager, maker: string): Promise<string | null> {
  const { type, id } = parseActor(maker);
  if (id === null || !isUuid(id)) return null;
  if (type === 'user') return id;
  if (type !== 'api_key') return null;
  const { rows } = await sql<{ created_by: string }>`select created_by from api_keys where id = ${id}::uuid`.execute(
    em.getKysely(),
  );
  const creator = parseActor(rows[0]?.created_by);
  return creator.type === 'user' && isUuid(creator.id ?? '') ? creator.id : null;
}
