import { afterAll, beforeAll, expect, test } from 'vitest';
import { freshEmail, openStage, type Stage } from '../../domain/users/stage.ts';

let stage: Stage;
beforeAll(async () => {
  // As expensive as in production.
  stage = await openStage({ ARGON2_MEMORY_KIB: '65536' });
});
afterAll(() => stage.close());

test('while passwords are tried in masses the rest of the API answers, and what is too much is turned away', async () => {
  const { email } = await stage.user();
  const token = (await stage.signIn(email)).body.data.access_token;
  let over = false;
  const flood = Promise.all(Array.from({ length: 150 }, () => stage.signIn(freshEmail()))).finally(() => {
    over = true;
  });
  const waits: number[] = [];
  while (!over && waits.length < 500) {
    const began = performance.now();
    expect((await stage.ask('/users/me', { token })).status).toBe(200);
    waits.push(performance.now() - began);
  }
  const statuses = (await flood).map(({ status }) => status);
  expect(new Set(statuses)).toEqual(new Set([401, 503]));
  const turnedAway = (await flood).find(({ status }) => status === 503);
  expect(Number(turnedAway?.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(waits.length).toBeGreaterThan(10);
  expect(waits.toSorted((a, b) => a - b)[Math.floor(waits.length / 2)]).toBeLessThan(500);
  expect((await stage.signIn(email)).status).toBe(200);
});
