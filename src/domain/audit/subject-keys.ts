import { createSecretKey, type KeyObject, randomBytes } from 'node:crypto';
import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { type AuditKeys, unwrap, wrap } from './sealing.ts';

/**
 * The states of a subject's key: absent → held (wrapped under SECRETS_KEY) → destroyed. Destroyed is final: the row
 * stays, so that no later record makes the person readable again.
 */
export type SubjectKey = KeyObject | 'destroyed' | 'unreadable';

interface KeyRow {
  subject: string;
  wrapped: Buffer | null;
}

const aadOf = (subject: string) => `audit subject ${subject}`;

function opened(row: KeyRow, keys: AuditKeys): SubjectKey {
  if (!row.wrapped) return 'destroyed';
  try {
    return createSecretKey(unwrap(keys, row.wrapped, aadOf(row.subject)));
  } catch {
    return 'unreadable';
  }
}

/** The keys of these subjects as they are now. Never cached: a destroyed key must be gone at once, in every process. */
export async function subjectKeys(
  em: EntityManager,
  subjects: Iterable<string>,
  keys: AuditKeys,
): Promise<Map<string, SubjectKey>> {
  const wanted = [...new Set(subjects)];
  if (wanted.length === 0) return new Map();
  const { rows } = await sql<KeyRow>`
    select subject::text, wrapped from audit_subject_keys where subject = any(${wanted}::uuid[])`.execute(
    em.getKysely(),
  );
  return new Map(rows.map((row) => [row.subject, opened(row, keys)]));
}

/** `subjectKeys`, creating those that are absent. */
export async function subjectKeysOrNew(
  em: EntityManager,
  subjects: Iterable<string>,
  keys: AuditKeys,
): Promise<Map<string, SubjectKey>> {
  const found = await subjectKeys(em, subjects, keys);
  // In order, so that two batches which meet on several new subjects wait for each other and do not deadlock.
  const missing = [...new Set(subjects)].filter((subject) => !found.has(subject)).sort();
  if (missing.length === 0) return found;
  const fresh = randomBytes(32 * missing.length);
  const wrapped = missing.map((subject, i) => wrap(keys, fresh.subarray(32 * i, 32 * (i + 1)), aadOf(subject)));
  await sql`
    insert into audit_subject_keys (subject, wrapped, kid, created_at)
    select subject, wrapped, ${keys.current().kid}, now()
    from unnest(${missing}::uuid[], ${wrapped}::bytea[]) as made(subject, wrapped)
    on conflict (subject) do nothing`.execute(em.getKysely());
  for (const [subject, key] of await subjectKeys(em, missing, keys)) found.set(subject, key);
  return found;
}

/**
 * Destroys a subject's key: every personal field recorded about them, past and future, reads as erased, while the
 * log still verifies. Returns whether there was a key. Older copies live on in backups and WAL as long as those do.
 */
export async function eraseSubject(em: EntityManager, subject: string): Promise<boolean> {
  // First the insert: it waits for an append that is about to create this key, and the update then finds it.
  await sql`
    insert into audit_subject_keys (subject, created_at, destroyed_at) values (${subject}::uuid, now(), now())
    on conflict (subject) do nothing`.execute(em.getKysely());
  const { rows } = await sql`
    update audit_subject_keys set wrapped = null, kid = null, destroyed_at = now()
    where subject = ${subject}::uuid and wrapped is not null returning subject`.execute(em.getKysely());
  return rows.length > 0;
}

/**
 * Wraps up to `limit` subject keys anew that an older SECRETS_KEY wrapped; returns how many. To be called until it
 * returns 0 before that older key is taken away: what it alone can open would be lost.
 */
export async function rewrapSubjectKeys(em: EntityManager, keys: AuditKeys, limit = 500): Promise<number> {
  const { kid } = keys.current();
  const work = async (tx: EntityManager): Promise<number> => {
    const { rows } = await sql<KeyRow>`
      select subject::text, wrapped from audit_subject_keys
      where kid <> ${kid} and kid is not null order by subject limit ${limit} for update`.execute(tx.getKysely());
    if (rows.length === 0) return 0;
    const fresh = rows.map((row) =>
      wrap(keys, unwrap(keys, row.wrapped ?? Buffer.alloc(0), aadOf(row.subject)), aadOf(row.subject)),
    );
    await sql`
      update audit_subject_keys k set wrapped = fresh.wrapped, kid = ${kid}
      from unnest(${rows.map((row) => row.subject)}::uuid[], ${fresh}::bytea[]) as fresh(subject, wrapped)
      where k.subject = fresh.subject`.execute(tx.getKysely());
    return rows.length;
  };
  return em.isInTransaction() ? work(em) : em.transactional(work);
}
