import { expect, test } from 'vitest';
import { compare, median, patience } from '../../bench/measure.ts';

test('the median of an even number of figures is the mean of the middle two', () => {
  expect(median([30, 10, 20])).toBe(20);
  expect(median([40, 10, 30, 20])).toBe(25);
});

test('sides are measured in turns, and every figure is the median of its runs', async () => {
  patience.leftMs = 0;
  const order: string[] = [];
  const side = (name: string, counts: number[]) => ({
    name,
    measure: async () => {
      order.push(name);
      return { count: counts.shift() ?? 0, seconds: 2 };
    },
  });
  const [slow, fast] = await compare(
    [side('waybill', [100, 900, 200]), side('slow', [40, 40, 40]), side('fast', [400, 400, 400])],
    3,
    () => undefined,
    { stage: { name: 'stage', unit: 'things/s' }, goals: { slow: 2, fast: 0.5 }, notes: ['a note'] },
  );
  expect(order).toEqual(['waybill', 'slow', 'fast', 'waybill', 'slow', 'fast', 'waybill', 'slow', 'fast']);
  expect(slow).toMatchObject({ stage: 'stage', beside: 'slow', rate: 100, baseline: 20, ratio: 5, goal: 2 });
  expect(fast).toMatchObject({ beside: 'fast', rate: 100, baseline: 200, ratio: 0.5, goal: 0.5, unit: 'things/s' });
  expect(fast?.notes).toContain('runs: 50 450 100 against 200 200 200');
});
