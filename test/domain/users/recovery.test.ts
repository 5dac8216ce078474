import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { accountKey } from '../../../src/domain/sessions/signin-locks.ts';
import { PasswordHasher } from '../../../src/domain/users/password.ts';
import { changePassword, resetPassword } from '../../../src/domain/users/recovery.ts';
import { anonymously, openStage, PASSWORD, query, type Stage } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

/** Hands to a use case whose password slots are all taken. */
const busy = () => ({
  em: stage.em(),
  transact: stage.harness.messaging.transact,
  keyring: stage.harness.keyring,
  passwords: new PasswordHasher({ memoryKib: 1024, time: 1, parallelism: 1 }, { concurrency: 0, queueLimit: 0 }),
});

test('a token that nobody was sent costs no hash', async () => {
  const input = { token: 'never issued', password: PASSWORD };
  await expect(resetPassword(busy(), anonymously(), input)).rejects.toMatchObject({ problem: { field: 'token' } });
});

test('a reset that finds no slot leaves the token good', async () => {
  const { email } = await stage.user();
  await stage.ask('/auth/forgot-password', { json: { email } });
  const token = (await stage.mails(email))[0]?.token ?? '';
  const password = 'a louder harbour at dusk';
  await expect(resetPassword(busy(), anonymously(), { token, password })).rejects.toMatchObject({
    problem: { code: 'SERVICE_UNAVAILABLE' },
  });
  expect((await stage.ask('/auth/reset-password', { json: { token, password } })).status).toBe(200);
});

test('a change that finds no slot does not count as a wrong guess', async () => {
  const { id, email } = await stage.user();
  const input = { userId: id, sessionId: id, currentPassword: PASSWORD, newPassword: 'a louder harbour at dusk' };
  await expect(changePassword(busy(), anonymously(), input)).rejects.toMatchObject({
    problem: { code: 'SERVICE_UNAVAILABLE' },
  });
  const counted = await query(
    stage,
    sql`select 1 from signin_locks where key = ${accountKey(stage.harness.keyring, email)}`,
  );
  expect(counted).toEqual([]);
});
