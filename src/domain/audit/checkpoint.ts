import { verify as cryptoVerify, type KeyObject } from 'node:crypto';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import { sha256 } from './merkle.ts';
import { canonical, rfc3339 } from './row.ts';

/** One sealed batch. Hashes in hex, the Ed25519 signature (RFC 8032) over the 32 bytes of `hash` in base64. */
export interface Checkpoint {
  n: number;
  size: number;
  root: string;
  previous_hash: string;
  hash: string;
  kid: string;
  signature: string;
  created_at: string;
}

/** What the first checkpoint follows. */
export const GENESIS = '00'.repeat(32);

/** `SHA256(canonical JSON of {created_at,kid,n,previous_hash,root,size})`, in hex. */
export function checkpointHash(checkpoint: Omit<Checkpoint, 'hash' | 'signature'>): string {
  const { n, size, root, previous_hash, kid, created_at } = checkpoint;
  return sha256(canonical({ n, size, root, previous_hash, kid, created_at })).toString('hex');
}

const verifyInPool = promisify(cryptoVerify);

/** Whether the signature is this key's over the checkpoint's hash. Runs in the thread pool. */
export function signatureHolds(checkpoint: Checkpoint, publicKey: KeyObject): Promise<boolean> {
  const message = Buffer.from(checkpoint.hash, 'hex');
  return verifyInPool(null, message, publicKey, Buffer.from(checkpoint.signature, 'base64'));
}

export interface RawCheckpoint {
  n: string;
  size: number;
  root: Buffer;
  previous_hash: Buffer;
  hash: Buffer;
  kid: string;
  signature: Buffer;
  created_at: string;
}

export const checkpointColumns = sql`
  n::text, size, root, previous_hash, hash, kid, signature, ${rfc3339('created_at')} as created_at`;

export function parseCheckpoint(raw: RawCheckpoint): Checkpoint {
  return {
    n: Number(raw.n),
    size: raw.size,
    root: raw.root.toString('hex'),
    previous_hash: raw.previous_hash.toString('hex'),
    hash: raw.hash.toString('hex'),
    kid: raw.kid,
    signature: raw.signature.toString('base64'),
    created_at: raw.created_at,
  };
}
