import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { verify } from '../../../src/domain/audit/index.ts';
import { recordDeadLetter } from '../../../src/domain/dead-letters/dead-letters.ts';
import { newId } from '../../../src/domain/ids.ts';
import { applyCallback, storeCallback } from '../../../src/domain/kyc/callbacks.ts';
import { decideKyc } from '../../../src/domain/kyc/decide.ts';
import { PROVIDERS } from '../../../src/domain/kyc/providers.ts';
import { submitKyc } from '../../../src/domain/kyc/submit.ts';
import { eraseDue } from '../../../src/domain/users/erasure.ts';
import { createInbox } from '../../../src/services/inbox.ts';
import { eventually } from '../../harness.ts';
import { day } from '../kyc/stage.ts';
import { anonymously, freshEmail, openStage, PASSWORD, query, type Stage } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage({}, { whole: true });
});
afterAll(() => stage.close());

const NAME = 'Philomena Quackenbush';
const DOCUMENT = 'ZK-7781-QUACK';
const PROGRAM = 'Quackbrowser/7.1';
const ECHO = 'quackecho-5521';
const GRACE_DAYS = 30;

const inbox = () => createInbox(stage.harness.messaging.patientRedis, stage.harness.config.namespace);
const erase = () =>
  eraseDue(
    {
      em: stage.em(),
      transact: stage.harness.messaging.transact,
      keyring: stage.harness.keyring,
      graceDays: GRACE_DAYS,
      inbox: inbox(),
    },
    10,
  );
const settled = () =>
  eventually(
    async () => (await query(stage, sql`select 1 from outbox where set_aside_at is null limit 1`)).length === 0,
    'everything is published',
  );
const backdate = (id: string) =>
  query(stage, sql`update users set deleted_at = now() - interval '31 days' where id = ${id}`);

/** Which of the words the database holds, in text or as the hexadecimal of a dump's bytes. */
async function found(words: string[]): Promise<string[]> {
  const { stdout } = await promisify(execFile)('pg_dump', ['--data-only', stage.harness.config.databaseUrl], {
    maxBuffer: 256 * 1024 * 1024,
  });
  const dump = stdout.toLowerCase();
  return words.filter((word) => {
    const plain = word.toLowerCase();
    const bytes = [word, plain].map((text) => Buffer.from(text).toString('hex'));
    return dump.includes(plain) || bytes.some((hex) => dump.includes(hex));
  });
}

/** Which of the words stand in a key or a value of this namespace in Redis: jobs, limits, presence, the inbox. */
async function foundInRedis(words: string[]): Promise<string[]> {
  const { redis } = stage.harness.messaging;
  const texts: string[] = [];
  for (const key of await redis.keys(`${stage.harness.config.namespace}:*`)) {
    texts.push(key);
    switch (await redis.type(key)) {
      case 'string':
        texts.push((await redis.get(key)) ?? '');
        break;
      case 'hash':
        texts.push(JSON.stringify(await redis.hgetall(key)));
        break;
      case 'list':
        texts.push(...(await redis.lrange(key, 0, -1)));
        break;
      case 'set':
        texts.push(...(await redis.smembers(key)));
        break;
      case 'zset':
        texts.push(...(await redis.zrange(key, '0', '-1')));
        break;
      case 'stream':
        texts.push(JSON.stringify(await redis.xrange(key, '-', '+')));
    }
  }
  const all = texts.join('\n').toLowerCase();
  return words.filter((word) => all.includes(word.toLowerCase()));
}

/** A subscriber that was told of the person, and answered with what it was told. */
async function subscriberHeard(id: string) {
  const [delivery, endpoint] = [newId(), newId()];
  await eventually(
    async () => (await query(stage, sql`select 1 from events where subject = ${id} and type = 'user.created'`)).length,
    'the event is stored',
  );
  await query(
    stage,
    sql`insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, delivered_at)
      select ${delivery}, tenant, ${endpoint}, id, type, 'delivered', now() from events
      where subject = ${id} and type = 'user.created'`,
  );
  await query(
    stage,
    sql`insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms, status_code, response_body)
      values (${newId()}, ${delivery}, 1, now(), 5, 200, ${`hello ${NAME}, ${ECHO}`})`,
  );
}

/** Somebody who used everything there is, and then deleted the account. */
async function livedAndDeleted() {
  const { transact } = stage.harness.messaging;
  const { keyring } = stage.harness;
  const [old, email] = [freshEmail(), freshEmail()];
  const headers = { 'user-agent': PROGRAM };
  const avatar = `https://cdn.example/${newId()}.png`;
  const json = { email: old, password: PASSWORD, full_name: NAME, terms_accepted: true };
  const registered = await stage.ask('/auth/register', { json, headers: { 'idempotency-key': `signup ${old}` } });
  const id: string = registered.body.data.user_id;
  await stage.ask('/auth/verify-email', { json: { token: (await stage.mails(old))[0]?.token } });
  const token = (await stage.ask('/auth/login', { json: { email: old, password: PASSWORD }, headers })).body.data
    .access_token;
  await stage.ask('/auth/login', { json: { email: old, password: 'wrong' }, headers });
  await stage.ask('/users/me', { method: 'PUT', json: { avatar_url: avatar }, token });
  await stage.ask('/auth/change-email', { json: { email, password: PASSWORD }, token });
  await stage.ask('/auth/confirm-email', { json: { token: (await stage.mails(email))[0]?.token } });
  await stage.ask('/auth/forgot-password', { json: { email: email.toUpperCase() } });

  const as = { ...anonymously(), actor: { type: 'user', id } as const };
  const submission = {
    date_of_birth: '1987-04-12',
    country: 'PT',
    document: { type: 'passport', number: DOCUMENT, expires_on: day(900) },
  } as const;
  const attempt = await transact(as, (unit) =>
    submitKyc(unit, { userId: id, submission }, { keyring, provider: PROVIDERS.webhook }),
  );
  const callback = {
    event_id: newId(),
    attempt_id: attempt.id,
    status: 'in_review',
    occurred_at: new Date().toISOString(),
    reason: `looked at ${NAME}`,
  };
  const stored = await storeCallback(stage.em(), 'webhook', Buffer.from(JSON.stringify(callback)), keyring);
  await transact(anonymously(), (unit) => applyCallback(unit, stored.id, keyring));
  const reviewer = await stage.admin();
  const decision = { user_id: id, status: 'awaiting_input', reason: `${NAME}: not legible`, comment: NAME } as const;
  await transact({ ...anonymously(), actor: { type: 'user', id: reviewer.id } }, (unit) =>
    decideKyc(unit, decision, keyring),
  );

  await subscriberHeard(id);
  await inbox().send(
    { to: email, from: 'a@b.example', subject: 'Hello', text: NAME, html: NAME, messageId: '<x@y>', headers: {} },
    AbortSignal.timeout(5000),
  );
  await recordDeadLetter(stage.em(), {
    id: newId(),
    queue: 'commands',
    worker: 'register-user',
    messageType: 'user.register',
    messageId: newId(),
    correlationId: null,
    reason: 'gave up',
    attempts: 5,
    firstError: `no mail to ${email}`,
    lastError: null,
    body: Buffer.from(JSON.stringify({ data: { email: email.toUpperCase(), full_name: NAME } })),
    headers: { about: email },
  });
  await query(
    stage,
    sql`insert into outbox (transport, target, routing_key, message_id, body, set_aside_at, error)
      values ('rabbitmq', 'events', 'user.created', ${newId()}, ${JSON.stringify({ email })}, now(), 'refused')`,
  );
  await query(
    stage,
    sql`update operations set error = ${JSON.stringify({ code: 'CONFLICT', message: `${email} is taken` })}::jsonb
      where result ->> 'email' = ${email.toUpperCase()}`,
  );
  const again = (await stage.signIn(email)).body.data.access_token;
  const { body: exported } = await stage.ask('/users/me/export', { token: again });
  expect((await stage.ask('/users/me', { method: 'DELETE', token: again })).status).toBe(200);
  await settled();
  return { id, old, email, avatar, exported: exported.data, attemptId: attempt.id };
}

test('nothing of an erased person is left in a dump or in Redis, and the audit log still verifies', async () => {
  const { id, old, email, avatar, attemptId } = await livedAndDeleted();
  const audited = (action: string) =>
    query(stage, sql`select 1 from audit_events where action = ${action} and subject = ${id}`);
  await eventually(async () => (await audited('user.deleted')).length > 0, 'the deletion is in the audit log');
  await eventually(
    async () => (await query(stage, sql`select 1 from events where subject = ${id} and type = 'user.deleted'`)).length,
    'the events are stored',
  );
  const words = [old, email, NAME, avatar, DOCUMENT, PROGRAM, ECHO];
  // What was encrypted all along cannot be seen; all the rest can, or this test would prove nothing.
  expect(await found(words)).toEqual([old, email, NAME, avatar, PROGRAM, ECHO]);
  expect(await foundInRedis(words)).toEqual([email, NAME]);
  expect(await inbox().list()).toHaveLength(1);

  expect(await erase()).toEqual({ erased: 0, postponed: 0 });
  await backdate(id);
  expect(await erase()).toEqual({ erased: 1, postponed: 0 });
  await eventually(async () => (await audited('user.erased')).length > 0, 'the erasure is in the audit log');
  await eventually(
    async () => (await query(stage, sql`select 1 from events where subject = ${id} and type = 'user.erased'`)).length,
    'the erasure is told of',
  );
  expect(await found(words)).toEqual([]);
  expect(await inbox().list()).toEqual([]);
  expect(await foundInRedis(words)).toEqual([]);
  const [kyc] = await query(
    stage,
    sql<{ status: string; sealed: boolean; callbacks: number }>`
      select status, sealed_document is not null as sealed,
        (select max(length(sealed_body)) from kyc_callbacks where attempt_id = ${attemptId}) as callbacks
      from kyc_attempts where id = ${attemptId}`,
  );
  expect(kyc).toEqual({ status: 'cancelled', sealed: false, callbacks: 0 });
  const [rows] = await query(
    stage,
    sql<object>`
      select (select count(*)::int from sessions where user_id = ${id}) as sessions,
        (select count(*)::int from user_tokens where user_id = ${id}) as tokens,
        (select count(*)::int from emails where user_id = ${id} and sealed_data is not null) as mails,
        (select wrapped is null from audit_subject_keys where subject = ${id}) as key_destroyed`,
  );
  expect(rows).toEqual({ sessions: 0, tokens: 0, mails: 0, key_destroyed: true });
  const checked = await verify(stage.em(), { keys: stage.harness.keyring.for('audit') });
  expect(checked).toMatchObject({ intact: true });

  // Once only; and a message that was under way meanwhile is looked for again.
  expect(await erase()).toEqual({ erased: 0, postponed: 0 });
  await query(
    stage,
    sql`insert into events (id, type, source, subject, payload, time) values (${newId()}, 'user.created', 'waybill', ${id},
      ${JSON.stringify({ type: 'user.created', timestamp: new Date(), data: { user_id: id, email, full_name: NAME } })}, now())`,
  );
  await recordDeadLetter(stage.em(), {
    id: newId(),
    queue: 'events',
    worker: null,
    messageType: null,
    messageId: null,
    correlationId: null,
    reason: 'late',
    attempts: 1,
    firstError: null,
    lastError: null,
    body: Buffer.from(JSON.stringify({ user_id: id, full_name: NAME })),
    headers: {},
  });
  expect(await found(words)).toEqual([email, NAME]);
  await erase();
  expect(await found(words)).toEqual([]);
});

test('an erased account cannot be restored, and whoever has its address now keeps everything', async () => {
  const admin = await stage.admin();
  const { id, email } = await livedAndDeleted();
  const heir = { email, password: PASSWORD, full_name: 'Another Quill', terms_accepted: true };
  const registered = await stage.ask('/auth/register', { json: heir });
  expect(registered.status).toBe(201);
  const restore = () => stage.ask(`/admin/users/${id}/restore`, { method: 'POST', token: admin.token });
  expect(await restore()).toMatchObject({ status: 409, body: { error: { field: 'email' } } });
  await settled();
  await backdate(id);
  expect(await erase()).toEqual({ erased: 1, postponed: 0 });
  expect((await restore()).status).toBe(404);
  const [mail] = await stage.mails(email);
  expect((await stage.ask('/auth/verify-email', { json: { token: mail?.token } })).status).toBe(200);
  const token = (await stage.signIn(email)).body.data.access_token;
  expect((await stage.ask('/users/me', { token })).body.data).toMatchObject({ email, full_name: 'Another Quill' });
  const [operation] = await query(
    stage,
    sql<{ result: object }>`select result from operations where result ->> 'user_id' = ${registered.body.data.user_id}`,
  );
  expect(operation?.result).toMatchObject({ email });
});

test('an export has what is stored, and no secret', async () => {
  const { id, old, email, exported } = await livedAndDeleted();
  expect(exported.profile).toMatchObject({
    user_id: id,
    email,
    full_name: NAME,
    terms_accepted_at: expect.any(String),
  });
  expect(exported.sessions).toHaveLength(2);
  expect(exported.sessions).toContainEqual(expect.objectContaining({ user_agent: PROGRAM, revoked_reason: null }));
  expect(exported.emails.map(({ to }: { to: string }) => to)).toEqual(expect.arrayContaining([old, email]));
  expect(exported.links.map(({ purpose }: { purpose: string }) => purpose)).toEqual(
    expect.arrayContaining(['verify-email', 'change-email', 'reset-password']),
  );
  expect(exported.kyc[0]).toMatchObject({ status: 'awaiting_input', country: 'PT', reason: `${NAME}: not legible` });
  expect(exported.kyc[0].transitions.length).toBeGreaterThan(2);
  expect(exported.truncated).toEqual([]);
  const text = JSON.stringify(exported);
  for (const secret of ['password_hash', 'argon2', 'hash', 'sealed', 'comment', DOCUMENT]) {
    expect(text.includes(secret)).toBe(false);
  }
});

test('an export is a download of the one who asks, with the audit log about them', async () => {
  const user = await stage.user();
  const admin = await stage.admin();
  const { body } = await stage.signIn(user.email);
  const token = body.data.access_token;
  await stage.ask(`/admin/users/${user.id}/sessions`, { method: 'DELETE', token: admin.token });
  expect((await stage.ask('/users/me/export', { token })).status).toBe(401);
  const again = (await stage.signIn(user.email)).body.data.access_token;
  await settled();
  const answer = await eventually(async () => {
    const got = await stage.ask('/users/me/export', { token: again });
    const actions = got.body.data.audit.map(({ action }: { action: string }) => action);
    return actions.includes('session.revoked') && actions.includes('session.created') ? got : undefined;
  }, 'the audit rows are written');
  expect(answer.headers.get('content-disposition')).toMatch(/^attachment; filename="waybill-export-[\d-]+\.json"$/);
  const others = JSON.stringify(answer.body.data).includes(admin.email);
  expect(others).toBe(false);
  expect((await stage.ask('/users/me/export')).status).toBe(401);
});
