import { createHash, createHmac, randomBytes } from 'node:crypto';
import type { Keyring } from '../../services/keyring.ts';

/**
 * Refresh tokens: `wbr_` and 32 bytes in base64url. The first 12 bytes are random per session and the same in all its
 * tokens, so that a token that was replaced long ago still tells which session was copied, without keeping the hash of
 * every token ever given out. The other 20 are the secret, and the secret of the successor is an HMAC-SHA256 of the
 * token before it: two tabs that refresh at once get the same one, and nothing that could be replayed is stored.
 */
export interface RefreshToken {
  text: string;
  /** SHA-256 of the part that all tokens of a session share. */
  familyHash: Buffer;
  /** SHA-256 of the whole token. */
  hash: Buffer;
}

const PREFIX = 'wbr_';
const FAMILY_BYTES = 12;
const SECRET_BYTES = 20;

const sha256 = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest();

const fromBytes = (bytes: Buffer): RefreshToken => ({
  text: PREFIX + bytes.toString('base64url'),
  familyHash: sha256(bytes.subarray(0, FAMILY_BYTES)),
  hash: sha256(bytes),
});

const bytesOf = (text: string): Buffer => Buffer.from(text.slice(PREFIX.length), 'base64url');

/** The first token of a new session. */
export const newRefreshToken = (): RefreshToken => fromBytes(randomBytes(FAMILY_BYTES + SECRET_BYTES));

/** `undefined` when the text has not the form of a refresh token. */
export const parseRefreshToken = (text: string): RefreshToken | undefined =>
  /^wbr_[A-Za-z0-9_-]{43}$/.test(text) ? fromBytes(bytesOf(text)) : undefined;

/** The token that replaces `token`: always the same one under the same `SECRETS_KEY`. */
export function successorOf(keyring: Keyring, token: RefreshToken): RefreshToken {
  const bytes = bytesOf(token.text);
  const secret = createHmac('sha256', keyring.for('refresh').current().key).update(bytes).digest();
  return fromBytes(Buffer.concat([bytes.subarray(0, FAMILY_BYTES), secret.subarray(0, SECRET_BYTES)]));
}
