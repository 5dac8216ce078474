import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  backoffMs,
  pause,
  type Service,
  stopAll,
  TimeoutError,
  together,
  withDeadline,
} from '../../src/services/service.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const never = () => new Promise<never>(() => undefined);
const service = (
  name: string,
  told: string[],
  stop: (ms: number) => Promise<void> = async () => undefined,
): Service => ({
  name,
  start: async () => {
    told.push(`start ${name}`);
  },
  stop: async (ms) => {
    told.push(`stop ${name}`);
    await stop(ms);
  },
});

describe('withDeadline', () => {
  test('passes on what is there in time, and leaves no timer', async () => {
    await expect(withDeadline(Promise.resolve(1), 50, 'it')).resolves.toBe(1);
    await expect(withDeadline(Promise.reject(new Error('no')), 50, 'it')).rejects.toThrow('no');
    expect(vi.getTimerCount()).toBe(0);
  });

  test('rejects when it takes too long, and says what', async () => {
    const waiting = expect(withDeadline(never(), 50, 'closing')).rejects.toThrow(
      new TimeoutError('closing took longer than 50 ms'),
    );
    await vi.advanceTimersByTimeAsync(49);
    expect(vi.getTimerCount()).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    await waiting;
  });

  test('a failure after the deadline is nobody’s unhandled rejection', async () => {
    const unhandled = vi.fn();
    process.on('unhandledRejection', unhandled);
    let fail: (error: Error) => void = () => undefined;
    const late = new Promise<never>((_, reject) => {
      fail = reject;
    });
    const waiting = expect(withDeadline(late, 50, 'it')).rejects.toThrow(TimeoutError);
    await vi.advanceTimersByTimeAsync(50);
    await waiting;
    fail(new Error('late'));
    await setImmediate();
    process.off('unhandledRejection', unhandled);
    expect(unhandled).not.toHaveBeenCalled();
  });
});

describe('pause', () => {
  test('lasts as long as it says', async () => {
    const done = vi.fn();
    pause(100).then(done);
    await vi.advanceTimersByTimeAsync(99);
    expect(done).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(1);
    expect(done).toHaveBeenCalled();
  });

  test('ends with its signal, at once when that is past, and leaves no timer', async () => {
    const stopping = new AbortController();
    const waiting = pause(100, stopping.signal);
    stopping.abort();
    await waiting;
    await pause(100, stopping.signal);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('backoffMs', () => {
  test.each([
    [0, 0.5, 100],
    [1, 1, 200],
    [3, 4, 800],
    [5, 5, 1000],
    [1000, 5, 1000],
  ])('after %i attempts doubles up to the bound, half of it by chance', (attempt, low, high) => {
    vi.spyOn(Math, 'random').mockReturnValue(0);
    expect(backoffMs(attempt, 100, 1000)).toBe(low * 100);
    vi.spyOn(Math, 'random').mockReturnValue(1);
    expect(backoffMs(attempt, 100, 1000)).toBe(high);
  });
});

describe('stopAll', () => {
  test('stops the last started first', async () => {
    const told: string[] = [];
    await stopAll([service('a', told), service('b', told)], 1000, () => undefined);
    expect(told).toEqual(['stop b', 'stop a']);
  });

  test('stops the others when one fails or hangs, and tells of it', async () => {
    const told: string[] = [];
    const failed: string[] = [];
    const stopping = stopAll(
      [
        service('first', told),
        service('hangs', told, never),
        service('fails', told, () => Promise.reject(new Error('broken'))),
      ],
      1000,
      ({ name }, error) => failed.push(`${name}: ${(error as Error).message}`),
    );
    await vi.advanceTimersByTimeAsync(1100);
    await stopping;
    expect(told).toEqual(['stop fails', 'stop hangs', 'stop first']);
    expect(failed).toEqual(['fails: broken', 'hangs: stopping hangs took longer than 834 ms']);
  });

  test('keeps a share of the time for each that comes later, and keeps the deadline', async () => {
    const given: number[] = [];
    const late = vi.fn();
    const hanging = (ms: number) => {
      given.push(ms);
      return never();
    };
    const began = Date.now();
    const stopping = stopAll(
      [1, 2, 3].map((n) => service(`s${n}`, [], hanging)),
      10_000,
      late,
    ).then(() => Date.now() - began);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await stopping).toBe(10_000);
    expect(given).toEqual([8900, 400, 400]);
    expect(late).toHaveBeenCalledTimes(3);
  });

  test('gives what one did not need to those after it', async () => {
    const given: number[] = [];
    const quick = async (ms: number) => {
      given.push(ms);
      await pause(1000);
    };
    const stopping = stopAll([service('a', [], quick), service('b', [], quick)], 10_000, () => undefined);
    await vi.advanceTimersByTimeAsync(2000);
    await stopping;
    expect(given).toEqual([9400, 8900]);
  });
});

describe('together', () => {
  test('starts in order and stops all at once', async () => {
    const told: string[] = [];
    const both = together('pools', [service('a', told, () => pause(100)), service('b', told, () => pause(100))]);
    await both.start();
    const stopping = both.stop(1000);
    expect(told).toEqual(['start a', 'start b', 'stop a', 'stop b']);
    await vi.advanceTimersByTimeAsync(100);
    await stopping;
  });

  test('waits for all before it fails with the first failure', async () => {
    const told: string[] = [];
    const slow = vi.fn();
    const both = together('pools', [
      service('a', told, () => Promise.reject(new Error('broken'))),
      service('b', told, () => pause(100).then(slow)),
    ]);
    const stopping = expect(both.stop(1000)).rejects.toThrow('broken');
    await vi.advanceTimersByTimeAsync(100);
    await stopping;
    expect(slow).toHaveBeenCalled();
  });
});
