import { describe, expect, it } from 'vitest';
import { boundedDelay, classify, MAX_RETRY_AFTER_MS, nextDelay, retryAfterMs } from '../../src/webhooks/schedule.ts';

const HOUR = 3_600_000;

describe('nextDelay', () => {
  const schedule = [5_000, 300_000];

  it('spreads a delay by ten per cent either way', () => {
    expect(nextDelay(schedule, 1, () => 0)).toBe(4_500);
    expect(nextDelay(schedule, 1, () => 0.5)).toBe(5_000);
    expect(nextDelay(schedule, 1, () => 0.999_999)).toBe(5_500);
    expect(nextDelay(schedule, 2, () => 0)).toBe(270_000);
    const drawn = Array.from({ length: 200 }, () => nextDelay(schedule, 1) ?? 0);
    expect(Math.min(...drawn)).toBeGreaterThanOrEqual(4_500);
    expect(Math.max(...drawn)).toBeLessThanOrEqual(5_500);
    expect(new Set(drawn).size).toBeGreaterThan(20);
  });

  it('ends after n delays, which makes n + 1 attempts', () => {
    expect(nextDelay(schedule, 3)).toBeNull();
    expect(nextDelay(schedule, 99)).toBeNull();
  });

  it.each([0, -1, 1.5, Number.NaN])('has no attempt %d', (attempt) => {
    expect(() => nextDelay(schedule, attempt)).toThrow(RangeError);
  });
});

describe('retryAfterMs', () => {
  const now = Date.UTC(1994, 10, 6, 8, 48, 37);

  it.each([
    ['120', 120_000],
    [' 7 ', 7_000],
    ['0', 0],
    // The three forms of RFC 9110 5.6.7, one minute later than now.
    ['Sun, 06 Nov 1994 08:49:37 GMT', 60_000],
    ['Sunday, 06-Nov-94 08:49:37 GMT', 60_000],
    ['Sun Nov  6 08:49:37 1994', 60_000],
    ['Sun, 06 Nov 1994 08:00:00 GMT', 0],
  ])('reads %j', (header, expected) => {
    expect(retryAfterMs(header, now)).toBe(expected);
  });

  it.each([null, '', 'soon', '-5', '1.5', '12s', '2026-01-01T00:00:00Z', 'Sun, 06 Nov 1994 08:49:37 CET'])(
    'does not read %j',
    (header) => {
      expect(retryAfterMs(header, now)).toBeNull();
    },
  );
});

it('bounds what a Retry-After can do between the scheduled delay and 24 hours', () => {
  expect(boundedDelay(5_000, null)).toBe(5_000);
  expect(boundedDelay(5_000, 1_000)).toBe(5_000);
  expect(boundedDelay(5_000, 60_000)).toBe(60_000);
  expect(boundedDelay(5_000, 400 * 24 * HOUR)).toBe(MAX_RETRY_AFTER_MS);
  expect(boundedDelay(5_000, retryAfterMs('9'.repeat(400), 0))).toBe(24 * HOUR);
  expect(boundedDelay(26 * HOUR, 25 * HOUR)).toBe(26 * HOUR);
});

describe('classify', () => {
  it.each([
    [200, null, 'delivered'],
    [204, null, 'delivered'],
    [299, null, 'delivered'],
    [301, null, 'failed'],
    [304, null, 'failed'],
    [400, null, 'failed'],
    [404, null, 'failed'],
    [410, null, 'gone'],
    [429, null, 'throttled'],
    [500, null, 'failed'],
    [501, null, 'failed'],
    [502, null, 'throttled'],
    [503, null, 'throttled'],
    [504, null, 'throttled'],
    [null, 'dns', 'failed'],
    [null, 'timeout_headers', 'failed'],
    [200, 'timeout_body', 'failed'],
    [200, 'connection_reset', 'failed'],
    [410, 'connection_reset', 'gone'],
    [503, 'timeout_body', 'throttled'],
  ])('%s with error %s is %s', (statusCode, error, outcome) => {
    expect(classify({ statusCode, error })).toBe(outcome);
  });
});
