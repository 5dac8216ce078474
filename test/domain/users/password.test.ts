import { createRequire } from 'node:module';
import { describe, expect, test } from 'vitest';
import { Refusal } from '../../../src/domain/problem.ts';
import { isCommonPassword } from '../../../src/domain/users/common-passwords.ts';
import { acceptPassword, PASSWORD_MIN, PasswordHasher, refuseSimilar } from '../../../src/domain/users/password.ts';

const SETTINGS = { memoryKib: 1024, time: 1, parallelism: 1 };

const problemOf = (work: () => unknown) => {
  try {
    work();
  } catch (error) {
    if (error instanceof Refusal) return error.problem;
    throw error;
  }
  return undefined;
};

describe('what is acceptable', () => {
  test.each([
    ['7 characters', 'abcdefg'],
    ['129 characters', `${'x'.repeat(128)}!`],
    ['7 characters of two code units each', '🐚'.repeat(7)],
    ['a common one', 'password1'],
    ['a common one in other case', 'PassWord1'],
    ['a common one in full-width letters', 'ｐａｓｓｗｏｒｄ１'],
    ['half of a surrogate pair', 'harbour\ud800 dawn'],
    ['U+0000', 'harbour\0 dawn'],
  ])('refuses %s', (_, password) => {
    expect(problemOf(() => acceptPassword(password, 'new_password'))).toMatchObject({
      code: 'VALIDATION_ERROR',
      field: 'new_password',
    });
  });

  test.each([
    ['8 characters', 'q7#vLm2z'],
    ['128 characters', 'x7'.repeat(64)],
    ['8 characters of two code units each', '🐚'.repeat(8)],
    ['spaces and other scripts', 'пароль и 密码 '],
  ])('takes %s', (_, password) => {
    expect(acceptPassword(password)).toBe(password.normalize('NFKC'));
  });

  test('knows at least 3,000 passwords that are long enough otherwise', () => {
    const { dictionary } = createRequire(import.meta.url)('@zxcvbn-ts/language-common');
    const long = (dictionary['passwords-common'] as string[]).filter((word) => word.length >= PASSWORD_MIN);
    expect(long.length).toBeGreaterThan(3000);
    expect(long.filter((word) => !isCommonPassword(word))).toEqual([]);
  });

  test('knows the most used passwords and no others', () => {
    expect(['12345678', 'password', 'iloveyou', 'sunshine', 'football'].every(isCommonPassword)).toBe(true);
    expect(isCommonPassword('correct horse battery staple')).toBe(false);
    expect(isCommonPassword('__proto__')).toBe(false);
  });
});

describe('what is too much like the address', () => {
  const EMAIL = 'Ada.Lovelace@example.com';

  test.each([
    'ada.lovelace',
    'Ada.Lovelace1',
    'ADA.LOVELACE@EXAMPLE.COM',
    'ada.lovelaceada.lovelace',
    'waybill1',
    'Waybill!!!',
  ])('refuses %s', (password) => {
    expect(problemOf(() => refuseSimilar(password, EMAIL, 'new_password'))).toMatchObject({
      code: 'VALIDATION_ERROR',
      field: 'new_password',
    });
  });

  test.each([
    ['ada.lovelace and a harbour', EMAIL],
    ['a quiet harbour at dawn', EMAIL],
    ['a waybill in the harbour', EMAIL],
    ['abcdefgh', 'a@example.com'],
  ])('takes %s', (password, email) => {
    expect(problemOf(() => refuseSimilar(password, email))).toBeUndefined();
  });
});

describe('hashing', () => {
  test('makes Argon2id hashes with the settings and a salt of 16 bytes', async () => {
    const hash = await new PasswordHasher({ memoryKib: 2048, time: 2, parallelism: 3 }).hash('harbour at dawn');
    const [, algorithm, version, params, salt, digest] = hash.split('$');
    expect([algorithm, version]).toEqual(['argon2id', 'v=19']);
    expect(Object.fromEntries((params ?? '').split(',').map((p) => p.split('=')))).toEqual({
      m: '2048',
      t: '2',
      p: '3',
    });
    expect(Buffer.from(salt ?? '', 'base64')).toHaveLength(16);
    expect(Buffer.from(digest ?? '', 'base64')).toHaveLength(32);
  });

  test('takes two spellings of one character as one, and nothing else', async () => {
    const hasher = new PasswordHasher(SETTINGS);
    const hash = await hasher.hash('caf\u00e9 harbour');
    expect(await hasher.verify(hash, 'cafe\u0301 harbour')).toBe(true);
    expect(await hasher.verify(hash, 'cafe harbour')).toBe(false);
    expect(await hasher.verify(null, 'caf\u00e9 harbour')).toBe(false);
  });

  test('tells hashes of other settings', async () => {
    const hash = await new PasswordHasher(SETTINGS).hash('harbour at dawn');
    expect(new PasswordHasher(SETTINGS).needsRehash(hash)).toBe(false);
    expect(new PasswordHasher({ ...SETTINGS, memoryKib: 2048 }).needsRehash(hash)).toBe(true);
    expect(new PasswordHasher({ ...SETTINGS, time: 2 }).needsRehash(hash)).toBe(true);
    expect(new PasswordHasher({ ...SETTINGS, parallelism: 2 }).needsRehash(hash)).toBe(true);
  });

  test('turns callers away when the queue is full, and works on after', async () => {
    const hasher = new PasswordHasher(SETTINGS, { concurrency: 1, queueLimit: 2 });
    const results = await Promise.allSettled(['one', 'two', 'three', 'four'].map((word) => hasher.hash(word)));
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected']);
    expect((results[3] as PromiseRejectedResult).reason.problem).toMatchObject({
      code: 'SERVICE_UNAVAILABLE',
      retry_after: 2,
    });
    expect(await hasher.hash('five')).toMatch(/^\$argon2id\$/);
  });

  test('takes about as long without a hash as with one', async () => {
    const hasher = new PasswordHasher({ memoryKib: 32_768, time: 2, parallelism: 1 }, { concurrency: 1 });
    const hash = await hasher.hash('harbour at dawn');
    const timed = async (stored: string | null) => {
      // The work of this process alone, whatever else the machine does meanwhile.
      const before = process.cpuUsage();
      await hasher.verify(stored, 'another password');
      const { user, system } = process.cpuUsage(before);
      return user + system;
    };
    await timed(null);
    // The least of each, taken in turns.
    const times: [number, number][] = [];
    for (let i = 0; i < 8; i += 1) times.push([await timed(null), await timed(hash)]);
    const ratio = Math.min(...times.map(([without]) => without)) / Math.min(...times.map(([, stored]) => stored));
    expect(ratio).toBeGreaterThan(0.5);
    expect(ratio).toBeLessThan(2);
  });
});
