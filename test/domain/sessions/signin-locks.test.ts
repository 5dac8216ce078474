import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Refusal } from '../../../src/domain/problem.ts';
import { signIn } from '../../../src/domain/sessions/signin.ts';
import { accountKey, countFailure, forgetAccountLock, networkKey } from '../../../src/domain/sessions/signin-locks.ts';
import { PasswordHasher } from '../../../src/domain/users/password.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { anonymously, freshEmail, openStage, PASSWORD, query, type Stage } from '../users/stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

const key = (email: string) => accountKey(stage.harness.keyring, email);
const release = (email: string) =>
  query(stage, sql`update signin_locks set locked_until = now() where key = ${key(email)}`);
const wrong = (email: string) => stage.signIn(email, 'not the password');
const fail = async (email: string, times: number) => {
  for (let i = 0; i < times; i += 1) expect((await wrong(email)).status).toBe(401);
};

/** Signs in from an address of the network; the status the caller would see. */
async function from(ip: string, email: string, password = 'not the password', passwords = stage.identity.passwords) {
  const { keyring, messaging } = stage.harness;
  const deps = { em: stage.em(), transact: messaging.transact, keyring, ...stage.identity, passwords };
  try {
    await signIn(deps, anonymously({ ip }), { email, password });
    return 'OK';
  } catch (error) {
    if (error instanceof Refusal) return error.problem.code;
    throw error;
  }
}

describe('an address', () => {
  test.each([
    ['with an account', () => stage.user().then(({ email }) => email)],
    ['without one', async () => freshEmail()],
  ])('%s is locked after five failures, for 30 s and then twice as long, up to 15 minutes', async (_, make) => {
    const email = await make();
    await fail(email, 5);
    for (const seconds of [30, 60, 120, 240, 480, 900, 900]) {
      const locked = await stage.signIn(email.toUpperCase());
      expect(locked).toMatchObject({ status: 429, body: { error: { code: 'RATE_LIMIT_EXCEEDED' } } });
      const after = Number(locked.headers.get('retry-after'));
      expect(after).toBeGreaterThan(seconds - 5);
      expect(after).toBeLessThanOrEqual(seconds);
      expect(locked.body.error.retry_after).toBe(after);
      await release(email);
      await fail(email, 1);
    }
  });

  test('gets no more guesses by sending them all at once', async () => {
    const { email } = await stage.user();
    const answers = await Promise.all(Array.from({ length: 20 }, () => wrong(email)));
    expect(answers.filter(({ status }) => status === 401)).toHaveLength(5);
    expect(answers.filter(({ status }) => status === 429)).toHaveLength(15);
  });

  test('lets every one of twenty at once in who know the password, also when it is hashed anew', async () => {
    const { id, email } = await stage.user();
    const stale = await new PasswordHasher({ memoryKib: 2048, time: 1, parallelism: 1 }).hash(PASSWORD);
    await query(stage, sql`update users set password_hash = ${stale} where id = ${id}`);
    await fail(email, 4);
    const answers = await Promise.all(Array.from({ length: 20 }, () => stage.signIn(email)));
    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200));
    const [row] = await query(stage, sql<{ password_hash: string }>`select password_hash from users where id = ${id}`);
    expect(row?.password_hash).toContain('m=1024,');
    expect(await query(stage, sql`select 1 from signin_locks where key = ${key(email)}`)).toEqual([]);
  });

  test('that was locked while a password was checked does not tell whether it was right', async () => {
    const { email } = await stage.user();
    class Overtaken extends PasswordHasher {
      override async verify(hashed: string | null, password: string): Promise<boolean> {
        const right = await super.verify(hashed, password);
        await fail(email, 5);
        return right;
      }
    }
    const overtaken = () => new Overtaken({ memoryKib: 1024, time: 1, parallelism: 1 });
    expect(await from('192.0.2.30', email, PASSWORD, overtaken())).toBe('RATE_LIMIT_EXCEEDED');
    await release(email);
    await query(stage, sql`delete from signin_locks where key = ${key(email)}`);
    expect(await from('192.0.2.30', email, 'not the password', overtaken())).toBe('RATE_LIMIT_EXCEEDED');
  });

  test('is forgotten when its owner signs in', async () => {
    const { email } = await stage.user();
    await fail(email, 4);
    expect((await stage.signIn(email)).status).toBe(200);
    await fail(email, 4);
    expect((await stage.signIn(email)).status).toBe(200);
  });

  test('is forgotten 24 hours after the last failure', async () => {
    const { email } = await stage.user();
    await fail(email, 5);
    await query(
      stage,
      sql`update signin_locks set locked_until = now() - interval '24 hours',
        last_failure_at = now() - interval '24 hours 1 second' where key = ${key(email)}`,
    );
    await fail(email, 4);
    expect((await stage.signIn(email)).status).toBe(200);
  });

  test('is free again after a reset, which stays open while it is locked', async () => {
    const { email } = await stage.user();
    await fail(email, 5);
    expect((await stage.signIn(email)).status).toBe(429);
    expect((await stage.ask('/auth/forgot-password', { json: { email } })).status).toBe(202);
    const [mail] = await stage.mails(email);
    const password = 'a louder harbour at dusk';
    const reset = await stage.ask('/auth/reset-password', { json: { token: mail?.token, password } });
    expect(reset.status).toBe(200);
    expect((await stage.signIn(email, password)).status).toBe(200);
  });

  test('is locked by guesses at changing the password too', async () => {
    const { email } = await stage.user();
    const token = (await stage.signIn(email)).body.data.access_token;
    const guess = () =>
      stage.ask('/auth/change-password', {
        json: { current_password: 'not the password', new_password: 'a louder harbour at dusk' },
        token,
      });
    for (let i = 0; i < 5; i += 1) expect((await guess()).status).toBe(400);
    expect((await guess()).status).toBe(429);
    expect((await stage.signIn(email)).status).toBe(429);
  });
});

describe('a network', () => {
  test('is locked after twenty failures at any addresses; one success does not wipe them out', async () => {
    const { email } = await stage.user();
    for (let i = 0; i < 19; i += 1) expect(await from('192.0.2.1', freshEmail())).toBe('UNAUTHORIZED');
    expect(await from('192.0.2.1', email, PASSWORD)).toBe('OK');
    expect(await from('192.0.2.1', freshEmail())).toBe('UNAUTHORIZED');
    expect(await from('192.0.2.1', email, PASSWORD)).toBe('RATE_LIMIT_EXCEEDED');
    expect(await from('192.0.2.2', email, PASSWORD)).toBe('OK');
  });

  test('is the /64 of an IPv6 address, and an IPv4 address however it is written', () => {
    const { keyring } = stage.harness;
    const same = (a: string, b: string) => networkKey(keyring, a).equals(networkKey(keyring, b));
    expect(same('2001:db8:1:2::1', '2001:db8:1:2:ffff::9')).toBe(true);
    expect(same('2001:db8:1:2::1', '2001:db8:1:3::1')).toBe(false);
    expect(same('192.0.2.1', '::ffff:192.0.2.1')).toBe(true);
    expect(same('192.0.2.1', '192.0.2.2')).toBe(false);
  });

  test('and address count nothing when no password was looked at', async () => {
    const email = freshEmail();
    const full = new PasswordHasher({ memoryKib: 1024, time: 1, parallelism: 1 }, { concurrency: 0, queueLimit: 0 });
    expect(await from('192.0.2.9', email, PASSWORD, full)).toBe('SERVICE_UNAVAILABLE');
    const rows = await query(
      stage,
      sql`select 1 from signin_locks
        where key in (${key(email)}, ${networkKey(stage.harness.keyring, '192.0.2.9')})`,
    );
    expect(rows).toEqual([]);
  });
});

describe('after a rotation of SECRETS_KEY', () => {
  const next = randomBytes(32);
  const rotated = () => {
    const { config } = stage.harness;
    return new Keyring(next, config.secretsKey);
  };
  const count = (keyring: Keyring, email: string, ip?: string) =>
    stage.harness.messaging
      .transact(anonymously(), (unit) => countFailure(unit.em, keyring, { email, ip }))
      .then(
        () => 'counted',
        (error) => (error instanceof Refusal ? error.problem.code : Promise.reject(error)),
      );

  test('failures of before still count, for the address and the network', async () => {
    const { keyring } = stage.harness;
    const email = freshEmail();
    for (let i = 0; i < 4; i += 1) expect(await count(keyring, email, '192.0.2.77')).toBe('counted');
    for (let i = 0; i < 15; i += 1) expect(await count(keyring, freshEmail(), '192.0.2.77')).toBe('counted');
    expect(await count(rotated(), email)).toBe('counted');
    expect(await count(rotated(), email)).toBe('RATE_LIMIT_EXCEEDED');
    expect(await count(rotated(), freshEmail(), '192.0.2.77')).toBe('counted');
    expect(await count(rotated(), freshEmail(), '192.0.2.77')).toBe('RATE_LIMIT_EXCEEDED');
  });

  test('a lock of before holds, adds up with what came since, and is forgotten with a new password', async () => {
    const { keyring, messaging } = stage.harness;
    const email = freshEmail();
    expect(await count(rotated(), email)).toBe('counted');
    for (let i = 0; i < 5; i += 1) expect(await count(keyring, email)).toBe('counted');
    expect(await count(rotated(), email)).toBe('RATE_LIMIT_EXCEEDED');
    await messaging.transact(anonymously(), (unit) => forgetAccountLock(unit.em, rotated(), email));
    expect(await count(rotated(), email)).toBe('counted');
  });
});

test('the table names nobody', async () => {
  const { email } = await stage.user();
  await fail(email, 1);
  const [row] = await query(
    stage,
    sql<{ n: string }>`
    select count(*) as n from signin_locks where signin_locks::text like ${`%${email.split('@')[0]}%`}`,
  );
  expect(row?.n).toBe('0');
});
