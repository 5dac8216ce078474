import { createSecretKey, type KeyObject } from 'node:crypto';
import { sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import type { EntityManager } from '../services/database.ts';
import { type Keyring, SealError } from '../services/keyring.ts';
import { generateKeyPair, generateSecret, InvalidSecretError, parseSecret, type SigningKey } from './signature.ts';

/*
 * The secrets of endpoints, sealed under the key ring and bound to their endpoint. A secret is current (`expires_at` is
 * null), old (still signs until `expires_at`) or expired (signs no more; the next rotation deletes it). Only
 * `rotateSecrets` moves one on.
 */

/** The schemes that sign for an endpoint. */
export const SIGNATURES = ['v1', 'v1a', 'v1,v1a'] as const;
export type SignatureSetting = (typeof SIGNATURES)[number];
export type Scheme = SigningKey['scheme'];

/** How long an old secret goes on signing unless the caller says otherwise, and at most, in seconds. */
export const DEFAULT_OVERLAP_S = 86_400;
export const MAX_OVERLAP_S = 7 * 86_400;
/** Old secrets of one scheme that are kept: each adds a signature to every request. */
const MAX_OLD = 10;

/** What the subscriber is shown, once: `whsec_…` of v1, `whpk_…` of v1a. A private key is never shown. */
export interface ShownSecrets {
  secret?: string;
  publicKey?: string;
}

/** A secret that is ready to sign with. */
export interface OpenedSecret {
  id: string;
  signing: SigningKey;
  /** For `X-Webhook-Signature`, v1 only: the shown text itself as the key. See `hexSignature`. */
  hex: KeyObject | undefined;
}

export const schemesOf = (signature: SignatureSetting): Scheme[] => signature.split(',') as Scheme[];

/** Makes and stores a current secret for each scheme, without touching those that are there. */
export async function createSecrets(
  em: EntityManager,
  keyring: Keyring,
  endpointId: string,
  signature: SignatureSetting,
): Promise<ShownSecrets> {
  const shown: ShownSecrets = {};
  for (const scheme of schemesOf(signature)) {
    const made = scheme === 'v1' ? { secret: generateSecret(), publicKey: null } : generateKeyPair();
    const sealed = keyring.encrypt('webhook-secret', Buffer.from(made.secret), endpointId);
    await sql`
      insert into webhook_secrets (id, endpoint_id, scheme, sealed, public_key, created_at)
      values (${newId()}, ${endpointId}, ${scheme}, ${sealed}, ${made.publicKey}, clock_timestamp())`.execute(
      em.getKysely(),
    );
    if (made.publicKey === null) shown.secret = made.secret;
    else shown.publicKey = made.publicKey;
  }
  return shown;
}

/** Makes what an endpoint has no current secret of yet: after its `signature` came to name another scheme. */
export async function completeSecrets(
  em: EntityManager,
  keyring: Keyring,
  endpointId: string,
  signature: SignatureSetting,
): Promise<ShownSecrets> {
  const { rows } = await sql<{ scheme: Scheme }>`
    select scheme from webhook_secrets where endpoint_id = ${endpointId} and expires_at is null`.execute(
    em.getKysely(),
  );
  const missing = schemesOf(signature).filter((scheme) => !rows.some((row) => row.scheme === scheme));
  const shown: ShownSecrets = {};
  for (const scheme of missing) Object.assign(shown, await createSecrets(em, keyring, endpointId, scheme));
  return shown;
}

/**
 * Replaces the current secrets: new ones for each scheme of `signature`, and every old one goes on signing for
 * `overlapSeconds` at most (0: they stop at once). The caller holds the endpoint's row lock.
 */
export async function rotateSecrets(
  em: EntityManager,
  keyring: Keyring,
  endpointId: string,
  signature: SignatureSetting,
  overlapSeconds: number = DEFAULT_OVERLAP_S,
): Promise<ShownSecrets> {
  const db = em.getKysely();
  // `least` ignores null, so a current secret gets the new time and an old one is never made to live longer.
  await sql`
    update webhook_secrets
    set expires_at = least(expires_at, clock_timestamp() + make_interval(secs => ${overlapSeconds}))
    where endpoint_id = ${endpointId}`.execute(db);
  await sql`
    delete from webhook_secrets where id in (
      select id from (
        select id, expires_at, row_number() over (partition by scheme order by created_at desc, id desc) as age
        from webhook_secrets where endpoint_id = ${endpointId}
      ) old where age > ${MAX_OLD} or expires_at <= clock_timestamp())`.execute(db);
  return createSecrets(em, keyring, endpointId, signature);
}

/** The secrets that sign for some endpoints at this moment. */
export interface LoadedSecrets {
  /** By endpoint, newest first. */
  byEndpoint: Map<string, OpenedSecret[]>;
  /** When the first of them expires, as PostgreSQL's text. */
  nextExpiry: string | null;
}

interface SecretRow {
  id: string;
  endpoint_id: string;
  sealed: Buffer;
  expires_at: string | null;
}

/**
 * Loads what signs. `known` (by secret id) spares opening again what is open: a secret never changes. A secret that
 * cannot be opened is left out and told of, so that one damaged row stops one endpoint and not all of them.
 */
export async function loadSecrets(
  em: EntityManager,
  keyring: Keyring,
  endpointIds: readonly string[],
  known: ReadonlyMap<string, OpenedSecret>,
  onUnreadable: (endpointId: string, error: Error) => void,
): Promise<LoadedSecrets> {
  const { rows } = await sql<SecretRow>`
    select id, endpoint_id, sealed, expires_at from webhook_secrets
    where endpoint_id = any(${endpointIds}::uuid[]) and (expires_at is null or expires_at > now())
    order by endpoint_id, expires_at is null desc, created_at desc, id desc`.execute(em.getKysely());
  const byEndpoint = new Map<string, OpenedSecret[]>();
  let next: { text: string; at: number } | null = null;
  for (const row of rows) {
    const opened = known.get(row.id) ?? open(keyring, row, onUnreadable);
    if (opened === undefined) continue;
    const list = byEndpoint.get(row.endpoint_id);
    if (list) list.push(opened);
    else byEndpoint.set(row.endpoint_id, [opened]);
    if (row.expires_at !== null) {
      const at = Date.parse(row.expires_at);
      if (next === null || at < next.at) next = { text: row.expires_at, at };
    }
  }
  return { byEndpoint, nextExpiry: next?.text ?? null };
}

function open(
  keyring: Keyring,
  row: SecretRow,
  onUnreadable: (endpointId: string, error: Error) => void,
): OpenedSecret | undefined {
  try {
    const text = keyring.decrypt('webhook-secret', row.sealed, row.endpoint_id);
    const signing = parseSecret(text.toString());
    return { id: row.id, signing, hex: signing.scheme === 'v1' ? createSecretKey(text) : undefined };
  } catch (error) {
    if (!(error instanceof SealError || error instanceof InvalidSecretError)) throw error;
    onUnreadable(row.endpoint_id, error);
    return undefined;
  }
}
