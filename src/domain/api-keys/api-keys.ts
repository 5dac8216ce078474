/** A key is good from its creation until it expires or is revoked; a revoked key never works again. */
import { type RawBuilder, sql } from 'kysely';
import { type EntityManager, iso, isoOrNull } from '../../services/database.ts';
import { advanceRevision } from '../../services/revision.ts';
import { newId } from '../ids.ts';
import type { Unit } from '../messages/emit.ts';
import { actorText } from '../messages/envelope.ts';
import { refuse } from '../problem.ts';
import { newKey } from './key.ts';
import type { Scope } from './scopes.ts';

/** A key as administrators see it: everything but the key. */
export interface ApiKeyResource {
  id: string;
  name: string;
  tenant: string;
  scopes: Scope[];
  /** `wb_` and six characters, to tell keys apart. */
  prefix: string;
  expires_at: string | null;
  /** To the minute. */
  last_used_at: string | null;
  created_at: string;
}

export interface ApiKeyInput {
  name: string;
  tenant: string;
  scopes: readonly Scope[];
  /** RFC 3339; never, when absent. */
  expiresAt?: string | undefined;
}

const COLUMNS = sql`id, name, tenant, scopes, prefix, expires_at, last_used_at, created_at`;

const resource = (row: ApiKeyResource): ApiKeyResource => ({
  id: row.id,
  name: row.name,
  tenant: row.tenant,
  scopes: row.scopes,
  prefix: row.prefix,
  expires_at: isoOrNull(row.expires_at),
  last_used_at: isoOrNull(row.last_used_at),
  created_at: iso(row.created_at),
});

/** Makes a key; `key` is in this answer and nowhere else. Refuses with VALIDATION_ERROR an expiry that has passed. */
export async function createApiKey(unit: Unit, input: ApiKeyInput): Promise<ApiKeyResource & { key: string }> {
  if (input.expiresAt !== undefined && Date.parse(input.expiresAt) <= Date.now())
    refuse('VALIDATION_ERROR', 'expires_at must lie in the future', { field: 'expires_at' });
  const { key, prefix, hash } = newKey();
  const scopes = [...new Set(input.scopes)];
  const { rows } = await sql<ApiKeyResource>`
    insert into api_keys (id, tenant, name, prefix, key_hash, scopes, created_by, expires_at)
    values (${newId()}, ${input.tenant}, ${input.name}, ${prefix}, ${hash}, ${scopes}, ${actorText(unit.emit.context.actor)}, ${input.expiresAt ?? null})
    returning ${COLUMNS}`.execute(unit.em.getKysely());
  const [row] = rows;
  if (!row) throw new Error('an insert returned no row');
  const created = resource(row);
  unit.emit.audit({
    action: 'api_key.created',
    targets: [{ type: 'api_key', id: created.id }],
    metadata: {
      name: created.name,
      tenant: created.tenant,
      scopes: created.scopes.join(' '),
      ...(created.expires_at ? { expires_at: created.expires_at } : {}),
    },
  });
  await advanceRevision(unit.em, 'api_keys');
  return { ...created, key };
}

/** Ends a key with the commit. Refuses with NOT_FOUND one that is revoked already, or not of `tenant` when it is given. */
export async function revokeApiKey(
  unit: Unit,
  { id, tenant }: { id: string; tenant?: string | undefined },
): Promise<{ id: string; revoked_at: string }> {
  const { rows } = await sql<{ id: string; revoked_at: string; tenant: string; name: string }>`
    update api_keys set revoked_at = clock_timestamp()
    where id = ${id} and revoked_at is null and ${ofTenant(tenant)} returning id, revoked_at, tenant, name`.execute(
    unit.em.getKysely(),
  );
  const row = rows[0] ?? unknownKey();
  unit.emit.audit({
    action: 'api_key.revoked',
    targets: [{ type: 'api_key', id: row.id }],
    metadata: { name: row.name, tenant: row.tenant },
  });
  await advanceRevision(unit.em, 'api_keys');
  return { id: row.id, revoked_at: iso(row.revoked_at) };
}

/** Refuses with NOT_FOUND as `revokeApiKey` does. */
export async function getApiKey(em: EntityManager, id: string, tenant?: string): Promise<ApiKeyResource> {
  const { rows } = await sql<ApiKeyResource>`
    select ${COLUMNS} from api_keys where id = ${id} and revoked_at is null and ${ofTenant(tenant)}`.execute(
    em.getKysely(),
  );
  return resource(rows[0] ?? unknownKey());
}

export const API_KEY_SORTS = ['created_at', 'name', 'last_used_at'] as const;

export interface ApiKeyQuery {
  /** Of all tenants when absent. */
  tenant?: string | undefined;
  page: number;
  limit: number;
  sort: (typeof API_KEY_SORTS)[number];
  order: 'asc' | 'desc';
}

/** One page of the keys that are not revoked, and how many there are in all. */
export async function listApiKeys(
  em: EntityManager,
  query: ApiKeyQuery,
): Promise<{ keys: ApiKeyResource[]; total: number }> {
  const order = query.order === 'asc' ? sql`asc nulls first` : sql`desc nulls last`;
  const where = sql`revoked_at is null and ${ofTenant(query.tenant)}`;
  const { rows } = await sql<ApiKeyResource>`
    select ${COLUMNS} from api_keys where ${where} order by ${sql.ref(query.sort)} ${order}, id ${order}
    limit ${query.limit} offset ${(query.page - 1) * query.limit}`.execute(em.getKysely());
  const count = await sql<{ total: string }>`select count(*) as total from api_keys where ${where}`.execute(
    em.getKysely(),
  );
  return { keys: rows.map(resource), total: Number(count.rows[0]?.total ?? 0) };
}

const ofTenant = (tenant: string | undefined): RawBuilder<boolean> =>
  tenant === undefined ? sql<boolean>`true` : sql<boolean>`tenant = ${tenant}`;

const unknownKey = (): never => refuse('NOT_FOUND', 'there is no such API key');
