import { afterAll, beforeAll, expect, it } from 'vitest';
import { z } from 'zod';
import { newId } from '../../src/domain/ids.ts';
import { event } from '../../src/domain/messages/contracts.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { Backlog } from '../../src/queues/backlog.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

let h: Harness;
beforeAll(async () => {
  h = await createHarness();
});
afterAll(() => h.close());

it('counts events that keep an order with those that do not', async () => {
  const backlog = new Backlog(h.messaging);
  const moved = event('test.moved', z.object({}));
  const context = { requestId: 'r', correlationId: 'c', actor: SYSTEM };
  expect((await backlog.look(['fanout'])).get('fanout')).toBe(0);
  const before = backlog.emptyAt('fanout');
  expect(before).toBeDefined();
  await h.messaging.publishEvent(moved, {}, context, { id: newId(), tenant: 'default', orderingKey: 'one' });
  await eventually(async () => (await backlog.look(['fanout'])).get('fanout') === 1, 'the ordered one is counted');
  const seen = backlog.emptyAt('fanout');
  await h.messaging.publishEvent(moved, {}, context, { id: newId(), tenant: 'default' });
  await eventually(async () => (await backlog.look(['fanout'])).get('fanout') === 2, 'both are counted');
  expect(backlog.emptyAt('fanout')).toBe(seen);
});
