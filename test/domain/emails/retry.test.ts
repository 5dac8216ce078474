import { expect, it } from 'vitest';
import { isPermanent, retryDelay } from '../../../src/domain/emails/retry.ts';

it('waits 10 s, 1 min, 10 min, 1 h, each within 10 %, and then gives up', () => {
  const middle = [1, 2, 3, 4, 5].map((n) => retryDelay(n, () => 0.5));
  expect(middle).toEqual([10_000, 60_000, 600_000, 3_600_000, undefined]);
  expect([retryDelay(1, () => 0), retryDelay(1, () => 1)]).toEqual([9000, 11_000]);
});

it('takes only a 5yz reply for permanent', () => {
  expect(['550 no such user', '554 5.7.1 no'].map(isPermanent)).toEqual([true, true]);
  expect(['450 busy', '421 closing', 'error 550', '5500', ''].map(isPermanent)).toEqual([
    false,
    false,
    false,
    false,
    false,
  ]);
});
