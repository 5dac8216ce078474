import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';

/** A message that could not be handled, as it was, with the reason. */
export interface DeadLetter {
  id: string;
  queue: string;
  worker: string | null;
  messageType: string | null;
  messageId: string | null;
  correlationId: string | null;
  reason: string;
  attempts: number;
  firstError: string | null;
  lastError: string | null;
  body: Buffer;
  headers: Record<string, unknown>;
}

/** Records a dead letter; the same id again changes nothing. */
export async function recordDeadLetter(em: EntityManager, letter: DeadLetter): Promise<boolean> {
  const { rows } = await sql`
    insert into dead_letters (id, queue, worker, message_type, message_id, correlation_id, reason, attempts, first_error, last_error, body, headers)
    values (${letter.id}, ${letter.queue}, ${letter.worker}, ${letter.messageType}, ${letter.messageId}, ${letter.correlationId},
      ${letter.reason}, ${letter.attempts}, ${letter.firstError}, ${letter.lastError}, ${letter.body}, ${JSON.stringify(letter.headers)}::jsonb)
    on conflict (id) do nothing
    returning id`.execute(em.getKysely());
  return rows.length > 0;
}

/** How many wait for a decision, by queue. */
export async function countDeadLetters(em: EntityManager): Promise<Map<string, number>> {
  const { rows } = await sql<{ queue: string; n: string }>`
    select queue, count(*) as n from dead_letters where status = 'dead' group by queue`.execute(em.getKysely());
  return new Map(rows.map((row) => [row.queue, Number(row.n)]));
}
