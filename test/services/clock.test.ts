import { afterEach, expect, inject, test, vi } from 'vitest';
import { currentTime, DatabaseClock } from '../../src/services/clock.ts';
import { openDatabase } from '../../src/services/database.ts';

const HOUR_MS = 3_600_000;
/** What a busy machine may take between two readings. */
const CLOSE_MS = 60_000;

afterEach(() => vi.useRealTimers());

test("goes by the host's clock until PostgreSQL was asked, and by PostgreSQL's from then on", async () => {
  const host = Date.now();
  vi.useFakeTimers({ toFake: ['Date'] });
  vi.setSystemTime(host + HOUR_MS);
  expect(currentTime() - Date.now()).toBeLessThan(CLOSE_MS);
  expect(currentTime() - host).toBeGreaterThanOrEqual(HOUR_MS);

  const url = new URL(inject('databaseUrl'));
  url.pathname = '/postgres';
  const database = await openDatabase(url.toString(), { entities: [], poolSize: 1 });
  const clock = new DatabaseClock(database);
  try {
    await clock.start();
    expect(Math.abs(currentTime() - host)).toBeLessThan(CLOSE_MS);
    vi.setSystemTime(host - HOUR_MS);
    expect(Math.abs(currentTime() - host)).toBeLessThan(CLOSE_MS);
    expect(Number.isInteger(currentTime())).toBe(true);
  } finally {
    clock.stop();
    await database.close(true);
  }
  // Without PostgreSQL the monotonic clock goes on.
  const later = currentTime();
  await vi.waitFor(() => expect(currentTime()).toBeGreaterThan(later));
});
