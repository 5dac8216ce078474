/**
 * The keys that sign access tokens. A key is
 *   published  stands in the key set, so that every verifier has it before the first token that it signs
 *   current    the newest whose time to sign has come: it signs
 *   retired    another one signs: it still verifies, for longer than the last token it signed lives
 *   gone       the row is deleted, its private half with it
 * `rotateSigningKeys` alone moves a key on; a process reads the keys at most once a minute.
 */
import { type CryptoKey, calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, type JWK } from 'jose';
import { sql } from 'kysely';
import { currentTime } from '../../services/clock.ts';
import type { Database, EntityManager } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';

/** RFC 9864, section 2.2: the fully specified name of what RFC 8037 called EdDSA. */
export const SIGNING_ALGORITHM = 'Ed25519';
/** How long others may keep the key set: the `max-age` of its answer. */
export const JWKS_CACHE_SECONDS = 300;

const KEY_LOCK = 7_120_012;
/** Longer than an access token lives, so a retired key outlasts everything that it signed. */
const KEPT_SECONDS = 3600;
const CACHE_MS = 60_000;
const RELOAD_MS = 1000;
/** Others keep the key set for its cache life, and our own processes may have put an older one into it until theirs ended. */
const PUBLISHED_MS = JWKS_CACHE_SECONDS * 1000 + CACHE_MS;
const ROTATION_MS = 90 * 86_400_000;

interface Row {
  kid: string;
  public_jwk: JWK;
  sealed_private: Buffer;
  signs_at: string;
  retired_at: string | null;
}

interface LoadedKeys {
  current: { kid: string; key: CryptoKey };
  publicKeys: Map<string, CryptoKey>;
  jwks: JWK[];
  /** When the next key begins to sign, in ms since the epoch: what is loaded is no good beyond. */
  until: number;
}

export class SigningKeys {
  readonly #database: Database;
  readonly #keyring: Keyring;
  readonly #clock: () => number;
  #loaded: Promise<LoadedKeys> | undefined;
  #loadedAt = 0;
  #until = Number.POSITIVE_INFINITY;

  /** `clock`: ms since the epoch. */
  constructor(database: Database, keyring: Keyring, clock: () => number = currentTime) {
    this.#database = database;
    this.#keyring = keyring;
    this.#clock = clock;
  }

  /** The key to sign with; makes the first one when there is none yet. */
  async current(): Promise<{ kid: string; key: CryptoKey }> {
    return (await this.#keys(CACHE_MS)).current;
  }

  /** The public key of a `kid`; looks again, at most once a second, for one made by another process. */
  async publicKey(kid: string): Promise<CryptoKey | undefined> {
    const known = (await this.#keys(CACHE_MS)).publicKeys.get(kid);
    return known ?? (await this.#keys(RELOAD_MS)).publicKeys.get(kid);
  }

  /** The key set of RFC 7517, section 5, for `/.well-known/jwks.json`. */
  async jwks(): Promise<{ keys: JWK[] }> {
    return { keys: (await this.#keys(CACHE_MS)).jwks };
  }

  #keys(maxAgeMs: number): Promise<LoadedKeys> {
    const now = this.#clock();
    if (!this.#loaded || now - this.#loadedAt >= maxAgeMs || now >= this.#until) {
      this.#loadedAt = now;
      this.#until = Number.POSITIVE_INFINITY;
      const loading = this.#load(now);
      this.#loaded = loading;
      loading.then(
        ({ until }) => {
          if (this.#loaded === loading) this.#until = until;
        },
        () => {
          if (this.#loaded === loading) this.#loaded = undefined;
        },
      );
    }
    return this.#loaded;
  }

  async #load(now: number): Promise<LoadedKeys> {
    let rows = await readKeys(this.#database.em.fork(), now);
    if (!currentOf(rows, now)) rows = await this.#makeFirst(now);
    const newest = currentOf(rows, now);
    if (!newest) throw new Error('there is no key to sign access tokens with');
    const secret = this.#keyring.decrypt('jwt', newest.sealed_private, newest.kid);
    const publicKeys = new Map<string, CryptoKey>();
    for (const row of rows) publicKeys.set(row.kid, await asKey(row.public_jwk));
    return {
      current: { kid: newest.kid, key: await asKey(JSON.parse(secret.toString('utf8'))) },
      publicKeys,
      jwks: rows.map((row) => ({ ...row.public_jwk, kid: row.kid, use: 'sig', alg: SIGNING_ALGORITHM })),
      until: Math.min(...rows.map((row) => Date.parse(row.signs_at)).filter((at) => at > now)),
    };
  }

  async #makeFirst(now: number): Promise<Row[]> {
    return this.#database.em.fork().transactional(async (em) => {
      await sql`select pg_advisory_xact_lock(${KEY_LOCK})`.execute(em.getKysely());
      const rows = await readKeys(em, now);
      if (currentOf(rows, now)) return rows;
      await insertKey(em, this.#keyring, new Date(now), new Date(now));
      return readKeys(em, now);
    });
  }
}

/** What a round of the rotation did. */
export interface Rotation {
  /** The `kid` of the key that was published now. */
  published?: string;
  /** Those that another key signs instead of from now on. */
  retired: string[];
  /** Those that nothing living was signed with any more. */
  gone: string[];
}

/**
 * One round of the rotation, for a timer. Publishes the next key when the current one has signed for `everyMs` (90 days
 * by default), so that it begins to sign when every copy of the key set has it; retires keys that were relieved;
 * deletes retired ones when the last token they signed is long over. Safe to run anywhere, any number of times.
 */
export async function rotateSigningKeys(
  deps: { database: Database; keyring: Keyring },
  options: { everyMs?: number; now?: number } = {},
): Promise<Rotation> {
  const now = options.now ?? currentTime();
  const everyMs = options.everyMs ?? ROTATION_MS;
  return deps.database.em.fork().transactional(async (em) => {
    await sql`select pg_advisory_xact_lock(${KEY_LOCK})`.execute(em.getKysely());
    const gone = await sql<{ kid: string }>`
      delete from signing_keys where algorithm = ${SIGNING_ALGORITHM} and retired_at <= ${new Date(now - KEPT_SECONDS * 1000)}
      returning kid`.execute(em.getKysely());
    const rows = await readKeys(em, now);
    const current = currentOf(rows, now);
    const result: Rotation = { retired: [], gone: gone.rows.map(({ kid }) => kid) };
    if (!current) return result;
    for (const row of rows) {
      if (row.retired_at !== null || Date.parse(row.signs_at) >= Date.parse(current.signs_at)) continue;
      // Other processes may sign with it until they read the keys again: its time runs from now, not from the relief.
      await sql`update signing_keys set retired_at = ${new Date(now)} where kid = ${row.kid}`.execute(em.getKysely());
      result.retired.push(row.kid);
    }
    const hasNext = rows.some((row) => row.retired_at === null && Date.parse(row.signs_at) > now);
    if (!hasNext && now - Date.parse(current.signs_at) >= everyMs) {
      result.published = await insertKey(em, deps.keyring, new Date(now), new Date(now + PUBLISHED_MS));
    }
    return result;
  });
}

/** The newest key whose time has come; the first one also before that, for a process whose clock is behind. */
const currentOf = (rows: Row[], now: number): Row | undefined => {
  const standing = rows.filter((row) => row.retired_at === null);
  return standing.find((row) => Date.parse(row.signs_at) <= now) ?? standing.at(-1);
};

async function insertKey(em: EntityManager, keyring: Keyring, created: Date, signs: Date): Promise<string> {
  const { privateKey, publicKey } = await generateKeyPair(SIGNING_ALGORITHM, { extractable: true });
  const publicJwk = await exportJWK(publicKey);
  const kid = await calculateJwkThumbprint(publicJwk);
  const sealed = keyring.encrypt('jwt', Buffer.from(JSON.stringify(await exportJWK(privateKey))), kid);
  await sql`
    insert into signing_keys (kid, algorithm, public_jwk, sealed_private, created_at, signs_at)
    values (${kid}, ${SIGNING_ALGORITHM}, ${JSON.stringify(publicJwk)}::jsonb, ${sealed}, ${created}, ${signs})`.execute(
    em.getKysely(),
  );
  return kid;
}

/** Every key that verifies, the newest to sign first. */
async function readKeys(em: EntityManager, now: number): Promise<Row[]> {
  const { rows } = await sql<Row>`
    select kid, public_jwk, sealed_private, signs_at, retired_at from signing_keys
    where algorithm = ${SIGNING_ALGORITHM}
      and (retired_at is null or retired_at > ${new Date(now - KEPT_SECONDS * 1000)})
    order by signs_at desc, kid`.execute(em.getKysely());
  return rows;
}

async function asKey(jwk: JWK): Promise<CryptoKey> {
  const key = await importJWK(jwk, SIGNING_ALGORITHM);
  if (key instanceof Uint8Array) throw new Error('a signing key must be asymmetric');
  return key;
}
