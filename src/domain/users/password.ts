/**
 * Passwords: what is acceptable, and Argon2id (RFC 9106) in bounded numbers.
 *
 * A hasher's slots have two states: free (fewer than `concurrency` hashes run) and full. When full, a caller queues;
 * when the queue is full too, it is turned away at once, so that a flood of sign-ins costs memory and waiting only up
 * to a limit. A slot goes from a finished hash straight to the first in the queue.
 */
import { randomBytes } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { hash as argon2Hash, argon2id, verify as argon2Verify, needsRehash } from 'argon2';
import { refuse } from '../problem.ts';
import { isCommonPassword } from './common-passwords.ts';

export const PASSWORD_MIN = 8;
export const PASSWORD_MAX = 128;

/** Two spellings of one character are one password (NIST SP 800-63B-4, 3.1.1.2: NFKC or NFKD). */
export const normalisePassword = (password: string): string => password.normalize('NFKC');

/**
 * A new password in its normal form. Refuses (VALIDATION_ERROR on `field`) what is not 8–128 characters (code points),
 * is no valid text, or stands on the list of common passwords.
 */
export function acceptPassword(password: string, field = 'password'): string {
  if (!password.isWellFormed() || password.includes('\0')) {
    refuse('VALIDATION_ERROR', 'the password holds characters that are not text', { field });
  }
  const normal = normalisePassword(password);
  const length = [...normal].length;
  if (length < PASSWORD_MIN || length > PASSWORD_MAX) {
    refuse('VALIDATION_ERROR', `the password must have ${PASSWORD_MIN} to ${PASSWORD_MAX} characters`, { field });
  }
  if (isCommonPassword(normal)) {
    refuse('VALIDATION_ERROR', 'the password is one of the most used ones; choose another', { field });
  }
  return normal;
}

/** Fewer characters than this beside one's own address are no password. */
const OWN_CHARACTERS = 4;

/**
 * Refuses (VALIDATION_ERROR on `field`) an accepted password that is little more than a word anybody would try here
 * first: the address, its first part, the name of this platform.
 */
export function refuseSimilar(password: string, email: string, field = 'password'): void {
  const plain = password.toLowerCase();
  const address = normalisePassword(email).toLowerCase();
  const words = [address, address.split('@')[0] ?? '', 'waybill'].filter((word) => word.length >= 3);
  const rest = words.reduce((left, word) => left.replaceAll(word, ''), plain);
  if (rest.length < plain.length && [...rest].length < OWN_CHARACTERS) {
    refuse('VALIDATION_ERROR', 'the password is too much like the e-mail address or the name of this service', {
      field,
    });
  }
}

export interface HashSettings {
  memoryKib: number;
  time: number;
  parallelism: number;
}

export class PasswordHasher {
  readonly #options: { type: typeof argon2id; memoryCost: number; timeCost: number; parallelism: number };
  readonly #concurrency: number;
  readonly #queueLimit: number;
  readonly #queue: (() => void)[] = [];
  #running = 0;
  #dummy: Promise<string> | undefined;

  /** `queueLimit`: how many callers may wait for a slot; beyond it they get a Refusal SERVICE_UNAVAILABLE. */
  constructor(settings: HashSettings, limits: { concurrency?: number; queueLimit?: number } = {}) {
    this.#options = {
      type: argon2id,
      memoryCost: settings.memoryKib,
      timeCost: settings.time,
      parallelism: settings.parallelism,
    };
    this.#concurrency = limits.concurrency ?? availableParallelism();
    this.#queueLimit = limits.queueLimit ?? 50;
  }

  /** The PHC string (`$argon2id$v=19$m=…`) of a password, with a salt of 16 random bytes. */
  async hash(password: string): Promise<string> {
    return this.#inSlot(() => argon2Hash(normalisePassword(password), this.#options));
  }

  /**
   * Whether the password is the one that was hashed. Without a hash (nobody has this address, or no password was set
   * yet) it takes as long against a hash of random bytes, and is `false`.
   */
  async verify(hashed: string | null, password: string): Promise<boolean> {
    this.#dummy ??= this.hash(randomBytes(32).toString('base64url')).catch((error: unknown) => {
      this.#dummy = undefined;
      throw error;
    });
    const dummy = await this.#dummy;
    const matches = await this.#inSlot(() => argon2Verify(hashed ?? dummy, normalisePassword(password)));
    return matches && hashed !== null;
  }

  /** Whether a hash was made with other settings than today's. */
  needsRehash(hashed: string): boolean {
    return needsRehash(hashed, this.#options);
  }

  async #inSlot<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running < this.#concurrency) this.#running += 1;
    else if (this.#queue.length >= this.#queueLimit) {
      return refuse('SERVICE_UNAVAILABLE', 'too many passwords are being checked at once; try again shortly', {
        retry_after: 2,
      });
    } else await new Promise<void>((resolve) => this.#queue.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#queue.shift();
      if (next) next();
      else this.#running -= 1;
    }
  }
}
