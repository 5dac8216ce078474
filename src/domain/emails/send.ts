import { sql } from 'kysely';
import { z } from 'zod';
import { currentTime } from '../../services/clock.ts';
import { type Database, isTransient } from '../../services/database.ts';
import { type Keyring, SealError } from '../../services/keyring.ts';
import { type Logger, scrub } from '../../services/logger.ts';
import { backoffMs, pause, withDeadline } from '../../services/service.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import { type RequestContext, SYSTEM } from '../messages/envelope.ts';
import { type Mailer, SEND_TIMEOUT_MS } from './mailer.ts';
import { isPermanent, retryDelay } from './retry.ts';
import { renderMail, TemplateError } from './templates.ts';

/*
 * The states of a row:
 *   pending, no lease    due at next_attempt_at; an alarm stands for it
 *   pending, leased      one worker is sending it; when that worker dies the lease runs out and the next alarm takes over
 *   sent                 accepted by the mail server; its variables are gone
 *   failed               refused for good or out of attempts; `resendEmail` makes it pending again
 * Only `claim` leases, only `record*` and `resendEmail` change the status.
 */

/** Beyond the send's own limit, what a restart of PostgreSQL may take before the result is written. */
const RECORD_GRACE_MS = 10_000;
const LEASE_MS = SEND_TIMEOUT_MS + RECORD_GRACE_MS;

export interface SendDeps {
  database: Database;
  transact: Transact;
  keyring: Keyring;
  mailer: Mailer;
  /** The sender of every mail. */
  from: string;
  log: Logger;
}

interface Claimed {
  id: string;
  recipient: string;
  template: string;
  sealed_data: string | null;
  attempts: number;
  generation: number;
  message_id: string;
  correlation_id: string | null;
  /** The lease as PostgreSQL wrote it, in full precision: it tells this claim from a later one. */
  lease: string;
}

/** What one alarm led to. `idle`: the row is gone or finished. `postponed`: not now, another alarm was set. */
export type SendResult = 'sent' | 'retrying' | 'failed' | 'postponed' | 'idle';

/**
 * Sends the e-mail `id` if it is due and nobody else is sending it. The send is outside any transaction; its result
 * and the next alarm are one transaction. A refusal for good or a fifth failure ends in `failed`.
 * Throws only when the database does: the lease then runs out and the mail is sent again under the same Message-ID.
 */
export async function sendEmail(deps: SendDeps, id: string): Promise<SendResult> {
  const claimed = await claim(deps.database, id);
  if (!claimed) return rearm(deps, id);
  const attempt = await deliver(deps, claimed);
  return untilRecorded(deps.log, () => record(deps, claimed, attempt));
}

async function claim(database: Database, id: string): Promise<Claimed | undefined> {
  const { rows } = await sql<Claimed>`
    update emails set lease_until = clock_timestamp() + ${LEASE_MS} * interval '1 millisecond'
    where id = ${id} and status = 'pending' and next_attempt_at <= now() + interval '1 second'
      and (lease_until is null or lease_until < now())
    returning id, recipient, template, sealed_data, attempts, generation, message_id, correlation_id, lease_until::text as lease`.execute(
    database.em.fork().getKysely(),
  );
  return rows[0];
}

/** A row that is leased or not due yet gets an alarm for that time: the one that rang is used up. */
async function rearm(deps: SendDeps, id: string): Promise<SendResult> {
  const { rows } = await sql<{ attempts: number; correlation_id: string | null; wait_ms: string }>`
    select attempts, correlation_id, extract(epoch from greatest(next_attempt_at, lease_until) - clock_timestamp()) * 1000 as wait_ms
    from emails where id = ${id} and status = 'pending'`.execute(deps.database.em.fork().getKysely());
  const row = rows[0];
  if (!row) return 'idle';
  // Rounded up to a second, which also is the generation: alarms that wait for the same moment become one job, and
  // none has the id of the job that is running now, for which the queue would ignore it.
  const at = Math.ceil((currentTime() + Math.max(0, Number(row.wait_ms)) + 1) / 1000) * 1000;
  await deps.transact(contextOf(id, row.correlation_id), async ({ emit }) => {
    emit.alarm({ queue: 'email', id, attempt: row.attempts, generation: at / 1000, at });
  });
  return 'postponed';
}

interface Attempt {
  ok: boolean;
  permanent: boolean;
  response: string;
}

const refused = (response: string): Attempt => ({ ok: false, permanent: true, response });

async function deliver({ keyring, mailer, from }: SendDeps, row: Claimed): Promise<Attempt> {
  if (!z.email().safeParse(row.recipient).success) return refused('the recipient is not a valid e-mail address');
  if (row.sealed_data === null) return refused('the data of the e-mail is gone');
  try {
    const data: Record<string, string> = JSON.parse(await keyring.open('email', row.sealed_data));
    const mail = renderMail(row.template, data);
    const outgoing = {
      to: row.recipient,
      from,
      ...mail,
      messageId: row.message_id,
      headers: { 'Auto-Submitted': 'auto-generated' }, // RFC 3834, section 5: no out-of-office replies
    };
    const sending = mailer.send(outgoing, AbortSignal.timeout(SEND_TIMEOUT_MS));
    // The mailer ends by its signal; the deadline is for one that does not.
    const { accepted, response } = await withDeadline(sending, SEND_TIMEOUT_MS + 500, 'sending');
    return { ok: accepted, permanent: !accepted && isPermanent(response), response };
  } catch (error) {
    const permanent = error instanceof TemplateError || error instanceof SealError;
    return { ok: false, permanent, response: error instanceof Error ? error.message : String(error) };
  }
}

/** The error as it may be kept: on one line, bounded, without addresses and tokens. */
const errorText = (response: string, recipient: string): string =>
  scrub(response.replaceAll(recipient, '[email]'))
    .replace(/\p{Cc}+/gu, ' ')
    .slice(0, 500);

async function record(deps: SendDeps, row: Claimed, attempt: Attempt): Promise<SendResult> {
  return deps.transact(contextOf(row.id, row.correlation_id), async (unit) => {
    if (attempt.ok) return recordSent(unit, row);
    const error = errorText(attempt.response, row.recipient);
    const attempts = row.attempts + 1;
    const delay = attempt.permanent ? undefined : retryDelay(attempts);
    const result =
      delay === undefined ? await recordFailed(unit, row, error) : await recordRetry(unit, row, error, delay);
    deps.log.warn({ email: row.id, template: row.template, attempts, error, result }, 'an e-mail was not accepted');
    return result;
  });
}

/** Whoever holds the lease by now: what was accepted was accepted. */
async function recordSent({ em }: Unit, row: Claimed): Promise<SendResult> {
  await sql`
    update emails set status = 'sent', attempts = attempts + 1, sent_at = clock_timestamp(), sealed_data = null,
      next_attempt_at = null, lease_until = null, last_error = null
    where id = ${row.id} and status <> 'sent'`.execute(em.getKysely());
  return 'sent';
}

async function recordFailed({ em }: Unit, row: Claimed, error: string): Promise<SendResult> {
  const { rows } = await sql`
    update emails set status = 'failed', attempts = attempts + 1, last_error = ${error}, next_attempt_at = null, lease_until = null
    where id = ${row.id} and status = 'pending' and lease_until = ${row.lease}::timestamptz returning id`.execute(
    em.getKysely(),
  );
  return rows.length > 0 ? 'failed' : 'idle';
}

async function recordRetry({ em, emit }: Unit, row: Claimed, error: string, delay: number): Promise<SendResult> {
  const { rows } = await sql<{ attempts: number; generation: number }>`
    update emails set attempts = attempts + 1, last_error = ${error}, lease_until = null,
      next_attempt_at = clock_timestamp() + ${delay} * interval '1 millisecond'
    where id = ${row.id} and status = 'pending' and lease_until = ${row.lease}::timestamptz
    returning attempts, generation`.execute(em.getKysely());
  const next = rows[0];
  if (!next) return 'idle'; // the lease ran out and another worker has the row
  emit.alarm({
    queue: 'email',
    id: row.id,
    attempt: next.attempts,
    generation: next.generation,
    at: currentTime() + delay,
  });
  return 'retrying';
}

/** Goes on through a restart of PostgreSQL: what was sent but not recorded would be sent again. */
async function untilRecorded<T>(log: Logger, work: () => Promise<T>): Promise<T> {
  const end = performance.now() + RECORD_GRACE_MS;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      const wait = backoffMs(attempt, 100, 1000);
      if (!isTransient(error) || performance.now() + wait > end) throw error;
      log.warn({ error: String(error) }, 'the result of an e-mail could not be recorded yet');
      await pause(wait);
    }
  }
}

function contextOf(id: string, correlationId: string | null): RequestContext {
  return { requestId: id, correlationId: correlationId ?? id, actor: SYSTEM };
}
