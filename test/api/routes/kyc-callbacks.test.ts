import { createHmac, randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { submission } from '../../domain/kyc/stage.ts';
import { eventually } from '../../harness.ts';
import { type Answered, type KycBench, openKycBench, type Person } from './kyc-bench.ts';

const SECRET = 'a secret that the provider knows';
let bench: KycBench;
let reviewer: Person;
beforeAll(async () => {
  bench = await openKycBench({ KYC_PROVIDER: 'webhook', KYC_PROVIDER_SECRET: SECRET });
  reviewer = await bench.person('reviewer');
});
afterAll(() => bench.harness.close());

/** As a provider would sign, told from the contract: hex HMAC-SHA256 of "t.body". */
const sign = (body: string, secret = SECRET, t = Math.floor(Date.now() / 1000)) =>
  `t=${t},v1=${createHmac('sha256', secret).update(`${t}.${body}`).digest('hex')}`;

const callback = (attemptId: string, more: object = {}) => ({
  event_id: `evt_${randomUUID()}`,
  attempt_id: attemptId,
  status: 'approved',
  occurred_at: new Date().toISOString(),
  ...more,
});

const send = (body: unknown, signature?: string, path = '/kyc/providers/webhook/callbacks'): Promise<Answered> => {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return bench.request('POST', path, text, { 'x-provider-signature': signature ?? sign(text) });
};

/** What became of a callback, once it is handled. */
const outcome = (eventId: string) =>
  eventually(
    async () =>
      (
        await bench.rows(
          sql<{ outcome: string; detail: string | null }>`
            select outcome, detail from kyc_callbacks where event_id = ${eventId} and outcome <> 'received'`,
        )
      )[0],
    `${eventId} is handled`,
  );
const stored = async () =>
  Number((await bench.rows(sql<{ n: string }>`select count(*) as n from kyc_callbacks`))[0]?.n);

async function submitted(): Promise<{ user: Person; attemptId: string }> {
  const user = await bench.person();
  const { status, body } = await user.call('PATCH', '/users/me/kyc', submission());
  expect([status, body.data.status]).toEqual([200, 'processing']);
  return { user, attemptId: body.data.id };
}
const own = async (user: Person) => (await user.call('GET', '/users/me/kyc')).body.data;

test('a provider approves what was handed to it', async () => {
  const { user, attemptId } = await submitted();
  const event = callback(attemptId);
  expect(await send(event)).toMatchObject({
    status: 200,
    body: { data: { event_id: event.event_id, duplicate: false } },
  });
  expect((await outcome(event.event_id)).outcome).toBe('applied');
  expect(await own(user)).toMatchObject({ status: 'approved', kyc_status: 'verified' });
  const mails = await bench.rows(sql<{ template: string }>`select template from emails where user_id = ${user.id}`);
  expect(mails).toEqual([{ template: 'kyc-approved' }]);
});

test('the same event twice, also at once, moves the attempt once', async () => {
  const { user, attemptId } = await submitted();
  const event = callback(attemptId, { status: 'in_review' });
  const answers = await Promise.all([send(event), send(event), send(event)]);
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
  expect(answers.filter(({ body }) => !body.data.duplicate)).toHaveLength(1);
  expect((await outcome(event.event_id)).outcome).toBe('applied');
  const again = await send({ ...event, status: 'rejected' });
  expect(again).toMatchObject({ status: 200, body: { data: { duplicate: true } } });
  expect((await own(user)).status).toBe('in_review');
});

test('one that is older than what was applied is recorded and not applied', async () => {
  const { user, attemptId } = await submitted();
  const late = callback(attemptId, { status: 'approved', occurred_at: '2026-11-01T10:00:00Z' });
  const early = callback(attemptId, {
    status: 'rejected',
    reason: 'blurred',
    occurred_at: '2026-11-01T10:59:59+01:00',
  });
  await send(late);
  await outcome(late.event_id);
  expect((await send(early)).status).toBe(200);
  expect(await outcome(early.event_id)).toEqual({ outcome: 'stale', detail: null });
  expect((await own(user)).status).toBe('approved');
  const newest = callback(attemptId, { status: 'rejected', occurred_at: '2026-11-01T10:00:01Z' });
  await send(newest);
  expect((await outcome(newest.event_id)).outcome).toBe('applied');
  expect(await own(user)).toMatchObject({ status: 'rejected', reason: 'The provider gave no reason.' });
});

test('what is not the provider’s to move is recorded and refused', async () => {
  const { user, attemptId } = await submitted();
  const verdict = callback(attemptId, { status: 'rejected', reason: 'blurred' });
  await send(verdict);
  await outcome(verdict.event_id);

  const revived = callback(attemptId, { status: 'in_review' });
  await send(revived);
  expect(await outcome(revived.event_id)).toMatchObject({
    outcome: 'refused',
    detail: expect.stringContaining('from rejected to in_review'),
  });

  await reviewer.call('PUT', `/admin/users/${user.id}/kyc`, { status: 'in_review', reason: 'appeal' });
  const meddling = callback(attemptId);
  await send(meddling);
  expect(await outcome(meddling.event_id)).toMatchObject({
    outcome: 'refused',
    detail: expect.stringContaining('by a person'),
  });
  expect((await own(user)).status).toBe('in_review');

  const nobodys = callback(newId());
  await send(nobodys);
  expect((await outcome(nobodys.event_id)).outcome).toBe('refused');
});

test('the body is kept as it came, encrypted', async () => {
  const { attemptId } = await submitted();
  const event = callback(attemptId, { reason: 'a word that is found: haystack' });
  await send(event);
  const [row] = await bench.rows(
    sql<{ id: string; sealed_body: Buffer }>`
      select id, sealed_body from kyc_callbacks where event_id = ${event.event_id}`,
  );
  const sealed = row?.sealed_body as Buffer;
  expect(sealed.toString('latin1')).not.toContain('haystack');
  expect(bench.harness.keyring.decrypt('kyc', sealed, row?.id ?? '').toString()).toBe(JSON.stringify(event));
});

describe('a signature', () => {
  const now = Math.floor(Date.now() / 1000);
  const body = JSON.stringify(callback(newId()));
  test.each<[string, string]>([
    ['that is missing', ''],
    ['by another secret', sign(body, 'another secret')],
    ['of another body', sign(`${body} `)],
    ['of 301 s ago', sign(body, SECRET, now - 301)],
    ['of an hour ahead', sign(body, SECRET, now + 3600)],
    ['without a time', sign(body).replace(/t=\d+,/, '')],
    ['with another time', sign(body).replace(/t=\d+/, `t=${now - 1}`)],
    ['cut short', sign(body).slice(0, -2)],
    ['in the place of another scheme', sign(body).replace('v1=', 'v0=')],
    ['that is noise', '💥'.repeat(20).replaceAll('💥', '%')],
  ])('%s is a 401 and nothing is stored', async (_, signature) => {
    const before = await stored();
    expect(await send(body, signature)).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHORIZED' } } });
    expect(await stored()).toBe(before);
  });

  test('of 290 s ago, or beside one by a retired secret, is fine', async () => {
    const [, retired] = sign(body, 'retired').split(',');
    const [t, v1] = sign(body, SECRET, Math.floor(Date.now() / 1000) - 290).split(',');
    expect((await send(body, `${t},${retired},${v1}`)).status).toBe(200);
  });
});

describe('bad input, well signed', () => {
  test.each<[string, string | undefined, unknown]>([
    ['no event id', 'event_id', callback(newId(), { event_id: undefined })],
    ['an endless event id', 'event_id', callback(newId(), { event_id: 'x'.repeat(129) })],
    ['an attempt that is no id', 'attempt_id', callback('42')],
    ['a status that providers do not set', 'status', callback(newId(), { status: 'expired' })],
    ['a time that is none', 'occurred_at', callback(newId(), { occurred_at: 'yesterday' })],
    ['a reason that is a number', 'reason', callback(newId(), { reason: 7 })],
    ['an unknown field', 'score', callback(newId(), { score: 1 })],
    ['a list', undefined, []],
  ])('%s is a 400, and recorded', async (_, field, body) => {
    const before = await stored();
    const answer = await send(body);
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR' } } });
    expect(answer.body.error.field).toBe(field);
    expect(await stored()).toBe(before + 1);
  });

  test('broken JSON, a null byte, another content type, too large a body, another provider', async () => {
    expect((await send('{"event_id":')).status).toBe(400);
    expect((await send(callback(newId(), { reason: 'a\u0000b' }))).status).toBe(400);
    const body = JSON.stringify(callback(newId()));
    const plain = { 'x-provider-signature': sign(body), 'content-type': 'text/plain' };
    expect((await bench.request('POST', '/kyc/providers/webhook/callbacks', body, plain)).status).toBe(415);
    expect((await send(callback(newId(), { reason: 'x'.repeat(70_000) }))).status).toBe(413);
    expect((await send(body, undefined, '/kyc/providers/manual/callbacks')).status).toBe(404);
    expect((await send(body, undefined, '/kyc/providers/unknown/callbacks')).status).toBe(404);
  });
});
