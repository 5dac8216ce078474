import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { currentTime } from '../../services/clock.ts';
import { type Checkpoint, checkpointHash, GENESIS } from './checkpoint.ts';
import { merkleRoot } from './merkle.ts';
import { type AuditRecord, subjectOf } from './record.ts';
import { canonical, leafOf, rfc3339, rowOf, type StoredRow } from './row.ts';
import { type AuditKeys, AuditSealError } from './sealing.ts';
import { type Signer, SigningKeys } from './signing-keys.ts';
import { subjectKeysOrNew } from './subject-keys.ts';

/** Who appends holds this transaction-level advisory lock from the last checkpoint to the commit of the next. */
export const AUDIT_LOCK = 7_120_006;
/** Most rows of one checkpoint. */
export const CHECKPOINT_SIZE = 500;

export interface Placement {
  id: string;
  checkpoint: number;
  leaf_index: number;
}

export interface Appended {
  recorded: Placement[];
  /** Ids that were recorded before, or came twice in this call. */
  duplicates: string[];
  checkpoints: Checkpoint[];
}

export interface Sealer {
  /**
   * Adds records to the log: rows and signed checkpoints of up to 500 each, in one transaction, the one of `em` if
   * it has one. To be called once per transaction, and late in it: everybody else's append waits for its commit.
   */
  append(em: EntityManager, records: readonly AuditRecord[]): Promise<Appended>;
}

interface Prepared {
  row: StoredRow;
  leaf: Buffer;
}

/** Encryption and leaf hashes: all that can be done before the lock. Throws AuditSealError when a subject's key cannot be opened. */
async function prepare(em: EntityManager, records: readonly AuditRecord[], keys: AuditKeys): Promise<Prepared[]> {
  const subjects = records.map(subjectOf);
  const found = await subjectKeysOrNew(
    em,
    subjects.filter((subject) => subject !== null),
    keys,
  );
  return records.map((record, i) => {
    const subject = subjects[i] ?? null;
    const subjectKey = subject === null ? undefined : found.get(subject);
    // Recording the row without its personal fields would lose them for good.
    if (subject !== null && (subjectKey === undefined || subjectKey === 'unreadable')) {
      throw new AuditSealError(`the key of subject ${subject} cannot be opened`);
    }
    const row = rowOf(record, subject, subjectKey, keys);
    return { row, leaf: leafOf(row) };
  });
}

interface Head {
  now: string;
  n: string | null;
  hash: Buffer | null;
  kid: string | null;
  public_key: string | null;
  sealed_private: Buffer | null;
  partitioned: boolean;
}

/** Last checkpoint, newest signing key, and a time no earlier than the last checkpoint's. */
async function readHead(em: EntityManager, clock: string | null): Promise<Head> {
  const { rows } = await sql<Head>`
    select ${rfc3339('t.now')} as now, t.n::text, t.hash, k.kid, k.public_key, k.sealed_private,
      to_regclass(to_char(t.now at time zone 'UTC', '"audit_events_"YYYY_MM')) is not null
        and to_regclass(to_char(t.now at time zone 'UTC' + interval '1 month', '"audit_events_"YYYY_MM')) is not null
        as partitioned
    from (
      select c.n, c.hash, greatest(coalesce(${clock}::timestamptz, clock_timestamp()), c.created_at)::timestamptz(3) as now
      from (values (1)) as one(one) left join lateral (
        select n, hash, created_at from audit_checkpoints order by n desc limit 1) c on true
    ) t left join lateral (
      select kid, public_key, sealed_private from audit_keys order by created_at desc, kid limit 1) k on true
  `.execute(em.getKysely());
  return rows[0] as Head;
}

const CLOCK_SKEW_MS = 24 * 60 * 60 * 1000;

/**
 * Which of these are in the log. A row is not recorded before it occurred, give or take clocks a day apart: so only
 * the newest partitions are asked, however many months are kept.
 */
async function alreadyRecorded(em: EntityManager, prepared: readonly Prepared[]): Promise<Set<string>> {
  const ids = prepared.map(({ row }) => row.id);
  const oldest = Math.min(...prepared.map(({ row }) => Date.parse(row.occurred_at)));
  const since = new Date(Math.min(oldest, currentTime()) - CLOCK_SKEW_MS).toISOString();
  const { rows } = await sql<{ id: string }>`
    select id::text from audit_events
    where id = any(${ids}::uuid[]) and recorded_at >= ${since}::timestamptz`.execute(em.getKysely());
  return new Set(rows.map((row) => row.id));
}

async function insertRows(em: EntityManager, checkpoint: Checkpoint, batch: readonly Prepared[]): Promise<void> {
  const column = <T>(pick: (row: StoredRow) => T) => batch.map(({ row }) => pick(row));
  await sql`
    insert into audit_events (checkpoint, recorded_at, leaf_index, id, occurred_at, action, actor_type, actor_id,
      targets, subject, tenant, request_id, operation_id, metadata, personal, outcome, leaf)
    select ${checkpoint.n}::bigint, ${checkpoint.created_at}::timestamptz, r.*
    from unnest(
      ${batch.map((_, index) => index)}::int[],
      ${column((row) => row.id)}::uuid[],
      ${column((row) => row.occurred_at)}::timestamptz[],
      ${column((row) => row.action)}::text[],
      ${column((row) => row.actor_type)}::text[],
      ${column((row) => row.actor_id)}::text[],
      ${column((row) => JSON.stringify(row.targets))}::jsonb[],
      ${column((row) => row.subject)}::uuid[],
      ${column((row) => row.tenant)}::text[],
      ${column((row) => row.request_id)}::text[],
      ${column((row) => row.operation_id)}::text[],
      ${column((row) => canonical(row.metadata))}::json[],
      ${column((row) => JSON.stringify(row.personal))}::jsonb[],
      ${column((row) => row.outcome)}::text[],
      ${batch.map(({ leaf }) => leaf)}::bytea[]
    ) as r`.execute(em.getKysely());
}

async function insertCheckpoint(em: EntityManager, checkpoint: Checkpoint): Promise<void> {
  const bytes = (hex: string) => Buffer.from(hex, 'hex');
  await sql`
    insert into audit_checkpoints (n, size, root, previous_hash, hash, kid, signature, created_at)
    values (${checkpoint.n}, ${checkpoint.size}, ${bytes(checkpoint.root)}, ${bytes(checkpoint.previous_hash)},
      ${bytes(checkpoint.hash)}, ${checkpoint.kid}, ${Buffer.from(checkpoint.signature, 'base64')},
      ${checkpoint.created_at})`.execute(em.getKysely());
}

function sealBatch(
  last: { n: number; hash: string },
  batch: readonly Prepared[],
  now: string,
  signer: Signer,
): Checkpoint {
  const body = {
    n: last.n + 1,
    size: batch.length,
    root: merkleRoot(batch.map(({ leaf }) => leaf)).toString('hex'),
    previous_hash: last.hash,
    kid: signer.kid,
    created_at: now,
  };
  const hash = checkpointHash(body);
  return { ...body, hash, signature: signer.sign(Buffer.from(hash, 'hex')).toString('base64') };
}

/** First of each id wins; the rest and those recorded before are duplicates. */
function sift(prepared: readonly Prepared[], before: ReadonlySet<string>): { fresh: Prepared[]; duplicates: string[] } {
  const seen = new Set(before);
  const fresh: Prepared[] = [];
  const duplicates: string[] = [];
  for (const item of prepared) {
    if (seen.has(item.row.id)) duplicates.push(item.row.id);
    else fresh.push(item);
    seen.add(item.row.id);
  }
  return { fresh, duplicates };
}

export interface SealerOptions {
  keys: AuditKeys;
  /** Takes the place of the database's clock for `recorded_at`. */
  clock?: () => Date;
}

/** How long a month's partition that could not be made is left alone. */
const PARTITION_RETRY_MS = 60_000;

/** A sealer holds opened signing keys and nothing else of weight; one per process is enough. */
export function createSealer({ keys, clock }: SealerOptions): Sealer {
  const signingKeys = new SigningKeys(keys);
  let partitionsAgainAt = 0;

  async function ensurePartitions(em: EntityManager, now: string): Promise<void> {
    const { rows } = await sql<{ made: boolean }>`
      select audit_ensure_partition(${now}::timestamptz)
        and audit_ensure_partition(${now}::timestamptz + interval '1 month') as made`.execute(em.getKysely());
    if (!rows[0]?.made) partitionsAgainAt = Date.now() + PARTITION_RETRY_MS;
  }

  async function appendLocked(em: EntityManager, prepared: readonly Prepared[]): Promise<Appended> {
    await sql`select pg_advisory_xact_lock(${AUDIT_LOCK})`.execute(em.getKysely());
    const before = await alreadyRecorded(em, prepared);
    const { fresh, duplicates } = sift(prepared, before);
    const appended: Appended = { recorded: [], duplicates, checkpoints: [] };
    if (fresh.length === 0) return appended;

    const head = await readHead(em, clock?.().toISOString() ?? null);
    if (!head.partitioned && Date.now() >= partitionsAgainAt) await ensurePartitions(em, head.now);
    const { kid, public_key, sealed_private } = head;
    const signer = await signingKeys.current(
      em,
      kid && public_key && sealed_private ? { kid, public_key, sealed_private } : undefined,
    );
    let last = { n: Number(head.n ?? 0), hash: head.hash?.toString('hex') ?? GENESIS };
    for (let start = 0; start < fresh.length; start += CHECKPOINT_SIZE) {
      const batch = fresh.slice(start, start + CHECKPOINT_SIZE);
      // Rows stand in the order of their ids: so a row that was moved gives itself away.
      batch.sort((a, b) => (a.row.id < b.row.id ? -1 : 1));
      const checkpoint = sealBatch(last, batch, head.now, signer);
      await insertRows(em, checkpoint, batch);
      await insertCheckpoint(em, checkpoint);
      appended.checkpoints.push(checkpoint);
      for (const [leaf_index, { row }] of batch.entries()) {
        appended.recorded.push({ id: row.id, checkpoint: checkpoint.n, leaf_index });
      }
      last = checkpoint;
    }
    return appended;
  }

  return {
    async append(em, records) {
      if (records.length === 0) return { recorded: [], duplicates: [], checkpoints: [] };
      const prepared = await prepare(em, records, keys);
      return em.isInTransaction() ? appendLocked(em, prepared) : em.transactional((tx) => appendLocked(tx, prepared));
    },
  };
}
