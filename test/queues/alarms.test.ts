import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import type { Alarm } from '../../src/domain/messages/emit.ts';
import { createHarness, type Harness } from '../harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await createHarness();
});
afterAll(() => harness?.close());

test('an alarm that a wrong clock has set too late rings when its row is found to be overdue', async () => {
  const { alarms } = harness.messaging;
  const alarm: Alarm = { queue: 'webhooks', id: newId(), attempt: 1, generation: 0, at: Date.now() + 3_600_000 };
  await alarms.set([alarm]);
  const overdue = { ...alarm, at: Date.now() - 40_000 };
  await alarms.set([overdue]);
  expect(await alarms.counts('webhooks')).toMatchObject({ waiting: 0, delayed: 1 }); // the same job, so it stays as it is

  const lost: Alarm = { ...overdue, id: newId() };
  await alarms.ringNow([overdue, lost]);
  expect(await alarms.counts('webhooks')).toMatchObject({ waiting: 2, delayed: 0 });
});
