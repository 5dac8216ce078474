import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { Session, SigningKey, SigninLock } from '../../../src/domain/sessions/entities.ts';
import { User, UserToken } from '../../../src/domain/users/entities.ts';
import { type Database, openDatabase } from '../../../src/services/database.ts';
import { createTestDatabase } from '../../harness.ts';

let orm: Database;
let drop: () => Promise<void>;
beforeAll(async () => {
  const made = await createTestDatabase();
  drop = made.drop;
  orm = await openDatabase(made.url, { entities: [User, UserToken, Session, SigninLock, SigningKey] });
});
afterAll(async () => {
  await orm.close(true);
  await drop();
});

test('the entities have the columns and indexes that the migrations make', async () => {
  const statements = (await orm.schema.getUpdateSchemaSQL({ safe: false, dropTables: false })).split('\n');
  // Names of constraints, and checks, are the migrations' own.
  expect(statements.filter((line) => / column | index |create table/.test(line))).toEqual([]);
});

test('a user is written and read with its session', async () => {
  const em = orm.em.fork();
  const user = em.create(User, { id: newId(), email: 'ada@example.com', full_name: 'Ada', version: 1 });
  const bytes = (n: number) => Buffer.alloc(32, n);
  em.create(Session, {
    id: newId(),
    user,
    family_hash: bytes(1),
    current_hash: bytes(2),
    expires_at: new Date(),
    idle_expires_at: new Date(),
  });
  await em.flush();
  const found = await orm.em
    .fork()
    .findOneOrFail(Session, { user: { email: 'ada@example.com' } }, { populate: ['user'] });
  expect(found.user).toMatchObject({ role: 'user', is_active: true, is_verified: false, kyc_status: 'unverified' });
  expect(Buffer.from(found.current_hash)).toEqual(bytes(2));
});
