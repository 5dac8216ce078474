import { MikroORM } from '@mikro-orm/postgresql';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KycAttempt, KycCallback, KycTransition } from '../../../src/domain/kyc/entities.ts';
import { User } from '../../../src/domain/users/entities.ts';
import { createTestDatabase } from '../../harness.ts';

let database: Awaited<ReturnType<typeof createTestDatabase>>;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

test('the entities are what the migration made', async () => {
  const orm = await MikroORM.init({
    clientUrl: database.url,
    entities: [User, KycAttempt, KycTransition, KycCallback],
    logger: () => undefined,
  });
  try {
    const drift = (await orm.schema.getUpdateSchemaSQL({ wrap: false, safe: false })).split('\n');
    // Constraints have the names that PostgreSQL gives them, and the checks stand in the migration alone.
    const ours = drift.filter((line) => line.includes('"kyc_') && !/ constraint |^drop table/.test(line));
    expect(ours).toEqual([]);
  } finally {
    await orm.close(true);
  }
});
