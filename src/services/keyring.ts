import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import { currentTime } from './clock.ts';
import { headerOfJwe, openJwe, sealJwe } from './jwe.ts';

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
    const exp = options.expiresIn ? { exp: Math.floor(currentTime() / 1000) + options.expiresIn } : {};
    return sealJwe({ kid, ...exp }, plaintext, this.#object(key));
  }

  /** Opens what `seal` made; throws `SealError` when it was forged, expired or sealed under an unknown key. */
  async open(purpose: Purpose, sealed: string): Promise<string> {
    const header = headerOfJwe(sealed);
    if (!header) throw new SealError('not a sealed value');
    const key = this.#key(purpose, header.kid);
    if (!key) throw new SealError(`sealed under the unknown key ${header.kid}`);
    const plaintext = openJwe(sealed, this.#object(key));
    if (plaintext === undefined) throw new SealError('the sealed value cannot be opened');
    if (typeof header.exp === 'number' && header.exp < currentTime() / 1000)
      throw new SealError('the sealed value has expired');
    return plaintext;
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
      const decipher = createDecipheriv('aes-256-gcm', this.#object(key), sealed.subarray(12, 24), {
        authTagLength: 16,
      })
        .setAAD(Buffer.from(aad))
        .setAuthTag(sealed.subarray(24, 40));
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
