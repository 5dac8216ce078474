/**
 * Sign-in locks, one per address and one per network. A key is free (fewer failures than its limit, or its lock has run
 * out) or locked until a time. Every attempt is counted as a failure before the password is looked at and taken back
 * when it was right, so a burst of guesses at once gets no more tries than one after the other. At the limit a key is
 * locked for 30 s, and for twice as long with each further failure, up to 15 minutes. A key is forgotten 24 hours after
 * its last failure; an address also when its owner signs in or resets the password. What was counted under the
 * previous SECRETS_KEY is carried over by the next attempt.
 */
import { createHmac } from 'node:crypto';
import ipaddr from 'ipaddr.js';
import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';
import type { Keyring } from '../../services/keyring.ts';
import { refuse } from '../problem.ts';

export const ACCOUNT_FAILURES = 5;
export const NETWORK_FAILURES = 20;
const FIRST_LOCK_SECONDS = 30;
const LONGEST_LOCK_SECONDS = 900;

const keyed = (key: Buffer, name: string): Buffer => createHmac('sha256', key).update(`signin ${name}`).digest();

const keyOf = (keyring: Keyring, name: string): Buffer => keyed(keyring.for('fingerprint').current().key, name);

const previousKeysOf = (keyring: Keyring, name: string): Buffer[] =>
  keyring
    .for('fingerprint')
    .previous()
    .map(({ key }) => keyed(key, name));

const accountName = (email: string): string => `account ${email.toLowerCase()}`;

/** An IPv4 address, or the /64 of an IPv6 address: one customer has that many. */
function networkName(ip: string): string {
  if (!ipaddr.isValid(ip)) return `network ${ip}`;
  const address = ipaddr.process(ip);
  return `network ${address.kind() === 'ipv6' ? address.toByteArray().slice(0, 8).join('.') : address.toString()}`;
}

/** The same for an address that has an account and one that has none. */
export const accountKey = (keyring: Keyring, email: string): Buffer => keyOf(keyring, accountName(email));

export const networkKey = (keyring: Keyring, ip: string): Buffer => keyOf(keyring, networkName(ip));

/** What one attempt was counted under. */
export interface CountedAttempt {
  account: Buffer;
  network: Buffer | undefined;
}

/**
 * Counts an attempt. Refuses RATE_LIMIT_EXCEEDED with `retry_after` when one of its keys is locked; the transaction is
 * then rolled back, so what is locked does not grow by being asked.
 */
export async function countAttempt(
  em: EntityManager,
  keyring: Keyring,
  who: { email: string; ip: string | undefined },
): Promise<CountedAttempt> {
  const network = who.ip ? networkKey(keyring, who.ip) : undefined;
  const account = accountKey(keyring, who.email);
  // Always the network first: two attempts never wait for each other crosswise.
  if (network && who.ip) {
    await carryOver(em, previousKeysOf(keyring, networkName(who.ip)), network);
    await countOne(em, network, NETWORK_FAILURES);
  }
  await carryOver(em, previousKeysOf(keyring, accountName(who.email)), account);
  await countOne(em, account, ACCOUNT_FAILURES);
  return { account, network };
}

/** Adds what was counted under the keys of before, so that a rotation gives nobody a fresh set of guesses. */
async function carryOver(em: EntityManager, from: Buffer[], to: Buffer): Promise<void> {
  for (const key of from) {
    await sql`
      with old as (delete from signin_locks where key = ${key} returning *)
      insert into signin_locks as l (key, failures, last_failure_at, locked_until)
      select ${to}, failures, last_failure_at, locked_until from old where last_failure_at > now() - interval '24 hours'
      on conflict (key) do update set
        failures = excluded.failures + case when l.last_failure_at < now() - interval '24 hours' then 0 else l.failures end,
        last_failure_at = greatest(l.last_failure_at, excluded.last_failure_at),
        locked_until = greatest(l.locked_until, excluded.locked_until)`.execute(em.getKysely());
  }
}

async function countOne(em: EntityManager, key: Buffer, limit: number): Promise<void> {
  const failures = sql`case when l.last_failure_at < now() - interval '24 hours' then 1 else l.failures + 1 end`;
  const { rows } = await sql`
    insert into signin_locks as l (key, failures, last_failure_at) values (${key}, 1, clock_timestamp())
    on conflict (key) do update set failures = ${failures}, last_failure_at = clock_timestamp(),
      locked_until = case when ${failures} < ${limit} then null else clock_timestamp() + make_interval(secs =>
        least(${LONGEST_LOCK_SECONDS}, ${FIRST_LOCK_SECONDS} * power(2, least(20, ${failures} - ${limit})))) end
    where l.locked_until is null or l.locked_until <= clock_timestamp()
    returning key`.execute(em.getKysely());
  if (rows.length > 0) return;
  const locked = await sql<{ seconds: number }>`
    select greatest(1, ceil(extract(epoch from locked_until - clock_timestamp())))::int as seconds
    from signin_locks where key = ${key}`.execute(em.getKysely());
  refuse('RATE_LIMIT_EXCEEDED', 'too many failed sign-ins; wait, or reset your password', {
    retry_after: locked.rows[0]?.seconds ?? 1,
  });
}

/** The password was right: the address is free again. The network only gets its attempt back, or one account of one's own would buy any number of guesses at others. */
export async function settleAttempt(em: EntityManager, attempt: CountedAttempt): Promise<void> {
  await takeBack(em, attempt.network, NETWORK_FAILURES);
  await sql`delete from signin_locks where key = ${attempt.account}`.execute(em.getKysely());
}

/** No password was looked at: both keys get their attempt back. */
export async function cancelAttempt(em: EntityManager, attempt: CountedAttempt): Promise<void> {
  await takeBack(em, attempt.network, NETWORK_FAILURES);
  await takeBack(em, attempt.account, ACCOUNT_FAILURES);
}

async function takeBack(em: EntityManager, key: Buffer | undefined, limit: number): Promise<void> {
  if (!key) return;
  await sql`
    update signin_locks set failures = greatest(0, failures - 1),
      locked_until = case when failures - 1 < ${limit} then null else locked_until end
    where key = ${key}`.execute(em.getKysely());
}

/** The owner chose a new password: whatever was guessed before does not count any more. */
export async function forgetAccountLock(em: EntityManager, keyring: Keyring, email: string): Promise<void> {
  const keys = [accountKey(keyring, email), ...previousKeysOf(keyring, accountName(email))];
  await sql`delete from signin_locks where key in (${sql.join(keys)})`.execute(em.getKysely());
}
