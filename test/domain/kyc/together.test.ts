import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { lockSubject } from '../../../src/domain/kyc/attempts.ts';
import { draftCancellation } from '../../../src/domain/kyc/cancel.ts';
import { PROVIDERS } from '../../../src/domain/kyc/providers.ts';
import { findCase } from '../../../src/domain/kyc/queries.ts';
import { draftSubmission } from '../../../src/domain/kyc/submit.ts';
import { requestTogether } from '../../../src/domain/kyc/together.ts';
import type { Emit } from '../../../src/domain/messages/emit.ts';
import { Refusal } from '../../../src/domain/problem.ts';
import { openStage, type Stage, submission } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

type Ask = [kind: 'submit' | 'cancel', userId: string];

/** All of it in one transaction, each as its own user: the emits share the outbox and differ in their context. */
const ask = (asks: Ask[]) =>
  stage.transact(stage.as(newId()), (unit) =>
    requestTogether(
      unit.em,
      asks.map(([kind, userId]) => {
        const emit = as(unit.emit, userId);
        return {
          userId,
          emit,
          draft: (standing) =>
            kind === 'cancel'
              ? draftCancellation(emit, standing)
              : draftSubmission(emit, standing, submission(), { keyring: stage.keyring, provider: PROVIDERS.manual }),
        };
      }),
    ),
  );

const as = (emit: Emit, userId: string): Emit => ({
  context: stage.as(userId),
  event: (...told) => emit.event(...told),
  audit: (record) => emit.audit({ ...record, actor: record.actor ?? { type: 'user', id: userId } }),
  alarm: (alarm) => emit.alarm(alarm),
});

/** What a case says without ids and times. */
const story = async (userId: string) =>
  (await findCase(stage.em(), userId))?.attempts.map(({ status, version, previous_id, country, transitions }) => ({
    status,
    version,
    linked: previous_id !== null,
    country,
    moves: transitions.map(({ from, to, actor }) => [from, to, actor.replace(userId, 'me')]),
  }));

test('what users ask for together comes to the same as one by one', async () => {
  const users = await Promise.all(Array.from({ length: 3 }, () => stage.user()));
  const alone = await stage.user();
  await stage.submit(alone);
  await stage.cancel(alone);
  await stage.submit(alone);
  for (const kind of ['submit', 'cancel', 'submit'] as const) await ask(users.map((userId): Ask => [kind, userId]));
  const expected = await story(alone);
  for (const userId of users) {
    expect(await story(userId)).toEqual(expected);
    const told = (await stage.emitted(userId)).map(({ target, type, sequence }) => ({ target, type, sequence }));
    const others = (await stage.emitted(alone)).map(({ target, type, sequence }) => ({ target, type, sequence }));
    expect(told).toEqual(others);
    const [user] = await stage.query(sql`select kyc_status, version from users where id = ${userId}`);
    expect(user).toEqual((await stage.query(sql`select kyc_status, version from users where id = ${alone}`))[0]);
  }
});

test('different moves go together, and one that is refused changes nothing', async () => {
  const [fresh, open, never] = [await stage.user(), await stage.user(), await stage.user()];
  await stage.submit(open);
  const answers = await ask([
    ['submit', fresh],
    ['cancel', never],
    ['cancel', open.toUpperCase()],
  ]);
  expect(answers[0]).toMatchObject({ status: 'in_review', kyc_status: 'pending' });
  expect(answers[1]).toBeInstanceOf(Refusal);
  expect(answers[2]).toMatchObject({ status: 'cancelled', kyc_status: 'unverified' });
  expect(await story(never)).toEqual([]);
  expect(await stage.emitted(never)).toEqual([]);
});

test('nobody waits for a user whom somebody else has locked, nor for one who does not exist', async () => {
  const [locked, free] = [await stage.user(), await stage.user()];
  const answers = await stage.transact(stage.as(locked), async (unit) => {
    await lockSubject(unit.em, locked);
    return ask([
      ['submit', locked],
      ['submit', free],
      ['submit', '019a9f3e-0000-7000-8000-000000000000'],
    ]);
  });
  expect(answers).toEqual([undefined, expect.objectContaining({ status: 'in_review' }), undefined]);
  expect(await story(locked)).toEqual([]);
});

test('an approval stands and is linked, however many cancelled checks came after it', async () => {
  const userId = await stage.user();
  const reviewer = await stage.user('reviewer');
  await stage.submit(userId);
  await stage.decide(reviewer, { user_id: userId, status: 'approved' });
  for (let n = 0; n < 3; n += 1) {
    const [renewed] = await ask([['submit', userId]]);
    expect(renewed).toMatchObject({ status: 'in_review', kyc_status: 'verified' });
    const [cancelled] = await ask([['cancel', userId]]);
    expect(cancelled).toMatchObject({ status: 'cancelled', kyc_status: 'verified' });
  }
  const attempts = (await findCase(stage.em(), userId))?.attempts ?? [];
  expect(attempts.map(({ status }) => status)).toEqual(['cancelled', 'cancelled', 'cancelled', 'approved']);
  expect(attempts.slice(0, 3).map(({ previous_id }) => previous_id)).toEqual(attempts.slice(1).map(({ id }) => id));
});
