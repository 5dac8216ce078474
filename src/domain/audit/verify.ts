import type { KeyObject } from 'node:crypto';
import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import {
  type Checkpoint,
  checkpointColumns,
  checkpointHash,
  GENESIS,
  parseCheckpoint,
  type RawCheckpoint,
  signatureHolds,
} from './checkpoint.ts';
import { type Broken, brokenRow } from './row-check.ts';
import { RowReader } from './row-reader.ts';
import type { AuditKeys } from './sealing.ts';
import { isOurs, publicKeyOf, signingKeys } from './signing-keys.ts';

/** `rows` and `checkpoints` count what was checked and found whole, up to the first that was not. */
export interface Verification {
  intact: boolean;
  rows: number;
  checkpoints: number;
  first_broken?: Broken;
}

export interface VerifyOptions {
  /** First checkpoint whose rows are read; of those before it, only chain and signatures. For a log whose old months were dropped. */
  from?: number;
  /** A checkpoint known from outside the database (hash in hex): the log must hold it, so a cut tail shows. */
  anchor?: { n: number; hash: string };
  /** With these, each signing key must also be one that a holder of SECRETS_KEY made; without, `audit_keys` is trusted. */
  keys?: AuditKeys;
  onProgress?: (progress: { rows: number; checkpoints: number; of: number }) => void;
}

/** How far a verification has come: the log is whole up to and with checkpoint `n`, and is read up to `head`. */
export interface Position {
  head: number;
  n: number;
  hash: string;
  rows: number;
  checkpoints: number;
}

export interface SliceOptions extends VerifyOptions {
  /** Where the slice before ended; the start of the log when absent. */
  position?: Position | undefined;
  /** Asked after each checkpoint: whether to stop there. */
  enough: () => boolean;
}

/** A slice ends with the verdict on the whole log, or with where the next one begins. */
export type Slice = { verdict: Verification } | { position: Position };

const CHECKPOINTS_PER_PAGE = 200;

async function lastCheckpoint(em: EntityManager): Promise<number> {
  const { rows } = await sql<{ n: string | null }>`select max(n)::text as n from audit_checkpoints`.execute(
    em.getKysely(),
  );
  return Number(rows[0]?.n ?? 0);
}

async function* checkpointPages(em: EntityManager, after: number, head: number): AsyncGenerator<Checkpoint[]> {
  for (;;) {
    const { rows }: { rows: RawCheckpoint[] } = await sql<RawCheckpoint>`
      select ${checkpointColumns} from audit_checkpoints c
      where c.n <= ${head} and (${after} = 0 or c.n > ${after})
      order by c.n limit ${CHECKPOINTS_PER_PAGE}`.execute(em.getKysely());
    if (rows.length > 0) yield rows.map(parseCheckpoint);
    if (rows.length < CHECKPOINTS_PER_PAGE) return;
    after = Number(rows.at(-1)?.n);
  }
}

/** The keys that may sign, and why each of the others may not. */
async function trustedKeys(em: EntityManager, keys: AuditKeys | undefined): Promise<Map<string, KeyObject | string>> {
  const found = new Map<string, KeyObject | string>();
  for (const row of await signingKeys(em)) {
    const publicKey = publicKeyOf(row.public_key);
    if (!publicKey) found.set(row.kid, 'is no Ed25519 key');
    else if (keys && !isOurs(row, keys)) found.set(row.kid, 'was not made under the SECRETS_KEY in use');
    else found.set(row.kid, publicKey);
  }
  return found;
}

/** What is wrong with a checkpoint itself, its rows aside. */
async function brokenCheckpoint(
  checkpoint: Checkpoint,
  previous: { n: number; hash: string },
  keys: Map<string, KeyObject | string>,
): Promise<Broken | undefined> {
  const { n } = checkpoint;
  const broken = (why: string, at = n): Broken => ({ id: null, checkpoint: at, why });
  if (n > previous.n + 1) return broken(`checkpoint ${previous.n + 1} was removed`, previous.n + 1);
  if (n < previous.n + 1) return broken(`checkpoint ${n} was inserted: the log starts at 1`);
  if (checkpointHash(checkpoint) !== checkpoint.hash)
    return broken(`checkpoint ${n} was changed: its hash is not that of its content`);
  if (checkpoint.previous_hash !== previous.hash)
    return broken(`checkpoint ${n} does not follow checkpoint ${previous.n}: one of the two was replaced`);
  const key = keys.get(checkpoint.kid);
  if (key === undefined) return broken(`checkpoint ${n} is signed with the unknown key ${checkpoint.kid}`);
  if (typeof key === 'string') return broken(`checkpoint ${n} is forged: its signing key ${checkpoint.kid} ${key}`);
  if (!(await signatureHolds(checkpoint, key))) return broken(`checkpoint ${n} is forged: its signature does not hold`);
  return undefined;
}

/** A row that claims a checkpoint which is not there, beyond those that were read. One statement, so appends do not disturb it. */
async function strayRow(em: EntityManager, head: number): Promise<Broken | undefined> {
  const { rows } = await sql<{ id: string; checkpoint: string }>`
    select e.id::text, e.checkpoint::text from audit_events e
    where (e.checkpoint > ${head} or e.checkpoint < 1)
      and not exists (select from audit_checkpoints c where c.n = e.checkpoint)
    order by e.checkpoint, e.leaf_index limit 1`.execute(em.getKysely());
  const row = rows[0];
  if (!row) return undefined;
  const why = `the row belongs to checkpoint ${row.checkpoint}, which is not there: the checkpoint was removed or the row inserted`;
  return { id: row.id, checkpoint: Number(row.checkpoint), why };
}

/**
 * Checks the whole log, in pages, as far as it reaches when called: content of each row → leaf → Merkle root → chain
 * of checkpoints → signatures. Stops at the first break and says what it is. Appends may go on meanwhile.
 *
 * From inside the database it cannot be seen that the newest checkpoints were removed together with all their rows:
 * what is left is a shorter log that is whole. An `anchor` kept elsewhere, from the log stream for one, shows it.
 */
export async function verify(em: EntityManager, options: VerifyOptions = {}): Promise<Verification> {
  const slice = await verifySlice(em, { ...options, enough: () => false });
  if ('verdict' in slice) return slice.verdict;
  throw new Error('a verification without an end to its time stopped');
}

/** `verify` in parts: what was found whole in the slice before is taken for whole, and the log ends where it ended then. */
export async function verifySlice(em: EntityManager, options: SliceOptions): Promise<Slice> {
  const { anchor, from = 1, position } = options;
  const head = position?.head ?? (await lastCheckpoint(em));
  const keys = await trustedKeys(em, options.keys);
  const seen = { rows: position?.rows ?? 0, checkpoints: position?.checkpoints ?? 0 };
  const fail = (first_broken: Broken): Slice => ({ verdict: { intact: false, ...seen, first_broken } });

  let previous = { n: position?.n ?? 0, hash: position?.hash ?? GENESIS };
  const reader = new RowReader(em, { from: Math.max(from, previous.n + 1), upTo: head });
  for await (const page of checkpointPages(em, previous.n, head)) {
    const found = await Promise.all(
      page.map((checkpoint, i) => brokenCheckpoint(checkpoint, page[i - 1] ?? previous, keys)),
    );
    for (const [i, checkpoint] of page.entries()) {
      const stray = await reader.before(checkpoint.n);
      const missing = checkpoint.n > previous.n + 1;
      if (stray && !missing) {
        return fail({
          id: stray.id,
          checkpoint: stray.checkpoint,
          why: 'the row was inserted: its checkpoint does not exist',
        });
      }
      const broken = found[i];
      if (broken) return fail(stray ? { ...broken, id: stray.id } : broken);
      if (anchor?.n === checkpoint.n && anchor.hash !== checkpoint.hash) {
        return fail({
          id: null,
          checkpoint: checkpoint.n,
          why: 'the checkpoint is not the one that the anchor names: the log was rewritten',
        });
      }
      if (checkpoint.n >= from) {
        const rows = await reader.of(checkpoint.n, checkpoint.size + 2);
        const bad = brokenRow(checkpoint, rows);
        if (bad) return fail(bad);
        seen.rows += checkpoint.size;
      }
      seen.checkpoints += 1;
      previous = checkpoint;
      if (checkpoint.n < head && options.enough()) {
        return { position: { head, n: checkpoint.n, hash: checkpoint.hash, ...seen } };
      }
    }
    options.onProgress?.({ ...seen, of: head });
  }
  const stray = await strayRow(em, head);
  if (stray) return fail(stray);
  if (anchor && anchor.n > head) {
    return fail({
      id: null,
      checkpoint: head + 1,
      why: `the log ends at checkpoint ${head}, but the anchor names ${anchor.n}: its end was cut off`,
    });
  }
  return { verdict: { intact: true, ...seen } };
}
