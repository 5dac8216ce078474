import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import {
  type Checkpoint,
  checkpointColumns,
  checkpointHash,
  parseCheckpoint,
  type RawCheckpoint,
  signatureHolds,
} from './checkpoint.ts';
import { inclusionPath, type PathStep, rootOfPath } from './merkle.ts';
import { leafNow, type RawRow, rowColumns } from './row.ts';
import { publicKeyOf } from './signing-keys.ts';

/** That a row is in the log, checkable without the log. `leaf` and hashes in hex, `public_key` SPKI PEM. */
export interface InclusionProof {
  event_id: string;
  checkpoint: Checkpoint & { public_key: string };
  leaf_index: number;
  leaf: string;
  path: PathStep[];
}

/**
 * The RFC 6962 inclusion proof of one row, or undefined when there is no such row. The leaf is that of the row's
 * content now: the proof of a row that was changed does not hold.
 */
export async function proof(em: EntityManager, id: string): Promise<InclusionProof | undefined> {
  const db = em.getKysely();
  const found = await sql<RawRow>`select ${rowColumns} from audit_events where id = ${id}::uuid limit 1`.execute(db);
  const row = found.rows[0];
  if (!row) return undefined;
  const checkpoints = await sql<RawCheckpoint & { public_key: string | null }>`
    select ${checkpointColumns}, (select k.public_key from audit_keys k where k.kid = c.kid) as public_key
    from audit_checkpoints c where n = ${row.checkpoint}::bigint`.execute(db);
  const checkpoint = checkpoints.rows[0];
  const { rows } = await sql<{ id: string; leaf: Buffer }>`
    select id::text, leaf from audit_events where checkpoint = ${row.checkpoint}::bigint
    order by leaf_index, recorded_at`.execute(db);
  const index = rows.findIndex((other) => other.id === row.id);
  if (!checkpoint || index < 0) return undefined;
  return {
    event_id: row.id,
    checkpoint: { ...parseCheckpoint(checkpoint), public_key: checkpoint.public_key ?? '' },
    leaf_index: row.leaf_index,
    leaf: (leafNow(row) ?? Buffer.alloc(32)).toString('hex'),
    path: inclusionPath(
      rows.map((other) => other.leaf),
      index,
    ),
  };
}

/**
 * Whether a proof holds: leaf → root → hash of the checkpoint → signature. Whoever checks must know by another way
 * that `publicKey` (SPKI PEM; by default the one in the proof) is this log's.
 */
export async function verifyInclusion(
  given: InclusionProof,
  publicKey = given.checkpoint.public_key,
): Promise<boolean> {
  const { checkpoint, leaf, leaf_index, path } = given;
  const root = rootOfPath(Buffer.from(leaf, 'hex'), leaf_index, checkpoint.size, path);
  if (root?.toString('hex') !== checkpoint.root || checkpointHash(checkpoint) !== checkpoint.hash) return false;
  const key = publicKeyOf(publicKey);
  return key !== undefined && signatureHolds(checkpoint, key);
}
