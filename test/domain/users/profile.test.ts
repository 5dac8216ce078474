import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { updateUser } from '../../../src/domain/users/profile.ts';
import { eventually } from '../../harness.ts';
import { anonymously, openStage, query, type Stage } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

test('of two administrators who demote each other at once one stays', async () => {
  const [one, two] = [await stage.admin(), await stage.admin()];
  const { transact } = stage.harness.messaging;
  const demoted = Promise.withResolvers<void>();
  const commit = Promise.withResolvers<void>();
  const first = transact(anonymously(), async (unit) => {
    await updateUser(unit, one.id, { role: 'user' });
    demoted.resolve();
    await commit.promise;
  });
  await demoted.promise;
  let settled = false;
  const second = transact(anonymously(), (unit) => updateUser(unit, two.id, { role: 'user' }))
    .then(
      () => 'demoted',
      (error) => error.problem.code,
    )
    .finally(() => {
      settled = true;
    });
  const waits = () =>
    query(
      stage,
      sql`select 1 from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and l.locktype = 'advisory' and not l.granted`,
    );
  await eventually(async () => settled || (await waits()).length > 0, 'the second waits for the first');
  commit.resolve();
  await first;
  expect(await second).toBe('CONFLICT');
});
