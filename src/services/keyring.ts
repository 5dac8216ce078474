import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import { CompactEncrypt, compactDecrypt, decodeProtectedHeader, errors } from 'jose';

/** One HKDF-SHA256 key (RFC 5869) per purpose; a value sealed for one purpose cannot be opened as another. */
export type Purpose =
  | 'command'
  | 'email'
  | 'webhook-secret'
  | 'jwt'
  | 'audit'
  | 'kyc'
  | 'check'
  | 'operation-id'
  | 'fingerprint'
  | 'refresh'
  | 'totp'
  | 'cursor';

export interface PurposeKey {
  /** Names the master key that this one was derived from. */
  kid: string;
  key: Buffer;
}

/** Keys of one purpose: the one to seal with, and by `kid` any that can still open. */
export interface PurposeKeys {
  current(): PurposeKey;
  byKid(kid: string): Buffer | undefined;
  /** The keys before the current one, as far as they are known. */
  previous(): PurposeKey[];
}

export class SealError extends Error {
  override name = 'SealError';
}

const derive = (master: Buffer, info: string) => Buffer.from(hkdfSync('sha256', master, 'waybill', info, 32));
const kidOf = (master: Buffer) => createHash('sha256').update(derive(master, 'kid')).digest('hex').slice(0, 12);

/** Seals and opens values under keys derived from `SECRETS_KEY`; `SECRETS_KEY_PREVIOUS` opens too. */
export class Keyring {
  readonly #masters: { kid: string; master: Buffer }[];
  readonly #derived = new Map<string, Buffer>();
  /** A cipher with a Buffer as its key costs about 13 µs to make, with a KeyObject 1.5 (Node 24, November 2026). */
  readonly #objects = new Map<Buffer, KeyObject>();

  constructor(current: Buffer, previous?: Buffer) {
    this.#masters = [current, ...(previous ? [previous] : [])].map((master) => ({ kid: kidOf(master), master }));
  }

  get kid(): string {
    return this.#masters[0]?.kid ?? '';
  }

  for(purpose: Purpose): PurposeKeys {
    return {
      current: () => ({ kid: this.kid, key: this.#key(purpose, this.kid) as Buffer }),
      byKid: (kid) => this.#key(purpose, kid),
      previous: () => this.#masters.slice(1).map(({ kid }) => ({ kid, key: this.#key(purpose, kid) as Buffer })),
    };
  }

  /** JWE compact serialisation (RFC 7516), `dir` + `A256GCM`, with `kid` and, when `expiresIn` seconds are given, `exp`. */
  async seal(purpose: Purpose, plaintext: string, options: { expiresIn?: number } = {}): Promise<string> {
    const { kid, key } = this.for(purpose).current();
    const header = {
      alg: 'dir',
      enc: 'A256GCM',
      kid,
      ...(options.expiresIn ? { exp: Math.floor(Date.now() / 1000) + options.expiresIn } : {}),
    };
    return new CompactEncrypt(new TextEncoder().encode(plaintext)).setProtectedHeader(header).encrypt(key);
  }

  /** Opens what `seal` made; throws `SealError` when it was forged, expired or sealed under an unknown key. */
  async open(purpose: Purpose, sealed: string): Promise<string> {
    const header = headerOf(sealed);
    const key = this.#key(purpose, String(header.kid));
    if (!key) throw new SealError(`sealed under the unknown key ${String(header.kid)}`);
    try {
      const { plaintext } = await compactDecrypt(sealed, key, {
        keyManagementAlgorithms: ['dir'],
        contentEncryptionAlgorithms: ['A256GCM'],
      });
      if (typeof header.exp === 'number' && header.exp < Date.now() / 1000)
        throw new SealError('the sealed value has expired');
      return new TextDecoder().decode(plaintext);
    } catch (error) {
      if (error instanceof errors.JOSEError) throw new SealError('the sealed value cannot be opened');
      throw error;
    }
  }

  /** AES-256-GCM of bytes at rest: `kid(12) iv(12) tag(16) ciphertext`, bound to `aad`. */
  encrypt(purpose: Purpose, plaintext: Buffer, aad: string): Buffer {
    const { kid, key } = this.for(purpose).current();
    const iv = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', this.#object(key), iv).setAAD(Buffer.from(aad));
    const body = Buffer.concat([cipher.update(plaintext), cipher.final()]);
    return Buffer.concat([Buffer.from(kid, 'latin1'), iv, cipher.getAuthTag(), body]);
  }

  /** Opens what `encrypt` made with the same `aad`; throws `SealError` otherwise. */
  decrypt(purpose: Purpose, sealed: Buffer, aad: string): Buffer {
    const key = this.#key(purpose, sealed.subarray(0, 12).toString('latin1'));
    if (!key) throw new SealError('encrypted under an unknown key');
    try {
      const decipher = createDecipheriv('aes-256-gcm', this.#object(key), sealed.subarray(12, 24)).setAAD(
        Buffer.from(aad),
      );
      decipher.setAuthTag(sealed.subarray(24, 40));
      return Buffer.concat([decipher.update(sealed.subarray(40)), decipher.final()]);
    } catch {
      throw new SealError('the encrypted value cannot be opened');
    }
  }

  #object(key: Buffer): KeyObject {
    const known = this.#objects.get(key);
    if (known) return known;
    const made = createSecretKey(key);
    this.#objects.set(key, made);
    return made;
  }

  #key(purpose: Purpose, kid: string): Buffer | undefined {
    const cached = this.#derived.get(`${purpose}:${kid}`);
    if (cached) return cached;
    const found = this.#masters.find((m) => m.kid === kid);
    if (!found) return undefined;
    const key = derive(found.master, purpose);
    this.#derived.set(`${purpose}:${kid}`, key);
    return key;
  }
}

function headerOf(sealed: string): { kid?: unknown; exp?: unknown } {
  try {
    return decodeProtectedHeader(sealed);
  } catch {
    throw new SealError('not a sealed value');
  }
}
