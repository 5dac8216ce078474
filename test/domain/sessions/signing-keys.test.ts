import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SigningKeys } from '../../../src/domain/sessions/signing-keys.ts';
import { createHarness, eventually, type Harness } from '../../harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await createHarness();
});
afterAll(() => harness.close());

const newProcess = () => new SigningKeys(harness.database, harness.keyring);
const run = (statement: ReturnType<typeof sql>) => statement.execute(harness.database.em.fork().getKysely());

test('processes that start at once make one key, sealed at rest', async () => {
  const kids = await Promise.all(Array.from({ length: 5 }, async () => (await newProcess().current()).kid));
  expect(new Set(kids).size).toBe(1);
  const { rows } = await run(sql`select public_jwk, encode(sealed_private, 'escape') as sealed from signing_keys`);
  expect(rows).toHaveLength(1);
  expect(rows[0]).toMatchObject({ public_jwk: expect.not.objectContaining({ d: expect.anything() }) });
  expect((rows[0] as { sealed: string }).sealed).not.toContain('"d"');
});

test('a retired key verifies for an hour more, a new one signs, and a process finds a kid it did not know', async () => {
  const running = newProcess();
  const old = await running.current();
  await run(sql`update signing_keys set retired_at = now() - interval '59 minutes'`);
  const started = newProcess();
  const next = await started.current();
  expect(next.kid).not.toBe(old.kid);
  expect((await started.jwks()).keys.map(({ kid }) => kid)).toEqual([next.kid, old.kid]);
  expect(await started.publicKey(old.kid)).toBeDefined();

  // The running process looks for an unknown kid at most once a second.
  await eventually(() => running.publicKey(next.kid), 'the running process knows the new key');

  await run(sql`update signing_keys set retired_at = now() - interval '61 minutes' where kid = ${old.kid}`);
  expect(await newProcess().publicKey(old.kid)).toBeUndefined();
});
