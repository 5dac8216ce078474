import { expect, it } from 'vitest';
import { opened } from '../../src/queues/deadline.ts';
import { eventually } from '../harness.ts';

it('gives up on a channel that is not opened in time, and closes the one that comes too late', async () => {
  const opening = Promise.withResolvers<string>();
  const closed: string[] = [];
  await expect(opened(opening.promise, (late) => closed.push(late), 20)).rejects.toThrow(
    'opening a channel took longer',
  );
  expect(closed).toEqual([]);
  opening.resolve('late');
  await eventually(() => closed.length > 0, 'it is closed');
  expect(await opened(Promise.resolve('in time'), (late) => closed.push(late), 20_000)).toBe('in time');
  expect(closed).toEqual(['late']);
  const fails = opened(Promise.reject(new Error('no')), (late) => closed.push(late), 20_000);
  await expect(fails).rejects.toThrow('no');
});
