import { timingSafeEqual } from 'node:crypto';
import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';

export interface IdempotencyClaim {
  /** Caller and route; without credentials the route alone. */
  scope: string;
  key: string;
  /** Names the key that a new fingerprint is made with. */
  kid: string;
  /** HMAC of the canonical body under the key `kid`; `undefined` when that key is not known any more. */
  fingerprint: (kid: string) => Buffer | undefined;
  operationId: string;
}

/** Whose operation the key stands for now, or that it was used with another body (IETF draft-ietf-httpapi-idempotency-key-header-07, section 2.7). */
export type IdempotencyResult = { operationId: string; fresh: boolean } | 'other-body';

/**
 * Binds an idempotency key to an operation before the command is published. An equal repeat gets the operation of the
 * first and holds the key with it; keys older than 24 hours are taken over as if they were new.
 */
export async function claimIdempotencyKey(em: EntityManager, claim: IdempotencyClaim): Promise<IdempotencyResult> {
  const expired = sql`k.created_at < now() - interval '24 hours'`;
  const { rows } = await sql<{ operation_id: string; fingerprint: Buffer; kid: string | null }>`
    insert into idempotency_keys as k (scope, key, fingerprint, kid, operation_id)
    values (${claim.scope}, ${claim.key}, ${claim.fingerprint(claim.kid)}, ${claim.kid}, ${claim.operationId})
    on conflict (scope, key) do update set
      fingerprint = case when ${expired} then excluded.fingerprint else k.fingerprint end,
      kid = case when ${expired} then excluded.kid else k.kid end,
      operation_id = case when ${expired} then excluded.operation_id else k.operation_id end,
      repeats = case when ${expired} then 0 else k.repeats + 1 end,
      created_at = case when ${expired} then now() else k.created_at end
    returning operation_id, fingerprint, kid`.execute(em.getKysely());
  const row = rows[0];
  if (!row) throw new Error('an upsert returned no row');
  const { operation_id: operationId } = row;
  const own = claim.fingerprint(row.kid ?? claim.kid);
  if (own && timingSafeEqual(own, row.fingerprint)) return { operationId, fresh: operationId === claim.operationId };
  await releaseIdempotencyKey(em, claim, operationId);
  return 'other-body';
}

/**
 * Lets go of a key whose command could not be published. When nobody else holds it, nothing was accepted under it and
 * it is forgotten, so a repeat starts anew; a repeat that may have published keeps it.
 */
export async function releaseIdempotencyKey(
  em: EntityManager,
  { scope, key }: Pick<IdempotencyClaim, 'scope' | 'key'>,
  operationId: string,
): Promise<void> {
  const mine = sql`scope = ${scope} and key = ${key} and operation_id = ${operationId}`;
  // Counted down first: of two that let go at once, the second sees that it was the last.
  const { rows } = await sql<{ repeats: number }>`
    update idempotency_keys set repeats = repeats - 1 where ${mine} returning repeats`.execute(em.getKysely());
  if (rows[0] && rows[0].repeats < 0)
    await sql`delete from idempotency_keys where ${mine} and repeats < 0`.execute(em.getKysely());
}
