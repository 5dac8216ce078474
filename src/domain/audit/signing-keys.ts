import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { sha256 } from './merkle.ts';
import { type AuditKeys, unwrap, wrap } from './sealing.ts';

/** A row of `audit_keys`: the public half as SPKI PEM, the private half as PKCS #8 DER sealed under SECRETS_KEY. */
export interface SigningKeyRow {
  kid: string;
  public_key: string;
  sealed_private: Buffer;
}

// The public half is bound into the seal: who can write the table but lacks SECRETS_KEY cannot bring a key of his own.
const aadOf = (row: Pick<SigningKeyRow, 'kid' | 'public_key'>) => `audit signing key ${row.kid} ${row.public_key}`;

function openPrivate(row: SigningKeyRow, keys: AuditKeys): KeyObject {
  return createPrivateKey({ key: unwrap(keys, row.sealed_private, aadOf(row)), format: 'der', type: 'pkcs8' });
}

/** Whether this key was made by a holder of SECRETS_KEY. */
export function isOurs(row: SigningKeyRow, keys: AuditKeys): boolean {
  try {
    openPrivate(row, keys);
    return true;
  } catch {
    return false;
  }
}

/** The public half of every signing key there is. */
export async function signingKeys(em: EntityManager): Promise<SigningKeyRow[]> {
  const { rows } = await sql<SigningKeyRow>`
    select kid, public_key, sealed_private from audit_keys order by created_at, kid`.execute(em.getKysely());
  return rows;
}

export interface Signer {
  kid: string;
  /** Ed25519 over the bytes. */
  sign(bytes: Buffer): Buffer;
}

/** Makes and stores a new signing key. The caller holds the log's lock. */
async function createSigningKey(em: EntityManager, keys: AuditKeys): Promise<Signer> {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const public_key = publicKey.export({ format: 'pem', type: 'spki' }).toString();
  const kid = sha256(publicKey.export({ format: 'der', type: 'spki' }))
    .toString('hex')
    .slice(0, 16);
  const sealed = wrap(keys, privateKey.export({ format: 'der', type: 'pkcs8' }), aadOf({ kid, public_key }));
  await sql`
    insert into audit_keys (kid, public_key, sealed_private, created_at)
    values (${kid}, ${public_key}, ${sealed}, clock_timestamp())`.execute(em.getKysely());
  return { kid, sign: (bytes) => sign(null, bytes, privateKey) };
}

/**
 * Opened private keys by kid. A kid is the hash of its key, and which one is current is asked of the table each time,
 * so a key whose transaction was rolled back is never used again.
 */
export class SigningKeys {
  readonly #keys: AuditKeys;
  readonly #opened = new Map<string, KeyObject>();

  constructor(keys: AuditKeys) {
    this.#keys = keys;
  }

  /** The newest key, made now when there is none. The caller holds the log's lock. Throws AuditSealError when it cannot be opened. */
  async current(em: EntityManager, newest: SigningKeyRow | undefined): Promise<Signer> {
    if (!newest) return createSigningKey(em, this.#keys);
    const privateKey = this.#opened.get(newest.kid) ?? openPrivate(newest, this.#keys);
    this.#opened.set(newest.kid, privateKey);
    return { kid: newest.kid, sign: (bytes) => sign(null, bytes, privateKey) };
  }
}

/**
 * Seals anew every signing key that an older SECRETS_KEY sealed; returns how many. To be called before that older
 * key is taken away. Throws AuditSealError when one cannot be opened.
 */
export async function resealSigningKeys(em: EntityManager, keys: AuditKeys): Promise<number> {
  const { kid } = keys.current();
  let resealed = 0;
  for (const row of await signingKeys(em)) {
    const under = row.sealed_private.subarray(1, 1 + (row.sealed_private[0] ?? 0)).toString();
    if (under === kid) continue;
    const sealed = wrap(keys, unwrap(keys, row.sealed_private, aadOf(row)), aadOf(row));
    await sql`update audit_keys set sealed_private = ${sealed} where kid = ${row.kid}`.execute(em.getKysely());
    resealed += 1;
  }
  return resealed;
}

/** The public key of a PEM, or undefined when it is not an Ed25519 key. */
export function publicKeyOf(pem: string): KeyObject | undefined {
  try {
    const key = createPublicKey(pem);
    return key.asymmetricKeyType === 'ed25519' ? key : undefined;
  } catch {
    return undefined;
  }
}
