import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { submitKycCommand } from '../../../src/domain/kyc/messages.ts';
import { findOperation } from '../../../src/domain/operations/operations.ts';
import { day, submission } from '../../domain/kyc/stage.ts';
import { eventually, type Harness } from '../../harness.ts';
import { type KycBench, openKycBench, type Person } from './kyc-bench.ts';

let harness: Harness;
let bench: KycBench;
let admin: Person;
let reviewer: Person;
beforeAll(async () => {
  bench = await openKycBench();
  harness = bench.harness;
  admin = await person('admin');
  reviewer = await person('reviewer');
});
afterAll(() => harness.close());

const person: KycBench['person'] = (role) => bench.person(role);
const request: KycBench['request'] = (...of) => bench.request(...of);
const rows: KycBench['rows'] = (query) => bench.rows(query);
const attempts = async () => (await rows(sql<{ n: string }>`select count(*) as n from kyc_attempts`))[0]?.n;
const submit = (user: Person, headers: Record<string, string> = {}) =>
  user.call('PATCH', '/users/me/kyc', submission(), headers);
const decide = (by: Person, about: Person, body: unknown, headers: Record<string, string> = {}) =>
  by.call('PUT', `/admin/users/${about.id}/kyc`, body, headers);

test('a check goes from nothing to approved, and everybody sees of it what is theirs', async () => {
  const user = await person();
  expect(await user.call('GET', '/users/me/kyc')).toMatchObject({
    status: 404,
    body: { error: { code: 'NOT_FOUND' } },
  });

  const submitted = await submit(user);
  expect(submitted.status).toBe(200);
  expect(submitted.body.data).toEqual({
    id: expect.any(String),
    status: 'in_review',
    kyc_status: 'pending',
    reason: null,
    provider: 'manual',
    country: 'PT',
    document_type: 'passport',
    expires_on: day(900),
    submitted_at: expect.any(String),
    decided_at: null,
    created_at: expect.any(String),
    updated_at: expect.any(String),
  });
  expect((await user.call('GET', '/users/me/kyc')).body.data).toEqual(submitted.body.data);

  const asked = await decide(reviewer, user, { status: 'awaiting_input', reason: 'blurred', comment: 'page 2' });
  expect(asked).toMatchObject({
    status: 200,
    body: { data: { status: 'awaiting_input', kyc_status: 'pending', reason: 'blurred' } },
  });
  expect((await user.call('GET', '/users/me/kyc')).body.data).not.toHaveProperty('comment');
  expect((await submit(user)).body.data).toMatchObject({ id: submitted.body.data.id, status: 'in_review' });
  expect((await decide(admin, user, { status: 'approved' })).body.data).toMatchObject({
    status: 'approved',
    kyc_status: 'verified',
  });

  const { status, body } = await reviewer.call('GET', `/admin/users/${user.id}/kyc`);
  expect(status).toBe(200);
  expect(body.data).toMatchObject({
    user_id: user.id,
    kyc_status: 'verified',
    attempts: [{ status: 'approved', user_id: user.id }],
  });
  expect(
    body.data.attempts[0].transitions.map((move: { to: string; comment: string | null }) => [move.to, move.comment]),
  ).toEqual([
    ['awaiting_input', null],
    ['processing', null],
    ['in_review', null],
    ['awaiting_input', 'page 2'],
    ['processing', null],
    ['in_review', null],
    ['approved', null],
  ]);
});

test('document data is in no message, log, operation or answer', async () => {
  const user = await person();
  const handedIn = { ...submission({ number: 'NEEDLE-8841' }), date_of_birth: '1971-07-19' };
  const { status, body } = await user.call('PATCH', '/users/me/kyc', handedIn, { 'idempotency-key': 'needle' });
  expect(status).toBe(200);
  const operations = await rows(sql<{ line: string }>`select t::text as line from operations t`);
  const outbox = await rows(sql<{ line: string }>`select t::text as line from outbox t`);
  const keys = await rows(sql<{ line: string }>`select t::text as line from idempotency_keys t`);
  const history = (await reviewer.call('GET', `/admin/users/${user.id}/kyc`)).body;
  const everything = [bench.published, harness.logged, operations, outbox, keys, body, history];
  expect(bench.published.some((message) => message.includes(user.id))).toBe(true);
  expect(JSON.stringify(everything)).not.toMatch(/NEEDLE|1971-07-19/);
});

test('cancelling', async () => {
  const user = await person();
  expect(await user.call('DELETE', '/users/me/kyc')).toMatchObject({ status: 404 });
  await submit(user);
  expect(await user.call('DELETE', '/users/me/kyc')).toMatchObject({
    status: 200,
    body: { data: { status: 'cancelled', kyc_status: 'unverified' } },
  });
  const again = await user.call('DELETE', '/users/me/kyc');
  expect(again).toMatchObject({
    status: 409,
    body: { error: { code: 'CONFLICT', details: { from: 'cancelled', to: 'cancelled' } } },
  });
});

test('what the table does not have is a 409 that names both states', async () => {
  const user = await person();
  await submit(user);
  expect(await submit(user)).toMatchObject({ status: 409, body: { error: { code: 'CONFLICT' } } });
  await decide(admin, user, { status: 'rejected', reason: 'forged' });
  const problem = await decide(admin, user, { status: 'approved' });
  expect(problem).toMatchObject({ status: 409, body: { error: { details: { from: 'rejected', to: 'approved' } } } });
  expect(problem.body.error.message).toContain('from rejected to approved');
});

test('of two decisions at once on one check one is done', async () => {
  for (const statuses of [
    ['approved', 'approved'],
    ['rejected', 'awaiting_input'],
  ] as const) {
    const user = await person();
    await submit(user);
    const [one, two] = await Promise.all([
      decide(admin, user, { status: statuses[0], reason: 'first' }),
      decide(reviewer, user, { status: statuses[1], reason: 'second' }),
    ]);
    expect([one.status, two.status].toSorted()).toEqual([200, 409]);
  }
});

test('a decision carries what its reviewer saw', async () => {
  const user = await person();
  const attemptId = (await submit(user)).body.data.id;
  await decide(admin, user, { status: 'approved' });
  const sent = bench.published.map((message) => JSON.parse(message)).findLast(({ type }) => type === 'kyc.decide');
  expect(sent.data).toEqual({ user_id: user.id, status: 'approved', attempt_id: attemptId, version: 3 });
});

test('who may', async () => {
  const user = await person();
  await submit(user);
  for (const [method, path] of [
    ['PATCH', '/users/me/kyc'],
    ['GET', '/users/me/kyc'],
    ['DELETE', '/users/me/kyc'],
    ['PUT', `/admin/users/${user.id}/kyc`],
    ['GET', `/admin/users/${user.id}/kyc`],
    ['GET', '/admin/kyc'],
  ] as const) {
    const body = method === 'PATCH' ? submission() : method === 'PUT' ? { status: 'approved' } : undefined;
    expect(await request(method, path, body)).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHORIZED' } } });
    if (!path.startsWith('/admin')) continue;
    for (const role of ['user', 'operator'] as const) {
      expect(await (await person(role)).call(method, path, body)).toMatchObject({
        status: 403,
        body: { error: { code: 'FORBIDDEN' } },
      });
    }
  }
  const self = await person('reviewer');
  await submit(self);
  expect(await decide(self, self, { status: 'approved' })).toMatchObject({
    status: 403,
    body: { error: { code: 'FORBIDDEN' } },
  });
  expect(await decide(admin, { ...user, id: newId() }, { status: 'approved' })).toMatchObject({ status: 404 });
  expect(await decide(admin, await person(), { status: 'approved' })).toMatchObject({ status: 404 });
  expect(await admin.call('GET', `/admin/users/${newId()}/kyc`)).toMatchObject({ status: 404 });
});

test('a repeat under one Idempotency-Key is one submission, another body is refused', async () => {
  const user = await person();
  const headers = { 'idempotency-key': 'passport-1' };
  const [one, two] = await Promise.all([submit(user, headers), submit(user, headers)]);
  expect([one.status, two.status]).toEqual([200, 200]);
  expect(two.body.data).toEqual(one.body.data);
  const other = await user.call('PATCH', '/users/me/kyc', submission({ number: 'OTHER-1' }), headers);
  expect(other).toMatchObject({ status: 422, body: { error: { code: 'IDEMPOTENCY_KEY_REUSED' } } });
});

test('respond-async answers at once, and the work is done all the same', async () => {
  const user = await person();
  const accepted = await submit(user, { prefer: 'respond-async' });
  expect(accepted).toMatchObject({ status: 202, body: { data: { type: 'kyc.submit', status: 'accepted' } } });
  expect(accepted.headers.get('location')).toBe(`/api/v1/operations/${accepted.body.data.operation_id}`);
  await eventually(async () => (await user.call('GET', '/users/me/kyc')).status === 200, 'the attempt is there');
});

test('the queue is paged, oldest first', async () => {
  const mine: string[] = [];
  for (let i = 0; i < 3; i += 1) {
    const user = await person();
    mine.push((await submit(user)).body.data.id);
  }
  const seen: { id: string; status: string }[] = [];
  let cursor = '';
  do {
    const { status, body } = await reviewer.call('GET', `/admin/kyc?limit=2${cursor && `&cursor=${cursor}`}`);
    expect(status).toBe(200);
    expect(body.data.length).toBeLessThanOrEqual(2);
    seen.push(...body.data);
    cursor = body.pagination.next_cursor ?? '';
    expect(body.pagination).toEqual({ limit: 2, has_more: cursor !== '', next_cursor: cursor || null });
  } while (cursor);
  expect(seen.every(({ status }) => status === 'in_review')).toBe(true);
  const ids = seen.map(({ id }) => id);
  expect(ids).toEqual(ids.toSorted());
  expect(ids.filter((id) => mine.includes(id))).toEqual(mine.toSorted());
  expect(new Set(ids).size).toBe(ids.length);
  const approved = await reviewer.call('GET', '/admin/kyc?status=approved&limit=100');
  expect(approved.body.data.every(({ status }: { status: string }) => status === 'approved')).toBe(true);
});

test('a submission whose seal has expired fails with that reason and lies in the dead letters', async () => {
  const user = await person();
  const operationId = bench.operationIds.issue();
  const context = { requestId: newId(), correlationId: operationId, actor: { type: 'user' as const, id: user.id } };
  const sealed = await harness.keyring.seal('command', JSON.stringify(submission()), { expiresIn: -5 });
  await harness.messaging.commands.send(submitKycCommand, { user_id: user.id, sealed }, context, {
    operationId,
    waitMs: 5000,
  });
  const operation = await eventually(
    () => findOperation(harness.database.em.fork(), operationId),
    'the operation ends',
  );
  expect(operation).toMatchObject({ status: 'failed', error: { message: expect.stringContaining('expired') } });
  expect(await user.call('GET', '/users/me/kyc')).toMatchObject({ status: 404 });
});

describe('bad input to PATCH /users/me/kyc', () => {
  const good = submission();
  const document = (change: object) => ({ ...good, document: { ...good.document, ...change } });
  test.each<[string, string | undefined, unknown]>([
    ['nothing in it', 'date_of_birth', {}],
    ['no country', 'country', { ...good, country: undefined }],
    ['no document', 'document', { ...good, document: undefined }],
    ['a document without a number', 'document.number', document({ number: undefined })],
    ['a date that is a number', 'date_of_birth', { ...good, date_of_birth: 19870412 }],
    ['a date that there is not', 'date_of_birth', { ...good, date_of_birth: '1987-02-30' }],
    ['a birth in the future', 'date_of_birth', { ...good, date_of_birth: day(1) }],
    ['a birth 131 years ago', 'date_of_birth', { ...good, date_of_birth: day(-131 * 365.25) }],
    ['a country that there is not', 'country', { ...good, country: 'XX' }],
    ['a country that is an object', 'country', { ...good, country: {} }],
    ['an unknown document', 'document.type', document({ type: 'library_card' })],
    ['a document that is a text', 'document', { ...good, document: 'passport' }],
    ['a short number', 'document.number', document({ number: 'A1' })],
    ['a very long number', 'document.number', document({ number: '9'.repeat(20_000) })],
    ['a number with a null byte', 'document.number', document({ number: 'AB\u0000123' })],
    [
      'a number with a lone surrogate',
      'document.number',
      JSON.stringify(document({ number: 'AB$123' })).replace('$', '\\ud800'),
    ],
    ['a document that has expired', 'document.expires_on', document({ expires_on: day(-1) })],
    ['an expiry that is no date', 'document.expires_on', document({ expires_on: 'никогда' })],
    ['an unknown field', 'selfie', { ...good, selfie: 'x' }],
    ['an unknown field inside', 'document.scan', document({ scan: 'x' })],
    ['a list', undefined, [good]],
    ['null', undefined, 'null'],
    ['broken JSON', undefined, '{"country":'],
  ])('%s', async (_, field, body) => {
    const user = await person();
    const before = await attempts();
    const answer = await user.call('PATCH', '/users/me/kyc', body);
    expect(answer).toMatchObject({ status: 400, body: { status: 'error', error: { code: 'VALIDATION_ERROR' } } });
    expect(answer.body.error.field).toBe(field);
    expect(await attempts()).toBe(before);
  });

  test('no body, another content type, too large a body', async () => {
    const user = await person();
    const before = await attempts();
    expect((await user.call('PATCH', '/users/me/kyc')).status).toBe(400);
    expect(await user.call('PATCH', '/users/me/kyc', 'country=PT', { 'content-type': 'text/plain' })).toMatchObject({
      status: 415,
      body: { error: { code: 'UNSUPPORTED_MEDIA_TYPE' } },
    });
    expect(await user.call('PATCH', '/users/me/kyc', document({ number: '9'.repeat(70_000) }))).toMatchObject({
      status: 413,
      body: { error: { code: 'PAYLOAD_TOO_LARGE' } },
    });
    expect(await attempts()).toBe(before);
  });

  test('a number that is not ASCII is fine', async () => {
    const user = await person();
    expect((await user.call('PATCH', '/users/me/kyc', document({ number: '旅券МП345' }))).status).toBe(200);
  });
});

describe('bad input to PUT /admin/users/{id}/kyc', () => {
  test.each<[string, string | undefined, unknown]>([
    ['nothing in it', 'status', {}],
    ['an unknown status', 'status', { status: 'verified' }],
    ['a status that is not for reviewers to set', 'status', { status: 'cancelled' }],
    ['a status that is a number', 'status', { status: 1 }],
    ['a refusal without a reason', 'reason', { status: 'rejected' }],
    ['a request for input without a reason', 'reason', { status: 'awaiting_input' }],
    ['an empty reason', 'reason', { status: 'rejected', reason: '  ' }],
    ['a reason that is a list', 'reason', { status: 'rejected', reason: ['forged'] }],
    ['a very long reason', 'reason', { status: 'rejected', reason: 'x'.repeat(501) }],
    ['a reason with a null byte', 'reason', { status: 'rejected', reason: 'x\u0000' }],
    ['a very long comment', 'comment', { status: 'approved', comment: 'x'.repeat(2001) }],
    ['an attempt that is no id', 'attempt_id', { status: 'approved', attempt_id: '42' }],
    ['an unknown field', 'note', { status: 'approved', note: 'x' }],
    ['a text', undefined, '"approved"'],
    ['broken JSON', undefined, '{'],
  ])('%s', async (_, field, body) => {
    const user = await person();
    await submit(user);
    const answer = await decide(admin, user, body);
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR' } } });
    expect(answer.body.error.field).toBe(field);
    expect((await user.call('GET', '/users/me/kyc')).body.data.status).toBe('in_review');
  });

  test('a case that was refused is taken up again only with a reason', async () => {
    const user = await person();
    await submit(user);
    await decide(admin, user, { status: 'rejected', reason: 'Beweis fehlt: größer, 缺少' });
    const problem = await decide(admin, user, { status: 'in_review' });
    expect(problem).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR', field: 'reason' } } });
    expect((await decide(admin, user, { status: 'in_review', reason: 'Einspruch' })).status).toBe(200);
  });

  test('an id that is none, another content type, too large a body', async () => {
    const bad = await admin.call('PUT', '/admin/users/42/kyc', { status: 'approved' });
    expect(bad).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR', field: 'id' } } });
    const user = await person();
    expect(
      (await decide(admin, user, 'status=approved', { 'content-type': 'application/x-www-form-urlencoded' })).status,
    ).toBe(415);
    expect((await decide(admin, user, { status: 'approved', comment: 'x'.repeat(70_000) })).status).toBe(413);
  });
});

test.each([
  ['/admin/kyc?status=open', 'status'],
  ['/admin/kyc?limit=0', 'limit'],
  ['/admin/kyc?limit=101', 'limit'],
  ['/admin/kyc?limit=ten', 'limit'],
  ['/admin/kyc?cursor=%F0%9F%93%A6', 'cursor'],
  [`/admin/kyc?cursor=${'x'.repeat(2000)}`, 'cursor'],
  ['/admin/kyc?cursor=abc%00', 'cursor'],
  ['/admin/users/no-id/kyc', 'id'],
])('GET %s is refused', async (path, field) => {
  expect(await admin.call('GET', path)).toMatchObject({
    status: 400,
    body: { error: { code: 'VALIDATION_ERROR', field } },
  });
});
