import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { JWKS_CACHE_SECONDS, rotateSigningKeys, SigningKeys } from '../../../src/domain/sessions/signing-keys.ts';
import { createHarness, type Harness } from '../../harness.ts';

const SECOND = 1000;
const DAY = 86_400 * SECOND;

let harness: Harness;
let now = Date.now();
beforeAll(async () => {
  harness = await createHarness();
});
afterAll(() => harness.close());

const newProcess = () => new SigningKeys(harness.database, harness.keyring, () => now);
const rotate = () => rotateSigningKeys(harness, { now });
const kidsOf = async (keys: SigningKeys) => (await keys.jwks()).keys.map(({ kid }) => kid);

test('a key is published before it signs, and verifies for longer than its last token lives', async () => {
  const running = newProcess();
  const first = (await running.current()).kid;
  expect(await rotate()).toEqual({ retired: [], gone: [] });
  now += 89 * DAY;
  expect(await rotate()).toEqual({ retired: [], gone: [] });

  now += DAY;
  const { published: second } = await rotate();
  expect(second).toEqual(expect.any(String));
  expect(await rotate()).toEqual({ retired: [], gone: [] });

  // A process that reads the keys now shows both, and still signs with the first one.
  expect(await kidsOf(newProcess())).toEqual([second, first]);
  expect((await newProcess().current()).kid).toBe(first);

  // Until every copy of the key set has it: one taken a moment before, from a process that had read them before that.
  now += JWKS_CACHE_SECONDS * SECOND;
  expect((await running.current()).kid).toBe(first);
  expect(await running.publicKey(second ?? '')).toBeDefined();
  expect((await rotate()).retired).toEqual([]);

  now += 60 * SECOND;
  expect((await running.current()).kid).toBe(second);
  expect(await rotate()).toEqual({ retired: [first], gone: [] });

  now += 59 * 60 * SECOND;
  expect(await rotate()).toEqual({ retired: [], gone: [] });
  expect(await newProcess().publicKey(first)).toBeDefined();
  expect(await kidsOf(newProcess())).toEqual([second, first]);

  now += 60 * SECOND;
  expect(await rotate()).toEqual({ retired: [], gone: [first] });
  expect(await newProcess().publicKey(first)).toBeUndefined();
  const { rows } = await sql<{ kid: string }>`select kid from signing_keys`.execute(
    harness.database.em.fork().getKysely(),
  );
  expect(rows).toEqual([{ kid: second }]);
});

test('rounds that run at once publish one key', async () => {
  now += 90 * DAY;
  const rounds = await Promise.all([rotate(), rotate(), rotate()]);
  expect(rounds.filter(({ published }) => published)).toHaveLength(1);
});

test('without any key nothing is made: the first token makes it', async () => {
  await sql`delete from signing_keys`.execute(harness.database.em.fork().getKysely());
  expect(await rotate()).toEqual({ retired: [], gone: [] });
  expect(await kidsOf(newProcess())).toHaveLength(1);
});
