import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { z } from 'zod';
import { command } from '../messages/contracts.ts';
import type { Anchor } from './anchor.ts';
import { type AuditKeys, AuditSealError, unwrap, wrap } from './sealing.ts';
import { type Position, type Verification, verifySlice } from './verify.ts';

/** A log of more rows than this is verified by a worker. */
export const LARGE_LOG = 100_000;

/**
 * The work of one message: RabbitMQ takes back what is not acknowledged within 30 minutes, a stopping process what is
 * not finished within `DRAIN_TIMEOUT_MS`, and a killed one loses no more than this.
 */
const SLICE_MS = 10_000;

/** `anchor`: the newest checkpoint that was known outside the database when it was asked for. */
export const verifyAuditCommand = command(
  'audit.verify',
  z.strictObject({
    anchor: z.strictObject({ n: z.int().positive(), hash: z.string().regex(/^[0-9a-f]{64}$/) }).nullable(),
  }),
);

/**
 * Whether the log has more than `limit` rows, by what its checkpoints say. A checkpoint has one row at least, so no more
 * than `limit` + 1 of them are read, however long the log is.
 */
export async function isLargeLog(em: EntityManager, limit = LARGE_LOG): Promise<boolean> {
  const { rows } = await sql<{ large: boolean }>`
    select coalesce(sum(size), 0) > ${limit} as large
    from (select size from audit_checkpoints order by n limit ${limit + 1}) c`.execute(em.getKysely());
  return rows[0]?.large ?? false;
}

/** The caller's verification that is not finished yet, so that asking again does not begin another. `withinMs`: how old it may be at most. */
export async function underWay(em: EntityManager, caller: string, withinMs: number): Promise<string | undefined> {
  const { rows } = await sql<{ operation_id: string }>`
    select v.operation_id from audit_verifications v
    where v.caller = ${caller} and v.updated_at > now() - ${withinMs} * interval '1 ms'
      and not exists (select from operations o where o.id = v.operation_id and o.status <> 'running')
    order by v.operation_id limit 1`.execute(em.getKysely());
  return rows[0]?.operation_id;
}

/** Notes a verification that was asked for, unless its worker was faster. */
export async function noteVerification(em: EntityManager, operationId: string, caller: string): Promise<void> {
  await sql`
    insert into audit_verifications (operation_id, caller)
    select ${operationId}, ${caller} where not exists (
      select from operations where id = ${operationId} and status <> 'running')
    on conflict do nothing`.execute(em.getKysely());
}

/** What a slice came to: the verdict, or how far the log was found whole. */
export type Progress = { verdict: Verification } | { upTo: number; of: number };

export interface Verifier {
  /**
   * Goes on with an operation's verification for one slice and keeps how far it came. Appends, and other verifications,
   * may go on meanwhile; two of these for one operation do no harm but work twice.
   */
  advance(em: EntityManager, job: { operationId: string; caller: string; anchor: Anchor | null }): Promise<Progress>;
  /** Forgets how far it came: to be called in the transaction that records the verdict. */
  forget(em: EntityManager, operationId: string): Promise<void>;
}

/**
 * Verifies in slices. Between two of them the position lies in the database that is being doubted, so it is sealed under
 * the log's key and bound to its operation: nobody else can say that a part was looked at.
 */
export function createVerifier(options: { keys: AuditKeys; sliceMs?: number }): Verifier {
  const { keys, sliceMs = SLICE_MS } = options;

  async function readPosition(em: EntityManager, operationId: string): Promise<Position | undefined> {
    const { rows } = await sql<{ sealed_position: Buffer | null }>`
      select sealed_position from audit_verifications where operation_id = ${operationId}`.execute(em.getKysely());
    const sealed = rows[0]?.sealed_position;
    if (!sealed) return undefined;
    try {
      return JSON.parse(unwrap(keys, sealed, aadOf(operationId)).toString()) as Position;
    } catch (error) {
      // Changed by somebody, or sealed under a key that is gone: nothing is known, so it begins again.
      if (error instanceof AuditSealError) return undefined;
      throw error;
    }
  }

  return {
    async advance(em, { operationId, caller, anchor }) {
      const position = await readPosition(em, operationId);
      const end = performance.now() + sliceMs;
      const slice = await verifySlice(em, {
        keys,
        position,
        enough: () => performance.now() >= end,
        ...(anchor ? { anchor } : {}),
      });
      if ('verdict' in slice) return slice;
      const sealed = wrap(keys, Buffer.from(JSON.stringify(slice.position)), aadOf(operationId));
      await sql`
        insert into audit_verifications (operation_id, caller, sealed_position)
        values (${operationId}, ${caller}, ${sealed})
        on conflict (operation_id) do update set
          sealed_position = excluded.sealed_position, updated_at = clock_timestamp()`.execute(em.getKysely());
      return { upTo: slice.position.n, of: slice.position.head };
    },
    async forget(em, operationId) {
      await sql`delete from audit_verifications where operation_id = ${operationId}`.execute(em.getKysely());
    },
  };
}

const aadOf = (operationId: string): string => `verification ${operationId}`;
