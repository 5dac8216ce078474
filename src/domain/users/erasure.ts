/**
 * A deleted account is in its grace (`ERASURE_GRACE_DAYS`: it can be restored), due, or erased. Erased is final: of the
 * row its id and times are left, nothing that says who it was. Messages that were still under way then are looked for
 * again for a month.
 */
import { sql } from 'kysely';
import { type EntityManager, iso } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import { eraseSubject } from '../audit/index.ts';
import { newId } from '../ids.ts';
import { attemptsOf, type Subject } from '../kyc/attempts.ts';
import { move } from '../kyc/moves.ts';
import { isOpen } from '../kyc/transitions.ts';
import type { Transact, Unit } from '../messages/emit.ts';
import { SYSTEM } from '../messages/envelope.ts';
import { forgetAccountLock } from '../sessions/signin-locks.ts';
import { userErased } from './events.ts';
import { userColumns } from './user.ts';

export interface ErasureDeps {
  em: EntityManager;
  transact: Transact;
  keyring: Keyring;
  /** Days between deletion and erasure. */
  graceDays: number;
  /** The built-in mail inbox, where there is one. */
  inbox?: { forget(addresses: string[]): Promise<void> } | undefined;
}

export interface ErasureRound {
  erased: number;
  /** Accounts with messages that are still to be published: the next round looks again. */
  postponed: number;
}

/**
 * Erases up to `limit` accounts whose grace is over, each in a transaction of its own, the longest deleted first, and
 * what arrived late of those erased in the last 30 days. For a timer; two at once do no harm. Throws an `AggregateError`
 * when some could not be erased, after all the others were.
 */
export async function eraseDue(deps: ErasureDeps, limit: number): Promise<ErasureRound> {
  await redactLateArrivals(deps.em);
  const { rows } = await sql<{ id: string }>`
    select id from users
    where deleted_at <= now() - make_interval(days => ${deps.graceDays}) and erased_at is null
    order by deleted_at limit ${limit}`.execute(deps.em.getKysely());
  const round: ErasureRound = { erased: 0, postponed: 0 };
  const failures: unknown[] = [];
  for (const { id } of rows) {
    try {
      round[(await erase(deps, id)) ? 'erased' : 'postponed'] += 1;
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw new AggregateError(failures, `${failures.length} accounts could not be erased`);
  return round;
}

async function erase(deps: ErasureDeps, id: string): Promise<boolean> {
  const addresses = await addressesOf(deps.em, id);
  if (await isUnderWay(deps.em, id)) return false;
  await deps.inbox?.forget(addresses.free);
  const requestId = newId();
  const context = { requestId, correlationId: requestId, actor: SYSTEM };
  return deps.transact(context, async (unit) => {
    const subject = await lockDue(unit.em, id, deps.graceDays);
    if (!subject) return false;
    const attempts = await eraseIdentityChecks(unit, subject);
    await eraseMessages(unit.em, id, addresses.all);
    await eraseOperations(unit.em, id, { attempts, addresses: addresses.all, free: addresses.free });
    await eraseEmails(unit.em, id, addresses.free);
    for (const address of addresses.free) await forgetAccountLock(unit.em, deps.keyring, address);
    await eraseAccount(unit, id);
    return true;
  });
}

interface Addresses {
  /** Every address that the account is known to have had, in lower case. */
  all: string[];
  /** Those that no living account has now. */
  free: string[];
}

async function addressesOf(em: EntityManager, id: string): Promise<Addresses> {
  const { rows } = await sql<{ address: string; taken: boolean }>`
    with known as (
      select lower(email) as address from users where id = ${id}
      union select lower(recipient) from emails where user_id = ${id}
      union select lower(email) from user_tokens where user_id = ${id} and email is not null
      union select lower(payload::jsonb -> 'data' ->> 'email') from events
        where source = 'waybill' and subject = ${id} and payload::jsonb -> 'data' ->> 'email' is not null)
    select address, exists (select from users u where lower(u.email) = address and u.deleted_at is null) as taken
    from known where address like '%@%'`.execute(em.getKysely());
  return {
    all: rows.map(({ address }) => address),
    free: rows.filter(({ taken }) => !taken).map(({ address }) => address),
  };
}

/** What is published after the erasure would bring back what it says. */
async function isUnderWay(em: EntityManager, id: string): Promise<boolean> {
  const { rows } = await sql`
    select 1 from outbox where transport = 'rabbitmq' and set_aside_at is null and strpos(body, ${id}) > 0 limit 1`.execute(
    em.getKysely(),
  );
  return rows.length > 0;
}

async function lockDue(em: EntityManager, id: string, graceDays: number): Promise<Subject | undefined> {
  const { rows } = await sql<Subject>`
    select ${userColumns} from users
    where id = ${id} and deleted_at <= now() - make_interval(days => ${graceDays}) and erased_at is null
    for update`.execute(em.getKysely());
  return rows[0];
}

/** Ends an open check, and empties all of them: what was handed in, and what was said about it. Returns their ids. */
async function eraseIdentityChecks(unit: Unit, subject: Subject): Promise<string[]> {
  const em = unit.em.getKysely();
  const attempts = await attemptsOf(unit.em, subject.id);
  for (const attempt of attempts) {
    if (isOpen(attempt.status)) await move(unit, { subject, attempt }, { to: 'cancelled', by: 'system' });
  }
  const ids = attempts.map((attempt) => attempt.id);
  await sql`
    update kyc_attempts set sealed_document = null, country = null, document_type = null, expires_on = null,
      reason = null, comment = null
    where user_id = ${subject.id}`.execute(em);
  await sql`
    update kyc_transitions set reason = null, comment = null where attempt_id = any(${ids}::uuid[])`.execute(em);
  await sql`
    update kyc_callbacks set reason = null, detail = null, sealed_body = ''::bytea
    where attempt_id = any(${ids}::uuid[])`.execute(em);
  return ids;
}

/** Members of an event's data that say who somebody is; ids, states and times stay. */
const PERSONAL_MEMBERS = ['email', 'full_name', 'avatar_url', 'reason'];

/** `subjects`: a query of `(subject, since)`, events stored from `since` on. */
async function redactEvents(em: EntityManager, subjects: ReturnType<typeof sql>): Promise<void> {
  await sql`
    update events e
    set payload = jsonb_set(e.payload::jsonb, '{data}', (e.payload::jsonb -> 'data') - ${PERSONAL_MEMBERS}::text[])::text
    from (${subjects}) as t (subject, since)
    where e.source = 'waybill' and e.subject = t.subject and e.created_at >= t.since
      and jsonb_exists_any(e.payload::jsonb -> 'data', ${PERSONAL_MEMBERS}::text[])`.execute(em.getKysely());
}

/** What subscribers answered to the events of somebody may repeat what they were sent. `subjects`: as of `redactEvents`. */
async function emptyResponses(em: EntityManager, subjects: ReturnType<typeof sql>): Promise<void> {
  await sql`
    update webhook_attempts a set response_body = null
    from (${subjects}) as t (subject, since)
    join events e on e.source = 'waybill' and e.subject = t.subject
    join webhook_deliveries d on d.event_id = e.id and d.tenant = e.tenant
    where a.delivery_id = d.id and a.started_at >= t.since and a.response_body is not null`.execute(em.getKysely());
}

/**
 * Dead letters, and messages set aside, that hold a word: what they said cannot be said again. `words`: a query of
 * `(word, since)`, messages stored from `since` on.
 */
async function emptyMessages(em: EntityManager, words: ReturnType<typeof sql>): Promise<void> {
  const db = em.getKysely();
  await sql`
    update dead_letters set body = ''::bytea, headers = '{}', first_error = null, last_error = null, reason = 'erased',
      status = case when status = 'dead' then 'discarded' else status end, resolved_at = coalesce(resolved_at, now())
    where body <> ''::bytea and exists (
      select from (${words}) as t (word, since)
      where created_at >= since and (
        strpos(lower(encode(body, 'escape')), word) > 0 or strpos(lower(headers::text), word) > 0
        or strpos(lower(coalesce(first_error, '') || coalesce(last_error, '') || reason), word) > 0))`.execute(db);
  await sql`
    delete from outbox where set_aside_at is not null and exists (
      select from (${words}) as t (word, since) where created_at >= since and strpos(lower(body), word) > 0)`.execute(
    db,
  );
}

async function eraseMessages(em: EntityManager, id: string, addresses: string[]): Promise<void> {
  const all = sql`select ${id}::text, '-infinity'::timestamptz`;
  await redactEvents(em, all);
  await emptyResponses(em, all);
  await emptyMessages(em, sql`select unnest(${[id, ...addresses]}::text[]), '-infinity'::timestamptz`);
}

/** What was in a queue while its person was erased lands in a table after that. */
async function redactLateArrivals(em: EntityManager): Promise<void> {
  const recent = sql`select id::text, erased_at from users where erased_at > now() - interval '30 days'`;
  await redactEvents(em, recent);
  await emptyResponses(em, recent);
  await emptyMessages(em, recent);
}

async function eraseOperations(
  em: EntityManager,
  id: string,
  of: { attempts: string[]; addresses: string[]; free: string[] },
): Promise<void> {
  const db = em.getKysely();
  // An address that somebody else has now is in that account's operations too: those since the deletion are not ours.
  const { rows } = await sql<{ id: string }>`
    update operations o set result = case when result is null then null else '{"erased": true}'::jsonb end,
      error = case when error is null then null
        else jsonb_build_object('code', error ->> 'code', 'message', 'the person was erased') end
    where (o.result is not null or o.error is not null) and (
      o.caller = ${`user:${id}`} or o.result ->> 'user_id' = ${id} or o.result ->> 'id' = any(${of.attempts}::text[])
      or strpos(coalesce(o.error::text, ''), ${id}) > 0
      or exists (
        select from unnest(${of.addresses}::text[]) as a (address)
        where strpos(lower(coalesce(o.result::text, '') || coalesce(o.error::text, '')), address) > 0
          and (address = any(${of.free}::text[]) or o.created_at <= (select deleted_at from users where id = ${id}))))
    returning o.id`.execute(db);
  await sql`
    delete from idempotency_keys
    where starts_with(scope, ${`user:${id} `}) or operation_id = any(${rows.map((row) => row.id)}::uuid[])
      or exists (select from unnest(${of.free}::text[]) as a (address) where strpos(lower(key), address) > 0)`.execute(
    db,
  );
}

/** A mail that waits is not sent any more. */
async function eraseEmails(em: EntityManager, id: string, free: string[]): Promise<void> {
  await sql`
    update emails set recipient = 'erased', subject = 'erased', sealed_data = null, last_error = null,
      status = case when status = 'pending' then 'failed' else status end, next_attempt_at = null, lease_until = null
    where user_id = ${id} or lower(recipient) = any(${free}::text[])`.execute(em.getKysely());
}

async function eraseAccount(unit: Unit, id: string): Promise<void> {
  const em = unit.em.getKysely();
  await sql`delete from user_tokens where user_id = ${id}`.execute(em);
  await sql`delete from sessions where user_id = ${id}`.execute(em);
  const { rows } = await sql<{ version: number; erased_at: string }>`
    update users set email = ${`${id}@erased.invalid`}, full_name = '', password_hash = null, avatar_url = null,
      role = 'user', is_active = false, is_verified = false, kyc_status = 'unverified', terms_accepted_at = null,
      disabled_reason = null, disabled_until = null, totp_secret = null, totp_enabled_at = null, totp_last_step = null,
      recovery_codes = '{}', version = version + 1, updated_at = now(), erased_at = now()
    where id = ${id} returning version, erased_at`.execute(em);
  const row = rows[0];
  if (!row) throw new Error('a locked row is gone');
  await eraseSubject(unit.em, id);
  unit.emit.event(userErased, { user_id: id, erased_at: iso(row.erased_at) }, { subject: id, sequence: row.version });
  unit.emit.audit({ action: 'user.erased', targets: [{ type: 'user', id }], subject: id });
}
