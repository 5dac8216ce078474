import { describe, expect, it } from 'vitest';
import { Throttles } from '../../src/webhooks/throttle.ts';

const NOW = 1_800_000_000_000;
const pauseOf = (throttles: Throttles, now: number): number =>
  Date.parse(/until (.*)$/.exec(throttles.hold('e', 10, now)?.reason ?? '')?.[1] ?? '') - now;

describe('a throttled endpoint', () => {
  it('pauses for 2 s, and twice as long while throttled answers go on, up to a minute', () => {
    const throttles = new Throttles();
    let now = NOW;
    const pauses: number[] = [];
    for (let n = 0; n < 7; n += 1) {
      throttles.throttled('e', now, null, now);
      pauses.push(pauseOf(throttles, now));
      now += pauses.at(-1) ?? 0;
    }
    expect(pauses).toEqual([2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
  });

  it('does not double for answers to requests that were on their way already', () => {
    const throttles = new Throttles();
    for (let n = 0; n < 4; n += 1) throttles.throttled('e', NOW - 100, null, NOW);
    expect(pauseOf(throttles, NOW)).toBe(2000);
    throttles.answered('e', NOW - 100);
    expect(pauseOf(throttles, NOW)).toBe(2000);
  });

  it.each([
    [0, 1000],
    [5000, 5000],
    [86_400_000, 300_000],
  ])('takes a Retry-After of %d ms for %d ms', (asked, pause) => {
    const throttles = new Throttles();
    throttles.throttled('e', NOW, asked, NOW);
    expect(pauseOf(throttles, NOW)).toBe(pause);
  });

  it('is free again once it answered otherwise after its pause', () => {
    const throttles = new Throttles();
    throttles.throttled('e', NOW, null, NOW);
    expect(throttles.hold('e', 10, NOW + 2000)).toBeUndefined();
    throttles.answered('e', NOW + 2000);
    throttles.throttled('e', NOW + 3000, null, NOW + 3000);
    expect(pauseOf(throttles, NOW + 3000)).toBe(2000);
  });

  it('brings back what was put off one after another, and leaves other endpoints alone', () => {
    const throttles = new Throttles();
    throttles.throttled('e', NOW, null, NOW);
    expect([1, 2, 3].map(() => throttles.hold('e', 25, NOW)?.until)).toEqual([NOW + 2000, NOW + 2025, NOW + 2050]);
    expect(throttles.hold('other', 25, NOW)).toBeUndefined();
  });
});
