import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { submission } from '../../domain/kyc/stage.ts';
import { type KycBench, openKycBench, type Person } from './kyc-bench.ts';

let bench: KycBench;
let admin: Person;
let ada: Person;
let bob: Person;
let user: Person;
let id: string;

beforeAll(async () => {
  bench = await openKycBench();
  admin = await bench.person('admin');
  ada = await bench.person('reviewer');
  bob = await bench.person('reviewer');
});
afterAll(() => bench.harness.close());
beforeEach(async () => {
  user = await bench.person();
  id = (await user.call('PATCH', '/users/me/kyc', submission())).body.data.id;
});

const claim = (by: Person, body?: unknown, of = id) => by.call('POST', `/admin/kyc/${of}/claim`, body);
const release = (by: Person, of = id) => by.call('DELETE', `/admin/kyc/${of}/claim`);
const decide = (by: Person, body: unknown = { status: 'approved' }) =>
  by.call('PUT', `/admin/users/${user.id}/kyc`, body);
const lapse = () =>
  bench.rows(sql`update kyc_attempts set claimed_until = now() - interval '1 second' where id = ${id}`);
const minutesLeft = (until: string) => (Date.parse(until) - Date.now()) / 60_000;
const noted = async () => {
  const rows = await bench.rows(sql<{ body: string }>`
    select body from outbox where target = 'audit' and body like ${`%kyc_attempt%${id}%`} and body like '%kyc.claim%' order by id`);
  return rows.map(({ body }) => JSON.parse(body).data);
};

/** Every line of the queue under a filter. */
async function queue(by: Person, query: string): Promise<{ id: string; claimed_by: string | null }[]> {
  const found = [];
  let cursor = '';
  do {
    const { status, body } = await by.call('GET', `/admin/kyc?limit=2&${query}${cursor && `&cursor=${cursor}`}`);
    expect(status).toBe(200);
    found.push(...body.data);
    cursor = body.pagination.next_cursor ?? '';
  } while (cursor);
  return found;
}

test('a claim shows who holds the check and until when, to reviewers alone', async () => {
  const { status, body } = await claim(ada);
  expect(status).toBe(200);
  expect(body.data).toMatchObject({ id, user_id: user.id, status: 'in_review', claimed_by: ada.id });
  expect(minutesLeft(body.data.claimed_until)).toBeGreaterThan(10);
  expect(minutesLeft(body.data.claimed_until)).toBeLessThan(16);
  const history = (await bob.call('GET', `/admin/users/${user.id}/kyc`)).body.data;
  expect(history.attempts[0]).toMatchObject({ claimed_by: ada.id, claimed_until: body.data.claimed_until });
  const own = (await user.call('GET', '/users/me/kyc')).body.data;
  expect(Object.keys(own).filter((name) => name.startsWith('claimed'))).toEqual([]);
});

test('its holder renews it, and nobody else gets it', async () => {
  const first = (await claim(ada, { minutes: 1 })).body.data.claimed_until;
  const { status, body } = await claim(bob);
  expect([status, body.error.code, body.error.details]).toEqual([
    409,
    'CONFLICT',
    { claimed_by: ada.id, claimed_until: first },
  ]);
  expect((await claim(admin)).status).toBe(409);
  const second = await claim(ada, { minutes: 120 });
  expect(second.status).toBe(200);
  expect(minutesLeft(second.body.data.claimed_until)).toBeGreaterThan(100);
  expect(await noted()).toMatchObject([
    { action: 'kyc.claimed', actor: { id: ada.id }, metadata: { minutes: 1, renewed: false } },
    { action: 'kyc.claimed', actor: { id: ada.id }, metadata: { minutes: 120, renewed: true } },
  ]);
});

test('of many claims at once one wins', async () => {
  const reviewers = await Promise.all(Array.from({ length: 6 }, () => bench.person('reviewer')));
  const answers = await Promise.all(reviewers.map((reviewer) => claim(reviewer)));
  expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 409, 409, 409, 409, 409]);
  const winner = answers.find(({ status }) => status === 200)?.body.data.claimed_by;
  for (const { status, body } of answers) {
    if (status === 409) expect(body.error.details.claimed_by).toBe(winner);
  }
});

describe('a decision', () => {
  test('is refused while another reviewer holds the check, and taken from the holder', async () => {
    const { claimed_until } = (await claim(ada)).body.data;
    for (const other of [bob, admin]) {
      const { status, body } = await decide(other);
      expect([status, body.error.details]).toEqual([409, { claimed_by: ada.id, claimed_until }]);
    }
    expect((await decide(ada)).body.data).toMatchObject({ status: 'approved' });
    const [attempt] = await bench.rows(sql`select claimed_by, claimed_until from kyc_attempts where id = ${id}`);
    expect(attempt).toEqual({ claimed_by: null, claimed_until: null });
  });

  test('is taken from anybody while nobody holds the check, and once the claim is over or given back', async () => {
    expect((await decide(bob)).status).toBe(200);
    for (const end of [lapse, () => release(ada)]) {
      user = await bench.person();
      id = (await user.call('PATCH', '/users/me/kyc', submission())).body.data.id;
      await claim(ada);
      await end();
      expect((await decide(bob)).status).toBe(200);
    }
  });

  test('ends the claim, so that what comes back is free', async () => {
    await claim(ada);
    expect((await decide(ada, { status: 'awaiting_input', reason: 'blurred' })).status).toBe(200);
    expect((await user.call('PATCH', '/users/me/kyc', submission())).body.data.id).toBe(id);
    expect((await claim(bob)).body.data).toMatchObject({ id, claimed_by: bob.id });
  });

  test('of the subject is not held back by a claim: cancelling', async () => {
    await claim(ada);
    expect((await user.call('DELETE', '/users/me/kyc')).body.data).toMatchObject({ status: 'cancelled' });
    expect((await claim(ada)).body.error).toMatchObject({ code: 'CONFLICT', details: { status: 'cancelled' } });
  });
});

test('a claim that is over is anybody’s, and is nobody’s in the queue', async () => {
  await claim(ada);
  await lapse();
  expect((await queue(bob, 'claimed_by=none')).find((line) => line.id === id)).toMatchObject({
    claimed_by: null,
    claimed_until: null,
  });
  expect((await claim(bob)).body.data).toMatchObject({ claimed_by: bob.id });
});

describe('giving back', () => {
  test('is for the holder and for admins, and no fault when there is nothing to give back', async () => {
    await claim(ada);
    expect((await release(bob)).body.error).toMatchObject({ code: 'CONFLICT', details: { claimed_by: ada.id } });
    expect((await release(ada)).body.data).toMatchObject({ id, claimed_by: null, claimed_until: null });
    expect((await release(ada)).status).toBe(200);
    await claim(bob);
    expect((await release(admin)).body.data.claimed_by).toBeNull();
    expect((await noted()).map(({ action, actor, metadata }) => [action, actor.id, metadata.holder])).toEqual([
      ['kyc.claimed', ada.id, undefined],
      ['kyc.claim_released', ada.id, ada.id],
      ['kyc.claimed', bob.id, undefined],
      ['kyc.claim_released', admin.id, bob.id],
    ]);
  });
});

test('the queue is filtered by who holds what, page by page', async () => {
  const mine = id;
  await claim(ada);
  const others = await bench.person();
  const theirs = (await others.call('PATCH', '/users/me/kyc', submission())).body.data.id;
  await claim(bob, {}, theirs);
  const third = await bench.person();
  const free = (await third.call('PATCH', '/users/me/kyc', submission())).body.data.id;
  const which = async (query: string) => {
    const found = (await queue(ada, query)).map((line) => line.id);
    return [mine, theirs, free].map((one) => found.includes(one));
  };
  expect(await which('claimed_by=me')).toEqual([true, false, false]);
  expect(await which('claimed_by=any')).toEqual([true, true, false]);
  expect(await which('claimed_by=none')).toEqual([false, false, true]);
  expect(await which(`claimed_by=${bob.id.toUpperCase()}`)).toEqual([false, true, false]);
  expect(await which('status=approved&claimed_by=me')).toEqual([false, false, false]);
  expect(await which('')).toEqual([true, true, true]);
});

test('who may, and on what', async () => {
  for (const role of ['user', 'operator'] as const) {
    const person = await bench.person(role);
    for (const answer of [await claim(person), await release(person)]) expect(answer.status).toBe(403);
  }
  const self = await bench.person('reviewer');
  const own = (await self.call('PATCH', '/users/me/kyc', submission())).body.data.id;
  expect(await claim(self, undefined, own)).toMatchObject({ status: 403, body: { error: { code: 'FORBIDDEN' } } });
  for (const act of [claim(ada, undefined, newId()), release(ada, newId())])
    expect(await act).toMatchObject({ status: 404, body: { error: { code: 'NOT_FOUND' } } });
  await decide(ada);
  expect(await claim(ada)).toMatchObject({ status: 409, body: { error: { details: { status: 'approved' } } } });
});

test.each<[string, string, unknown]>([
  ['no time', 'minutes', { minutes: 0 }],
  ['too long a time', 'minutes', { minutes: 121 }],
  ['half a minute', 'minutes', { minutes: 1.5 }],
  ['a time that is a text', 'minutes', { minutes: '15' }],
  ['an unknown field', 'until', { until: 'tomorrow' }],
])('bad input: %s', async (_, field, body) => {
  expect(await claim(ada, body)).toMatchObject({
    status: 400,
    body: { error: { code: 'VALIDATION_ERROR', field } },
  });
  expect((await ada.call('GET', '/admin/kyc?claimed_by=everybody')).body.error).toMatchObject({ field: 'claimed_by' });
  expect(await claim(ada, undefined, '7')).toMatchObject({ status: 400, body: { error: { field: 'id' } } });
});
