import { sql } from 'kysely';
import { currentTime } from '../../services/clock.ts';
import type { Unit } from '../messages/emit.ts';
import { refuse } from '../problem.ts';
import { EMAIL_COLUMNS, type EmailRecord, type EmailRow, emailRecord } from './list.ts';

/**
 * Gives a failed e-mail a new round of attempts, under the same Message-ID.
 * Refuses with NOT_FOUND, and with CONFLICT when it was sent, is still being tried, or its data is gone.
 */
export async function resendEmail(unit: Unit, id: string): Promise<EmailRecord> {
  const em = unit.em.getKysely();
  const { rows } = await sql<{ status: string; sealed: boolean }>`
    select status, sealed_data is not null as sealed from emails where id = ${id} for update`.execute(em);
  const found = rows[0];
  if (!found) return refuse('NOT_FOUND', 'there is no such e-mail');
  if (found.status === 'sent') return refuse('CONFLICT', 'the e-mail was sent');
  if (found.status === 'pending') return refuse('CONFLICT', 'the e-mail is still being tried');
  if (!found.sealed) return refuse('CONFLICT', 'the data of the e-mail is gone, so it cannot be sent again');
  const updated = await sql<EmailRow & { generation: number }>`
    update emails set status = 'pending', attempts = 0, generation = generation + 1, next_attempt_at = now(), lease_until = null
    where id = ${id} returning ${EMAIL_COLUMNS}, generation`.execute(em);
  const row = updated.rows[0];
  if (!row) throw new Error('a locked row is gone');
  unit.emit.audit({ action: 'email.retried', targets: [{ type: 'email', id }] });
  unit.emit.alarm({ queue: 'email', id, attempt: 0, generation: row.generation, at: currentTime() });
  return emailRecord(row);
}
