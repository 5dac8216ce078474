import { createHash, randomBytes, randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';

/*
 * `wb_<prefix>_<secret><checksum>`: 6 public characters that tell keys apart, 32 random bytes, and the CRC-32 of all
 * before it, the last two in base62. The fixed form and the checksum let a leak scanner match a key without false
 * alarms, and a mistyped one be refused without a look at the database. The checksum protects nothing.
 */

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const PREFIX_LENGTH = 6;
const SECRET_BYTES = 32;
/** 62^43 > 2^256, 62^6 > 2^32. */
const SECRET_LENGTH = 43;
const CHECKSUM_LENGTH = 6;

/** What a leak scanner looks for; `isApiKey` checks the checksum too. */
export const API_KEY_PATTERN = new RegExp(
  `^wb_[0-9A-Za-z]{${PREFIX_LENGTH}}_[0-9A-Za-z]{${SECRET_LENGTH + CHECKSUM_LENGTH}}$`,
);

export interface NewKey {
  /** Shown once and stored nowhere. */
  key: string;
  /** `wb_` and its public characters. */
  prefix: string;
  hash: Buffer;
}

/** A new key of 256 random bits. */
export function newKey(): NewKey {
  const prefix = `wb_${Array.from({ length: PREFIX_LENGTH }, () => ALPHABET[randomInt(62)]).join('')}`;
  const secret = base62(BigInt(`0x${randomBytes(SECRET_BYTES).toString('hex')}`), SECRET_LENGTH);
  const body = `${prefix}_${secret}`;
  const key = body + checksum(body);
  return { key, prefix, hash: hashKey(key) };
}

/** Whether a text has the form and the checksum of a key. */
export const isApiKey = (text: string): boolean =>
  API_KEY_PATTERN.test(text) && checksum(text.slice(0, -CHECKSUM_LENGTH)) === text.slice(-CHECKSUM_LENGTH);

/** What is stored of a key. A plain SHA-256 is enough: 256 random bits cannot be guessed, however fast the hash. */
export const hashKey = (key: string): Buffer => createHash('sha256').update(key).digest();

const checksum = (body: string): string => base62(BigInt(crc32(body)), CHECKSUM_LENGTH);

function base62(value: bigint, length: number): string {
  let text = '';
  for (let rest = value; text.length < length; rest /= 62n) text = ALPHABET[Number(rest % 62n)] + text;
  return text;
}
