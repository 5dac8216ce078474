import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { freshEmail, openStage, PASSWORD, query, type Stage } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

async function signedIn() {
  const user = await stage.user();
  return { ...user, token: (await stage.signIn(user.email)).body.data.access_token as string };
}
const change = (token: string | undefined, email: string, password = PASSWORD) =>
  stage.ask('/auth/change-email', { json: { email, password }, token });
const confirm = (token: string | undefined) => stage.ask('/auth/confirm-email', { json: { token } });
const templates = async (email: string) => (await stage.mails(email)).map(({ template }) => template);

test('the new address is confirmed, the old one told, and the other sessions end', async () => {
  const { id, email, token } = await signedIn();
  const elsewhere = (await stage.signIn(email)).body.data.access_token;
  await stage.ask('/auth/forgot-password', { json: { email } });
  const reset = (await stage.mails(email))[0]?.token;
  const next = freshEmail();
  expect(await change(token, next)).toMatchObject({ status: 202, body: { data: { email: next } } });
  expect(await templates(email)).toEqual(['email-change-requested', 'reset-password']);
  expect((await stage.ask('/users/me', { token })).body.data.email).toBe(email);
  const [mail] = await stage.mails(next);
  expect(mail?.link?.startsWith(`${stage.harness.config.publicUrl}/confirm-email?token=`)).toBe(true);

  for (const path of ['/auth/verify-email', '/auth/reset-password']) {
    const json = { token: mail?.token, ...(path.endsWith('password') ? { password: 'a louder harbour at dusk' } : {}) };
    expect((await stage.ask(path, { json })).status).toBe(400);
  }
  expect(await confirm(mail?.token)).toMatchObject({ status: 200, body: { data: { user_id: id, email: next } } });
  expect(await confirm(mail?.token)).toMatchObject({ status: 400, body: { error: { field: 'token' } } });
  expect((await stage.ask('/users/me', { token })).body.data.email).toBe(next);
  expect((await stage.ask('/users/me', { token: elsewhere })).status).toBe(401);
  expect((await stage.signIn(email)).status).toBe(401);
  expect((await stage.signIn(next)).status).toBe(200);
  expect((await templates(email))[0]).toBe('email-changed');
  // A link that was mailed to the old address is worth nothing any more.
  const stale = { token: reset, password: 'a louder harbour at dusk' };
  expect((await stage.ask('/auth/reset-password', { json: stale })).status).toBe(400);
  const emitted = await stage.emitted(id);
  expect(emitted.find(({ target, type }) => target === 'events' && type === 'user.email_changed')?.data).toMatchObject({
    user_id: id,
    email: next,
  });
  expect(
    emitted.find(({ target, type }) => target === 'audit' && type === 'user.email_changed')?.data.metadata,
  ).toEqual({ previous_email: email, email: next });
});

test('the answer does not tell whether somebody has the new address; its owner is mailed', async () => {
  const { email, token } = await signedIn();
  const owner = await stage.user();
  const free = freshEmail();
  const taken = await change(token, owner.email.toUpperCase());
  const open = await change(token, free);
  expect([taken.status, open.status]).toEqual([202, 202]);
  expect(Object.keys(taken.body.data)).toEqual(Object.keys(open.body.data));
  expect(taken.body.message).toBe(open.body.message);
  expect(await stage.mails(owner.email)).toMatchObject([{ template: 'email-in-use', token: undefined }]);
  expect(await templates(email)).toEqual(['email-change-requested', 'email-change-requested']);
});

test('an address that was taken meanwhile is a conflict, and the account stays as it was', async () => {
  const { email, token } = await signedIn();
  const next = freshEmail();
  await change(token, next);
  await stage.user(next.toUpperCase());
  const [mail] = (await stage.mails(next)).filter(({ template }) => template === 'change-email');
  expect(await confirm(mail?.token)).toMatchObject({
    status: 409,
    body: { error: { code: 'CONFLICT', field: 'email' } },
  });
  expect((await stage.ask('/users/me', { token })).body.data.email).toBe(email);
});

test('only the latest of several links counts, for an hour', async () => {
  const { id, token } = await signedIn();
  const [one, two] = [freshEmail(), freshEmail()];
  await change(token, one);
  await change(token, two);
  expect((await confirm((await stage.mails(one))[0]?.token)).status).toBe(400);
  const [row] = await query(
    stage,
    sql<{ hours: number }>`select extract(epoch from expires_at - created_at) / 3600 as hours from user_tokens
      where user_id = ${id} and used_at is null`,
  );
  expect(Number(row?.hours)).toBe(1);
  await query(stage, sql`update user_tokens set expires_at = now() where user_id = ${id}`);
  expect((await confirm((await stage.mails(two))[0]?.token)).status).toBe(400);
});

test('strangers, wrong passwords, bad addresses and the present one are refused', async () => {
  const { email, token } = await signedIn();
  expect((await change(undefined, freshEmail())).status).toBe(401);
  expect(await change(token, freshEmail(), 'wrong')).toMatchObject({
    status: 400,
    body: { error: { field: 'password' } },
  });
  for (const bad of ['nobody', '', `${'x'.repeat(300)}@example.com`, email.toUpperCase()]) {
    expect(await change(token, bad)).toMatchObject({ status: 400, body: { error: { field: 'email' } } });
  }
  for (let i = 0; i < 4; i += 1) await change(token, freshEmail(), 'wrong');
  expect((await change(token, freshEmail())).status).toBe(429);
});

test('no more than ten links in ten minutes leave an account', async () => {
  const { id, token } = await signedIn();
  for (let i = 0; i < 12; i += 1) expect((await change(token, freshEmail())).status).toBe(202);
  const [row] = await query(
    stage,
    sql<{ n: string }>`select count(*) as n from emails where user_id = ${id} and template = 'change-email'`,
  );
  expect(row?.n).toBe('10');
});

test('nor do more reach an address that nobody has, however many accounts ask', async () => {
  const target = freshEmail();
  for (let account = 0; account < 3; account += 1) {
    const { token } = await signedIn();
    for (let i = 0; i < 4; i += 1)
      expect((await change(token, i % 2 ? target : target.toUpperCase())).status).toBe(202);
  }
  expect(await stage.mails(target)).toHaveLength(10);
});
