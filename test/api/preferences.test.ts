import { expect, it } from 'vitest';
import { preferencesOf } from '../../src/api/preferences.ts';

it.each([
  [undefined, false, undefined, []],
  ['', false, undefined, []],
  ['respond-async', true, undefined, ['respond-async']],
  ['Respond-Async; foo=bar', true, undefined, ['respond-async']],
  ['wait=10', false, 10_000, ['wait=10']],
  ['wait = "7"', false, 7000, ['wait=7']],
  ['wait=0', false, 0, ['wait=0']],
  ['wait=31', false, 30_000, ['wait=30']],
  ['respond-async, wait=3', true, 3000, ['respond-async', 'wait=3']],
  ['wait=3, wait=9', false, 3000, ['wait=3']],
  ['wait=-1', false, undefined, []],
  ['wait=soon', false, undefined, []],
  ['wait', false, undefined, []],
  ['return=minimal; x, handling="a"', false, undefined, []],
  [',,=,;', false, undefined, []],
])('reads Prefer: %j', (header, respondAsync, waitMs, applied) => {
  expect(preferencesOf(header)).toEqual({ respondAsync, waitMs, applied });
});
