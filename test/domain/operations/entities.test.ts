import { MikroORM } from '@mikro-orm/postgresql';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DeadLetter } from '../../../src/domain/dead-letters/entities.ts';
import {
  IdempotencyKey,
  InboxMessage,
  Installation,
  Operation,
  OutboxMessage,
  Revision,
} from '../../../src/domain/operations/entities.ts';
import { createTestDatabase } from '../../harness.ts';

const entities = [Operation, IdempotencyKey, OutboxMessage, InboxMessage, Revision, Installation, DeadLetter];
let orm: MikroORM;
let drop: () => Promise<void>;

beforeAll(async () => {
  const created = await createTestDatabase();
  drop = created.drop;
  orm = await MikroORM.init({ clientUrl: created.url, entities, logger: () => undefined });
});
afterAll(async () => {
  await orm.close(true);
  await drop();
});

it('has the tables that the entities describe', async () => {
  const names = entities.map((entity) => String(entity.meta.tableName));
  const statements = (await orm.schema.getUpdateSchemaSQL({ dropTables: false })).split('\n');
  const touching = statements.filter((line) => names.some((name) => new RegExp(`"${name}"`).test(line)));
  expect(touching).toEqual([]);
});
