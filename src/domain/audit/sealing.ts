import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import type { PurposeKeys } from '../../services/keyring.ts';

/** The keys of this log, bound to its purpose: the current one seals, any known one opens. */
export type AuditKeys = PurposeKeys;

/** Something that should open does not: it was changed, or its key is unknown here. */
export class AuditSealError extends Error {
  override name = 'AuditSealError';
}

// A KeyObject makes a cipher 8 times as fast as a Buffer does. Bound to the Buffers of the keyring, which live as long.
const keyObjects = new WeakMap<Buffer, KeyObject>();

function keyObject(key: Buffer): KeyObject {
  const known = keyObjects.get(key) ?? createSecretKey(key);
  keyObjects.set(key, known);
  return known;
}

const IV_BYTES = 12;
let ivs = Buffer.alloc(0);

/** Each 96 bits from the system's generator, drawn many at a time: a call for each costs as much as the cipher. */
function freshIv(): Buffer {
  if (ivs.length < IV_BYTES) ivs = randomBytes(IV_BYTES * 512);
  const iv = ivs.subarray(0, IV_BYTES);
  ivs = ivs.subarray(IV_BYTES);
  return iv;
}

/** AES-256-GCM: `iv(12) ‖ tag(16) ‖ ciphertext`, bound to `aad`. */
export function encrypt(key: KeyObject, plaintext: Buffer, aad: string): Buffer {
  const iv = freshIv();
  const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(Buffer.from(aad));
  const body = cipher.update(plaintext);
  // GCM is a stream: `final` adds no bytes, it makes the tag.
  cipher.final();
  return Buffer.concat([iv, cipher.getAuthTag(), body]);
}

/** Opens what `encrypt` made; throws AuditSealError when key, bytes or `aad` differ. */
export function decrypt(key: KeyObject, sealed: Buffer, aad: string): Buffer {
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12), { authTagLength: 16 });
    decipher.setAAD(Buffer.from(aad)).setAuthTag(sealed.subarray(12, 28));
    return Buffer.concat([decipher.update(sealed.subarray(28)), decipher.final()]);
  } catch {
    throw new AuditSealError(`what is sealed as ${aad.slice(0, 80)} cannot be opened`);
  }
}

/** `encrypt` under the current key, whose kid stands in front: `length(1) ‖ kid ‖ …`. */
export function wrap(keys: AuditKeys, plaintext: Buffer, aad: string): Buffer {
  const { kid, key } = keys.current();
  const name = Buffer.from(kid);
  return Buffer.concat([Buffer.of(name.length), name, encrypt(keyObject(key), plaintext, aad)]);
}

/** Opens what `wrap` made; throws AuditSealError, also when its key is unknown here. */
export function unwrap(keys: AuditKeys, wrapped: Buffer, aad: string): Buffer {
  const end = 1 + (wrapped[0] ?? 0);
  const kid = wrapped.subarray(1, end).toString();
  const key = keys.byKid(kid);
  if (!key) throw new AuditSealError(`sealed under the unknown key ${kid}`);
  return decrypt(keyObject(key), wrapped.subarray(end), aad);
}

const pseudonymKeys = new WeakMap<Buffer, KeyObject>();

function pseudonymKey(key: Buffer): KeyObject {
  const known =
    pseudonymKeys.get(key) ?? createSecretKey(Buffer.from(hkdfSync('sha256', key, '', 'waybill audit pseudonym', 32)));
  pseudonymKeys.set(key, known);
  return known;
}

/** A value nobody's key protects, as `hmac:<kid>:<HMAC-SHA256, base64url>`: equal values can be matched, none can be read. */
export function pseudonym(keys: AuditKeys, field: string, value: string): string {
  const { kid, key } = keys.current();
  return `hmac:${kid}:${createHmac('sha256', pseudonymKey(key)).update(`${field}\0${value}`).digest('base64url')}`;
}
