import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId, OperationIds } from '../../../src/domain/ids.ts';
import { ensureAdmin } from '../../../src/domain/users/administration.ts';
import { registerUserCommand } from '../../../src/domain/users/commands.ts';
import { anonymously, freshEmail, openStage, PASSWORD, query, type Stage } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage({ REGISTRATION_CONFLICT: 'conceal' });
});
afterAll(() => stage.close());

describe('with concealed conflicts', () => {
  const register = (email: string) =>
    stage.ask('/auth/register', {
      json: { email, password: PASSWORD, full_name: 'Ada Lovelace', terms_accepted: true },
    });

  test('a free and a taken address are answered alike, in the operation too, and the owner is mailed', async () => {
    const email = freshEmail();
    const first = await register(email);
    const second = await register(email);
    expect(first).toMatchObject({ status: 202, body: { data: { email } } });
    expect(second).toMatchObject({ status: 202, body: { data: { email } } });
    expect(Object.keys(second.body.data)).toEqual(Object.keys(first.body.data));
    const operations = await query(
      stage,
      sql<object>`select type, status, result, http_status, error, attempts from operations order by created_at desc limit 2`,
    );
    expect(operations[0]).toEqual(operations[1]);
    expect(operations[0]).toMatchObject({ status: 'succeeded', result: { email }, http_status: 202 });
    expect((await stage.mails(email)).map(({ template }) => template)).toEqual(['already-registered', 'verify-email']);
  });

  test('the owner is mailed at most ten times in ten minutes', async () => {
    const { email } = await stage.user();
    await Promise.all(Array.from({ length: 3 }, () => register(email)));
    for (let i = 0; i < 10; i += 1) expect((await register(email)).status).toBe(202);
    expect((await stage.mails(email)).length).toBe(10);
  });
});

test('a password that cannot be opened any more ends in the dead letters with the reason', async () => {
  const { keyring, messaging } = stage.harness;
  const email = freshEmail();
  const operationId = new OperationIds(keyring.for('operation-id').current().key).issue();
  const sealed = await keyring.seal('command', PASSWORD, { expiresIn: -1 });
  const { operation } = await messaging.commands.send(
    registerUserCommand,
    { user_id: newId(), email, password: sealed, full_name: 'X', terms_accepted: true },
    { ...anonymously(), correlationId: operationId },
    { operationId, waitMs: 10_000 },
  );
  expect(operation).toMatchObject({ status: 'failed', error: { message: expect.stringContaining('expired') } });
  expect(await stage.mails(email)).toEqual([]);
});

describe('the first administrator', () => {
  const ensure = (email: string, password = PASSWORD) =>
    ensureAdmin(
      { em: stage.em(), transact: stage.harness.messaging.transact, passwords: stage.identity.passwords },
      { email, password },
    );

  test('is made once, verified and active, also by two processes at once', async () => {
    const email = freshEmail();
    const made = await Promise.all([ensure(email), ensure(email), ensure(email)]);
    expect(made.filter(({ created }) => created)).toHaveLength(1);
    expect(made[0]?.user).toMatchObject({ role: 'admin', is_verified: true, is_active: true });
    expect(new Set(made.map(({ user }) => user.user_id)).size).toBe(1);
    expect((await stage.signIn(email)).status).toBe(200);
  });

  test('keeps an account that is there as it is', async () => {
    const { email } = await stage.user();
    expect(await ensure(email, 'a louder harbour at dusk')).toMatchObject({ created: false, user: { role: 'user' } });
    expect((await stage.signIn(email)).status).toBe(200);
  });
});
