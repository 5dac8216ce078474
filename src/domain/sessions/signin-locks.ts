/**
 * Sign-in locks, one per address and one per network. A key is free (fewer failures than its limit, or its lock has run
 * out) or locked until a time. What an attempt came to is told only in the transaction that finds both keys free and, when
 * the password was wrong, counts it. So attempts take effect one after the other however they arrive: a burst of guesses
 * learns no more than single ones would, right passwords at once all sign in, and what is under way counts for nothing.
 * At the limit a key is locked for 30 s, and for twice as long with each further failure, up to 15 minutes. A key is
 * forgotten 24 hours after its last failure; an address also when its owner signs in or resets the password. What was
 * counted under the previous SECRETS_KEY is carried over by the next failure, and holds until then.
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

/** Whose attempt it is: the address as it was given, and where from. */
export interface Attempt {
  email: string;
  ip: string | undefined;
}

/** Every key that can lock an attempt: those of today and of the previous SECRETS_KEY. */
function keysOf(keyring: Keyring, { email, ip }: Attempt): Buffer[] {
  const names = [accountName(email), ...(ip ? [networkName(ip)] : [])];
  return names.flatMap((name) => [keyOf(keyring, name), ...previousKeysOf(keyring, name)]);
}

/**
 * Refuses RATE_LIMIT_EXCEEDED with `retry_after` while the address or the network is locked. A look before costly work;
 * `admitAttempt` or `countFailure` decides.
 */
export async function refuseLocked(em: EntityManager, keyring: Keyring, attempt: Attempt): Promise<void> {
  const { rows } = await sql<{ seconds: number | null }>`
    select ceil(extract(epoch from max(locked_until) - clock_timestamp()))::int as seconds from signin_locks
    where key in (${sql.join(keysOf(keyring, attempt))}) and locked_until > clock_timestamp()`.execute(em.getKysely());
  const seconds = rows[0]?.seconds;
  if (seconds) locked(seconds);
}

const locked = (seconds: number): never =>
  refuse('RATE_LIMIT_EXCEEDED', 'too many failed sign-ins; wait, or reset your password', {
    retry_after: Math.max(1, seconds),
  });

/**
 * What is told of a right password is told after this: it waits for a failure of the address that is being counted, and
 * refuses like `refuseLocked`.
 */
export async function admitAttempt(em: EntityManager, keyring: Keyring, attempt: Attempt): Promise<void> {
  const keys = keysOf(keyring, { email: attempt.email, ip: undefined });
  // Today's key last, as `carryOver` does.
  await sql`
    select 1 from signin_locks where key in (${sql.join(keys)})
    order by key = ${accountKey(keyring, attempt.email)} for update`.execute(em.getKysely());
  await refuseLocked(em, keyring, attempt);
}

/**
 * Counts a failure. Refuses RATE_LIMIT_EXCEEDED with `retry_after` when one of its keys is locked; the transaction is
 * then rolled back, so what is locked does not grow by being asked.
 */
export async function countFailure(em: EntityManager, keyring: Keyring, attempt: Attempt): Promise<void> {
  // Always the address first, as `admitAttempt` does: two attempts never wait for each other crosswise.
  await countOne(em, keyring, accountName(attempt.email), ACCOUNT_FAILURES);
  if (attempt.ip) await countOne(em, keyring, networkName(attempt.ip), NETWORK_FAILURES);
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

async function countOne(em: EntityManager, keyring: Keyring, name: string, limit: number): Promise<void> {
  const key = keyOf(keyring, name);
  await carryOver(em, previousKeysOf(keyring, name), key);
  const failures = sql`case when l.last_failure_at < now() - interval '24 hours' then 1 else l.failures + 1 end`;
  const { rows } = await sql`
    insert into signin_locks as l (key, failures, last_failure_at) values (${key}, 1, clock_timestamp())
    on conflict (key) do update set failures = ${failures}, last_failure_at = clock_timestamp(),
      locked_until = case when ${failures} < ${limit} then null else clock_timestamp() + make_interval(secs =>
        least(${LONGEST_LOCK_SECONDS}, ${FIRST_LOCK_SECONDS} * power(2, least(20, ${failures} - ${limit})))) end
    where l.locked_until is null or l.locked_until <= clock_timestamp()
    returning key`.execute(em.getKysely());
  if (rows.length > 0) return;
  const held = await sql<{ seconds: number }>`
    select ceil(extract(epoch from locked_until - clock_timestamp()))::int as seconds
    from signin_locks where key = ${key}`.execute(em.getKysely());
  locked(held.rows[0]?.seconds ?? 1);
}

/**
 * The owner chose a new password or showed the present one: whatever was guessed before does not count any more. What
 * the network failed at does, or one account of one's own would buy any number of guesses at others. Returns what is
 * forgotten.
 */
export async function forgetAccountLock(
  em: EntityManager,
  keyring: Keyring,
  email: string,
): Promise<{ failures: number; locked: boolean }> {
  const keys = [accountKey(keyring, email), ...previousKeysOf(keyring, accountName(email))];
  const { rows } = await sql<{ failures: number; locked: boolean }>`
    delete from signin_locks where key in (${sql.join(keys)})
    returning failures, coalesce(locked_until > clock_timestamp(), false) as locked`.execute(em.getKysely());
  return { failures: rows.reduce((sum, row) => sum + row.failures, 0), locked: rows.some((row) => row.locked) };
}
