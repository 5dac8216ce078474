import { sql } from 'kysely';
import type { EntityManager } from '../services/database.ts';

/** A public key as a JWK (RFC 7517; OKP and Ed25519 of RFC 8037), with what a webhook subscriber looks for. */
export interface PublicKey {
  /** Of this key alone: an endpoint has several while its secret rotates. */
  kid: string;
  kty: 'OKP';
  crv: 'Ed25519';
  /** 32 bytes in base64url. */
  x: string;
  use: 'sig';
  endpoint_id: string;
  /** The same key as Standard Webhooks spells it: `whpk_` and base64. */
  whpk: string;
}

/**
 * The keys that verify the `v1a` signatures of endpoints, or of one: those that sign at this moment, the newest first of
 * each endpoint. Nothing of it is secret.
 */
export async function publicKeys(em: EntityManager, endpointId?: string): Promise<PublicKey[]> {
  const { rows } = await sql<{ id: string; endpoint_id: string; public_key: string }>`
    select s.id, s.endpoint_id, s.public_key from webhook_secrets s
    join webhook_endpoints e on e.id = s.endpoint_id and e.deleted_at is null and e.signature <> 'v1'
    where s.scheme = 'v1a' and s.public_key is not null and (s.expires_at is null or s.expires_at > now())
      and (${endpointId ?? null}::uuid is null or s.endpoint_id = ${endpointId ?? null}::uuid)
    order by s.endpoint_id, s.created_at desc, s.id desc`.execute(em.getKysely());
  return rows.map(({ id, endpoint_id, public_key: whpk }) => ({
    kid: id,
    kty: 'OKP',
    crv: 'Ed25519',
    x: Buffer.from(whpk.slice('whpk_'.length), 'base64').toString('base64url'),
    use: 'sig',
    endpoint_id,
    whpk,
  }));
}
