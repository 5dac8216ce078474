/**
 * Codes of a second factor: time-based ones (RFC 6238: SHA-1, 6 digits, 30 s, one step either way) and recovery codes.
 * Each works once: a time step is taken only when it is later than the last one taken, a recovery code leaves the row.
 */
import { createHash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { Secret, TOTP } from 'otpauth';
import { currentTime } from '../../services/clock.ts';
import type { EntityManager } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';

/** RFC 4226, section 4, R6, recommends 160 bits. */
const SECRET_BYTES = 20;
const STEP_SECONDS = 30;
const DRIFT_STEPS = 1;
export const RECOVERY_CODES = 10;
/** 120 bits: enough that a plain SHA-256 of it can be stored (OWASP ASVS 5.0, 6.5.2). */
const RECOVERY_BYTES = 15;
const ALPHABET = 'abcdefghijkmnpqrstuvwxyz23456789';

/** What a client may send as `code`. */
export const ONE_TIME_CODE = /^(?:\d{6}|[a-z2-9]{6}(?:-?[a-z2-9]{6}){3})$/i;

const totpOf = (secret: Secret, label?: string, issuer = 'Waybill'): TOTP =>
  new TOTP({ issuer, label: label ?? '', secret, algorithm: 'SHA1', digits: 6, period: STEP_SECONDS });

/** A fresh secret: sealed as it is stored, and as the owner's authenticator takes it. */
export function newTotpSecret(
  keyring: Keyring,
  user: { id: string; email: string },
): { sealed: Buffer; secret: string; otpauthUrl: string } {
  const secret = new Secret({ size: SECRET_BYTES });
  return {
    sealed: keyring.encrypt('totp', Buffer.from(secret.bytes), user.id),
    secret: secret.base32,
    otpauthUrl: totpOf(secret, user.email).toString(),
  };
}

/** The time step that a code is of, or `undefined` when it is of none near `now`. */
export function stepOf(keyring: Keyring, userId: string, sealed: Buffer, code: string, now = currentTime()) {
  const bytes = keyring.decrypt('totp', sealed, userId);
  const secret = new Secret({ buffer: Uint8Array.from(bytes).buffer });
  const delta = totpOf(secret).validate({ token: code, timestamp: now, window: DRIFT_STEPS });
  return delta === null ? undefined : Math.floor(now / 1000 / STEP_SECONDS) + delta;
}

const digest = (code: string): Buffer => createHash('sha256').update(code.replaceAll('-', '').toLowerCase()).digest();

/** Ten recovery codes such as `k3v9tq-…`, with the hashes to store. */
export function newRecoveryCodes(): { codes: string[]; hashes: Buffer[] } {
  const codes = Array.from({ length: RECOVERY_CODES }, () => {
    let bits = BigInt(`0x${randomBytes(RECOVERY_BYTES).toString('hex')}`);
    let text = '';
    for (let i = 0; i < (RECOVERY_BYTES * 8) / 5; i += 1, bits >>= 5n) text += ALPHABET[Number(bits & 31n)];
    return text.replace(/(.{6})(?=.)/g, '$1-');
  });
  return { codes, hashes: codes.map(digest) };
}

/** How a code was good: an authenticator's, or one of the recovery codes. */
export type CodeKind = 'totp' | 'recovery';

/**
 * Uses a code of a user's second factor up, in the transaction that does what it was asked for. `undefined`: the code
 * is wrong, or was used before.
 */
export async function useCode(
  em: EntityManager,
  keyring: Keyring,
  userId: string,
  code: string,
): Promise<CodeKind | undefined> {
  const db = em.getKysely();
  if (!/^\d{6}$/.test(code)) {
    const { rows } = await sql`
      update users set recovery_codes = array_remove(recovery_codes, ${digest(code)}::bytea)
      where id = ${userId} and totp_enabled_at is not null and ${digest(code)}::bytea = any(recovery_codes)
      returning id`.execute(db);
    return rows.length > 0 ? 'recovery' : undefined;
  }
  const found = await sql<{ totp_secret: Buffer | null }>`select totp_secret from users where id = ${userId}`.execute(
    db,
  );
  const sealed = found.rows[0]?.totp_secret;
  const step = sealed ? stepOf(keyring, userId, sealed, code) : undefined;
  if (step === undefined) return undefined;
  const { rows } = await sql`
    update users set totp_last_step = ${step} where id = ${userId} and coalesce(totp_last_step, 0) < ${step}
    returning id`.execute(db);
  return rows.length > 0 ? 'totp' : undefined;
}
