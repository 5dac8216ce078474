import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ApiRouter } from '../../src/api/router.ts';
import { composeApi } from '../../src/cli/http.ts';
import { createMemory } from '../../src/cli/memory.ts';
import { createApiKey } from '../../src/domain/api-keys/api-keys.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { createIdentity } from '../../src/domain/sessions/identity.ts';
import { createHarness, type Harness } from '../harness.ts';

/** Whoever runs the platform (operators, keys with `ops:*`) sees that something happens, and not to whom. */
const ADA = 'ada@private.example';
const ids = { operation: '', email: newId(), letter: newId() };
let h: Harness;
let app: ApiRouter;
let key: string;

beforeAll(async () => {
  h = await createHarness();
  const operationIds = new OperationIds(h.keyring.for('operation-id').current().key);
  const authenticate = async (role: string) => ({ userId: newId(), sessionId: newId(), role: role as 'admin' });
  const runtime = { ...h, identity: createIdentity(h), operationIds };
  app = composeApi(runtime, { stopping: false }, [], { ...createMemory(runtime), authenticate });
  const context = { requestId: 'r', correlationId: 'r', actor: SYSTEM };
  const input = { name: 'ops', tenant: 'default', scopes: ['ops:read', 'ops:write'] } as const;
  key = (await h.messaging.transact(context, (unit) => createApiKey(unit, input))).key;
  ids.operation = operationIds.issue();
  const run = (query: ReturnType<typeof sql>) => query.execute(h.database.em.fork().getKysely());
  await run(sql`insert into operations (id, type, status, caller, result, http_status, created_at, started_at, finished_at)
    values (${ids.operation}, 'user.register', 'succeeded', 'anonymous', ${JSON.stringify({ email: ADA })}::jsonb, 201, now(), now(), now())`);
  await run(sql`insert into emails (id, recipient, template, subject, status, message_id, sealed_data)
    values (${ids.email}, ${ADA}, 'password-changed', 'Your password was changed', 'failed', 'm', 'sealed')`);
  await run(sql`insert into dead_letters (id, queue, message_type, reason, body)
    values (${ids.letter}, 'q', 'user.register', 'why', ${Buffer.from(JSON.stringify({ data: { email: ADA } }))})`);
  await run(sql`insert into events (id, type, source, payload, time)
    values ('e-1', 'user.created', 'waybill', ${JSON.stringify({ data: { email: ADA } })}, now())`);
});
afterAll(() => h.close());

async function get(path: string, token: string, method = 'GET') {
  const answer = await app.request(`/api/v1${path}`, { method, headers: { authorization: `Bearer ${token}` } });
  return { status: answer.status, text: await answer.text() };
}

it.each([
  ['GET', () => `/operations/${ids.operation}`],
  ['GET', () => `/operations/${ids.operation}/trail`],
  ['GET', () => '/admin/emails'],
  ['GET', () => `/admin/dead-letters/${ids.letter}`],
  ['GET', () => '/events/e-1/trail'],
])('%s %o shows the person to admins alone', async (_method, path) => {
  const operator = await get(path(), 'operator');
  expect(operator.status).toBe(200);
  expect(operator.text).not.toContain(ADA);
  expect((await get(path(), 'admin')).text).toContain(ADA);
  const client = await get(path(), key);
  expect(client.status).toBe(path().startsWith('/events') ? 403 : 200);
  expect(client.text).not.toContain(ADA);
});

it('an e-mail that is sent again does not show it either', async () => {
  const { status, text } = await get(`/admin/emails/${ids.email}/retry`, 'operator', 'POST');
  expect(status).toBe(200);
  expect(text).not.toContain(ADA);
});

it('whoever holds the id of an operation made without credentials sees its result', async () => {
  expect((await get(`/operations/${ids.operation}`, 'user')).text).toContain(ADA);
});
