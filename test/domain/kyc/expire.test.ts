import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { expireDueKyc } from '../../../src/domain/kyc/expire.ts';
import { findOwnKyc } from '../../../src/domain/kyc/queries.ts';
import { day, openStage, type Stage } from './stage.ts';

let stage: Stage;
let reviewer: string;
beforeAll(async () => {
  stage = await openStage();
  reviewer = await stage.user('reviewer');
});
afterAll(() => stage.close());

const tick = (limit = 100) => expireDueKyc(stage.em(), stage.transact, limit);
const approvedUntil = async (days: number) => {
  const userId = await stage.user();
  const { id } = await stage.submit(userId);
  await stage.decide(reviewer, { user_id: userId, status: 'approved' });
  await stage.query(sql`update kyc_attempts set expires_on = ${day(days)}::date where id = ${id}`);
  return { userId, id };
};
const eventsOf = async (userId: string) =>
  (await stage.emitted(userId)).filter(({ target, type }) => target === 'events' && /expir/.test(type));

test('an approval expires the day after its document does', async () => {
  const past = await approvedUntil(-1);
  const lastDay = await approvedUntil(0);
  await tick();
  expect(await findOwnKyc(stage.em(), past.userId)).toMatchObject({ status: 'expired', kyc_status: 'expired' });
  expect(await findOwnKyc(stage.em(), lastDay.userId)).toMatchObject({ status: 'approved', kyc_status: 'verified' });
  expect((await eventsOf(past.userId)).map(({ type, data }) => [type, data.kyc_status])).toEqual([
    ['kyc.expired', 'expired'],
  ]);
  const [row] = await stage.query(
    sql`select actor, from_status from kyc_transitions where attempt_id = ${past.id} and to_status = 'expired'`,
  );
  expect(row).toEqual({ actor: 'clock', from_status: 'approved' });
});

test('an approval that ends within 30 days is announced once', async () => {
  const soon = await approvedUntil(30);
  const later = await approvedUntil(31);
  await tick();
  await tick();
  const events = await eventsOf(soon.userId);
  expect(events).toHaveLength(1);
  expect(events[0]).toMatchObject({
    type: 'kyc.expiring',
    data: { attempt_id: soon.id, status: 'approved', kyc_status: 'verified', expires_on: day(30) },
  });
  const [user] = await stage.query(sql<{ version: number }>`select version from users where id = ${soon.userId}`);
  expect(events[0]?.sequence).toBe(user?.version);
  expect(await eventsOf(later.userId)).toEqual([]);
});

test('an approval with a newer one beside it ends without an announcement, and the user stays verified', async () => {
  const { userId, id } = await approvedUntil(10);
  await stage.submit(userId);
  await stage.decide(reviewer, { user_id: userId, status: 'approved' });
  await tick();
  expect(await eventsOf(userId)).toEqual([]);
  await stage.query(sql`update kyc_attempts set expires_on = ${day(-3)}::date where id = ${id}`);
  await tick();
  expect((await eventsOf(userId)).map(({ type, data }) => [type, data.attempt_id, data.kyc_status])).toEqual([
    ['kyc.expired', id, 'verified'],
  ]);
});

test('a request for input times out after 30 days', async () => {
  const ask = async (age: string) => {
    const userId = await stage.user();
    const { id } = await stage.submit(userId);
    await stage.decide(reviewer, { user_id: userId, status: 'awaiting_input', reason: 'blurred' });
    await stage.query(sql`update kyc_attempts set updated_at = now() - ${age}::interval where id = ${id}`);
    return userId;
  };
  const idle = await ask('30 days 1 minute');
  const waiting = await ask('29 days 23 hours');
  await tick();
  expect(await findOwnKyc(stage.em(), idle)).toMatchObject({ status: 'expired', kyc_status: 'expired' });
  expect(await findOwnKyc(stage.em(), waiting)).toMatchObject({ status: 'awaiting_input', kyc_status: 'pending' });
  expect(await stage.submit(idle)).toMatchObject({ status: 'in_review', kyc_status: 'pending' });
});

test('two clocks at once, in small pages, move each attempt once and leave the deleted alone', async () => {
  const due = [await approvedUntil(-1), await approvedUntil(-2), await approvedUntil(-3), await approvedUntil(-4)];
  const gone = await approvedUntil(-9);
  await stage.query(sql`update users set deleted_at = now() where id = ${gone.userId}`);
  let expired = 0;
  for (let round = 0; round < 4; round += 1) {
    const [one, two] = await Promise.all([tick(2), tick(2)]);
    expired += one.expired + two.expired;
  }
  expect(expired).toBe(4);
  for (const { userId } of due) expect(await eventsOf(userId)).toHaveLength(1);
  expect(await eventsOf(gone.userId)).toEqual([]);
});

test('one that cannot be moved holds up no other', async () => {
  const bad = await approvedUntil(-8);
  const good = await approvedUntil(-7);
  await stage.query(sql`
    alter table kyc_transitions add constraint spoiled check (to_status <> 'expired' or attempt_id <> ${sql.lit(bad.id)})`);
  try {
    await expect(tick()).rejects.toThrow('1 identity checks could not be expired');
  } finally {
    await stage.query(sql`alter table kyc_transitions drop constraint spoiled`);
  }
  expect((await findOwnKyc(stage.em(), good.userId))?.status).toBe('expired');
  expect((await findOwnKyc(stage.em(), bad.userId))?.status).toBe('approved');
  await tick();
  expect((await findOwnKyc(stage.em(), bad.userId))?.status).toBe('expired');
});
