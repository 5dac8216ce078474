import { sql } from 'kysely';
import type { Database } from '../../../src/services/database.ts';
import type { SmtpSink } from '../../smtp-sink.ts';
import type { Load, Told } from './load.ts';
import type { Subscriber } from './subscriber.ts';

/** What became of everything that one load was told of. */
export interface Findings {
  /** Webhooks and mails that arrived, each counted once. */
  delivered: number;
  /** Webhooks and mails that came again under the same id. */
  duplicates: number;
  /** Accepted requests of which something is missing, with what. */
  lost: string[];
  /** Accounts that exist without all that belongs to them, whatever the client was told. */
  half: string[];
  /** Effects on the database that happened more than once, and events under two ids. */
  doubled: string[];
  /** Deliveries that are not recorded as delivered, outbox rows not published. */
  open: number;
}

export interface Parties {
  database: Database;
  subscribers: Subscriber[];
  sink: SmtpSink;
}

interface Account {
  id: string;
  email: string;
  mails: number;
  events: number;
  audits: number;
}

/** Compares, id by id, what the clients of `load` were told with what subscribers, the mail server and the database have. */
export async function examine(load: Load, parties: Parties): Promise<Findings> {
  const { subscribers, sink } = parties;
  const { accounts, events, open, failedOperations } = await readDatabase(load, parties.database);
  const found: Findings = { delivered: 0, duplicates: 0, lost: [], half: [], doubled: [], open };
  const lost = new Map<string, string[]>();
  const miss = (id: string, what: string) => lost.set(id, [...(lost.get(id) ?? []), what]);

  for (const subscriber of subscribers) {
    const expected = new Set([...events, ...accounts.map(({ id }) => `user:${id}`)]);
    for (const key of expected) {
      const arrival = subscriber.arrivals.get(key);
      if (!arrival) continue;
      found.delivered += 1;
      found.duplicates += arrival.times - 1;
      if (arrival.ids.size > 1) found.doubled.push(`${key} reached ${subscriber.name} under ${arrival.ids.size} ids`);
    }
  }
  for (const [id, told] of load.events) {
    if (told !== 'accepted') continue;
    if (!events.has(id)) miss(id, 'no event row');
    for (const { name, arrivals } of subscribers) if (!arrivals.has(id)) miss(id, `not delivered to ${name}`);
  }

  const mails = mailsByRecipient(sink);
  const byEmail = new Map(accounts.map((account) => [account.email, account]));
  for (const [email, { told, operationId }] of load.registrations) {
    if (told !== 'accepted') continue;
    if (!byEmail.has(email)) miss(email, 'no account');
    if (operationId && failedOperations.has(operationId)) miss(email, 'its operation failed');
  }
  for (const account of accounts) {
    const lacking = shortcomings(account, mails.get(account.email), subscribers);
    if (lacking.length === 0) continue;
    if (load.registrations.get(account.email)?.told === 'accepted')
      for (const what of lacking) miss(account.email, what);
    else found.half.push(`${account.email}: ${lacking.join(', ')}`);
  }
  for (const { email, mails: rows, events: told, audits } of accounts) {
    if (rows > 1) found.doubled.push(`${email} has ${rows} mails`);
    if (told > 1) found.doubled.push(`${email} has ${told} events`);
    if (audits > 1) found.doubled.push(`${email} has ${audits} audit rows`);
    const arrived = mails.get(email);
    if (!arrived) continue;
    found.delivered += 1;
    found.duplicates += arrived.times - 1;
    if (arrived.ids.size > 1) found.doubled.push(`${email} got mails under ${arrived.ids.size} ids`);
  }
  found.lost = [...lost].map(([id, what]) => `${id}: ${what.join(', ')}`);
  return found;
}

/** Whether nothing is owed any more. */
export const isSettled = ({ lost, half, open }: Findings): boolean =>
  lost.length === 0 && half.length === 0 && open === 0;

/** Whether every accepted request has all the rows that messages make: account, event, audit row, a delivery for each endpoint. */
export async function isTabled(load: Load, database: Database, endpoints: number): Promise<boolean> {
  const accepted = <T>(told: Map<string, T>, of: (it: T) => Told) =>
    [...told].filter(([, it]) => of(it) === 'accepted').map(([id]) => id);
  const { rows } = await sql<{ n: number }>`
    with mine as (
      select id, true as audited from jsonb_array_elements_text(${JSON.stringify(accepted(load.events, (it) => it))}::jsonb) as m (id)
      union all
      select e.id, exists (select 1 from audit_events a where a.action = 'user.registered' and a.targets @> jsonb_build_array(jsonb_build_object('id', u.id)))
      from jsonb_array_elements_text(${JSON.stringify(accepted(load.registrations, (it) => it.told))}::jsonb) as m (email)
      left join users u on u.email = m.email
      left join events e on e.type = 'user.created' and e.subject = u.id::text
    )
    select (select count(*)::int from outbox) + count(*)::int as n from mine m
    where m.id is null or not m.audited or (select count(*) from webhook_deliveries d where d.event_id = m.id) < ${endpoints}`.execute(
    database.em.fork().getKysely(),
  );
  return rows[0]?.n === 0;
}

function shortcomings(account: Account, mail: Mail | undefined, subscribers: Subscriber[]): string[] {
  return [
    account.mails === 0 && 'no mail row',
    account.events === 0 && 'no event row',
    account.audits === 0 && 'no audit row',
    !mail && 'no mail arrived',
    ...subscribers.map(({ name, arrivals }) => !arrivals.has(`user:${account.id}`) && `not told to ${name}`),
  ].filter((it) => it !== false);
}

interface Mail {
  times: number;
  /** Message-IDs. */
  ids: Set<string>;
}

function mailsByRecipient(sink: SmtpSink): Map<string, Mail> {
  const mails = new Map<string, Mail>();
  for (const { recipients, source } of sink.messages) {
    const id = /^message-id:\s*(\S+)/im.exec(source)?.[1] ?? 'none';
    for (const recipient of recipients) {
      const mail = mails.get(recipient) ?? { times: 0, ids: new Set<string>() };
      mail.times += 1;
      mail.ids.add(id);
      mails.set(recipient, mail);
    }
  }
  return mails;
}

async function readDatabase(load: Load, database: Database) {
  const db = database.em.fork().getKysely();
  const mine = `${load.prefix}-%`;
  const accounts = await sql<Account>`
    select u.id, u.email,
      (select count(*)::int from emails m where m.user_id = u.id) as mails,
      (select count(*)::int from events e where e.type = 'user.created' and e.subject = u.id::text) as events,
      (select count(*)::int from audit_events a where a.action = 'user.registered' and a.targets @> jsonb_build_array(jsonb_build_object('id', u.id))) as audits
    from users u where u.email like ${mine}`.execute(db);
  const events = await sql<{ id: string }>`select id from events where id like ${mine}`.execute(db);
  const open = await sql<{ n: number }>`
    select (select count(*)::int from webhook_deliveries d where d.status <> 'delivered' and (d.event_id like ${mine}
        or d.event_id in (select e.id from events e join users u on u.id::text = e.subject where e.type = 'user.created' and u.email like ${mine})))
      + (select count(*)::int from emails m join users u on u.id = m.user_id where u.email like ${mine} and m.status <> 'sent')
      + (select count(*)::int from outbox) as n`.execute(db);
  const failed = await sql<{ id: string }>`select id from operations where status = 'failed'`.execute(db);
  return {
    accounts: accounts.rows,
    events: new Set(events.rows.map((row) => row.id)),
    open: open.rows[0]?.n ?? 0,
    failedOperations: new Set(failed.rows.map((row) => row.id)),
  };
}
