import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import { isUuid } from '../ids.ts';
import type { Unit } from '../messages/emit.ts';
import { type Problem, refuse } from '../problem.ts';
import { DEAD_LETTER_COLUMNS, type DeadLetterRecord, type DeadLetterRow, deadLetterRecord } from './list.ts';

/** A dead letter with the message as it was, locked by this transaction. */
export interface LockedLetter {
  id: string;
  queue: string;
  message_type: string | null;
  message_id: string | null;
  status: 'dead' | 'replayed' | 'discarded';
  body: Buffer;
  headers: Record<string, unknown>;
}

/** Locks letters until the end of the transaction, always in the same order, so that two who lock never deadlock. */
export async function lockDeadLetters(em: EntityManager, ids: string[]): Promise<LockedLetter[]> {
  const { rows } = await sql<LockedLetter>`
    select id, queue, message_type, message_id, status, body, headers from dead_letters
    where id = any(${ids}::uuid[]) order by id for update`.execute(em.getKysely());
  return rows;
}

/** Only what waits for a decision can get one. Refuses with CONFLICT. */
export function mustBeDead({ status }: Pick<LockedLetter, 'status'>): void {
  if (status !== 'dead') refuse('CONFLICT', `the dead letter was ${status} already`);
}

/** Marks locked letters and tells the audit log of each. */
export async function resolveDeadLetters(
  unit: Unit,
  letters: Pick<LockedLetter, 'id' | 'queue' | 'message_id'>[],
  status: 'replayed' | 'discarded',
  reason?: string,
): Promise<DeadLetterRecord[]> {
  if (letters.length === 0) return [];
  const { rows } = await sql<DeadLetterRow>`
    update dead_letters set status = ${status}, resolved_at = now()
    where id = any(${letters.map(({ id }) => id)}::uuid[]) returning ${DEAD_LETTER_COLUMNS}`.execute(
    unit.em.getKysely(),
  );
  for (const { id, queue, message_id } of letters) {
    unit.emit.audit({
      action: `dead_letter.${status}`,
      targets: [{ type: 'dead_letter', id }],
      metadata: {
        queue,
        ...(message_id === null ? {} : { message_id }),
        ...(reason === undefined ? {} : { reason }),
      },
    });
  }
  return rows.map(deadLetterRecord);
}

/**
 * Decides that letters are not handled any more; those that were resolved meanwhile are left out. An operation that a
 * replay had opened again before its process died has failed after all.
 */
export async function discardDeadLetters(unit: Unit, ids: string[], reason?: string): Promise<DeadLetterRecord[]> {
  const letters = (await lockDeadLetters(unit.em, ids)).filter(({ status }) => status === 'dead');
  await closeOperations(unit.em, letters);
  return resolveDeadLetters(unit, letters, 'discarded', reason);
}

/** The same for one. Refuses with NOT_FOUND, and with CONFLICT when it was resolved. */
export async function discardDeadLetter(unit: Unit, id: string, reason?: string): Promise<DeadLetterRecord> {
  const [letter] = await lockDeadLetters(unit.em, [id]);
  if (!letter) return refuse('NOT_FOUND', 'there is no such dead letter');
  mustBeDead(letter);
  const [record] = await discardDeadLetters(unit, [id], reason);
  if (!record) throw new Error('a locked row is gone');
  return record;
}

/**
 * Opens the operation of a dead command again, so that its worker does the work instead of answering with the failure.
 * Only one that failed by dying (INTERNAL_ERROR): what a worker has refused, or finished meanwhile, stays as it is.
 * Returns the failure for `closeOperation`, `undefined` when there was nothing to open.
 */
export async function reopenOperation(em: EntityManager, id: string, type: string): Promise<Problem | undefined> {
  const { rows } = await sql<{ error: Problem }>`
    update operations o set status = 'running', error = null, finished_at = null
    from (select id, error from operations where id = ${id} and type = ${type} for update) as before
    where o.id = before.id and o.status = 'failed' and before.error ->> 'code' = 'INTERNAL_ERROR'
    returning before.error`.execute(em.getKysely());
  return rows[0]?.error;
}

/** Takes `reopenOperation` back, when its message could not be published. */
export async function closeOperation(em: EntityManager, id: string, error: Problem): Promise<void> {
  await sql`
    update operations set status = 'failed', error = ${JSON.stringify(error)}::jsonb, finished_at = clock_timestamp()
    where id = ${id} and status = 'running'`.execute(em.getKysely());
}

/** Not where another letter of the same message was replayed: that one is being worked on. */
async function closeOperations(em: EntityManager, letters: LockedLetter[]): Promise<void> {
  const ids = letters.map(({ message_id }) => message_id ?? '').filter(isUuid);
  if (ids.length === 0) return;
  const error: Problem = {
    code: 'INTERNAL_ERROR',
    message: 'The request could not be handled and was discarded from the dead letters.',
  };
  await sql`
    update operations o set status = 'failed', error = ${JSON.stringify(error)}::jsonb, finished_at = clock_timestamp()
    where o.id = any(${ids}::uuid[]) and o.status = 'running'
      and exists (select 1 from dead_letters d where d.message_id = o.id::text and d.message_type = o.type
                    and d.id = any(${letters.map(({ id }) => id)}::uuid[]))
      and not exists (select 1 from dead_letters r where r.message_id = o.id::text and r.status = 'replayed')`.execute(
    em.getKysely(),
  );
}
