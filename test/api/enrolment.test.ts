import { sql } from 'kysely';
import { Secret, TOTP } from 'otpauth';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { PERMISSIONS } from '../../src/api/permissions.ts';
import { createHttpServer, type HttpServer } from '../../src/api/server.ts';
import { composeExpressLane } from '../../src/cli/express.ts';
import { composeApi } from '../../src/cli/http.ts';
import { createMemory, type Memory } from '../../src/cli/memory.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { createIdentity, type Identity } from '../../src/domain/sessions/identity.ts';
import type { Role } from '../../src/domain/users/entities.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

const PASSWORD = 'a quiet harbour at dawn';

let h: Harness;
let identity: Identity;
let memory: Memory;
let server: HttpServer;
beforeAll(async () => {
  h = await createHarness({ SECOND_FACTOR_REQUIRED: 'admin,reviewer', COMMAND_WAIT_MS: '1' });
  identity = createIdentity(h);
  const operationIds = new OperationIds(h.keyring.for('operation-id').current().key);
  const runtime = { ...h, identity, operationIds };
  memory = createMemory(runtime);
  await memory.notices.start();
  const app = composeApi(runtime, { stopping: false }, [], memory);
  const before = await composeExpressLane(runtime, memory, memory.authenticate, () => {});
  server = createHttpServer({ fetch: app.fetch as never, port: 0, hostname: '127.0.0.1', log: h.log, before });
  await server.start();
});
afterAll(async () => {
  await server?.stop(2000);
  await memory?.notices.stop();
  await h?.close();
});

async function ask(path: string, token?: string, json?: unknown, method = json === undefined ? 'GET' : 'POST') {
  const response = await fetch(`${server.address().url}${path}`, {
    method,
    headers: {
      ...(json === undefined ? {} : { 'content-type': 'application/json' }),
      ...(token ? { authorization: `Bearer ${token}` } : {}),
    },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
  });
  // biome-ignore lint/suspicious/noExplicitAny: the shape of an answer is what the tests are about
  const body: any = await response.json().catch(() => undefined);
  return { status: response.status, body };
}

async function someone(role: Role) {
  const id = newId();
  const email = `${id}@example.org`;
  const hash = await identity.passwords.hash(PASSWORD);
  await sql`insert into users (id, email, password_hash, full_name, role, is_verified)
    values (${id}, ${email}, ${hash}, 'Some Body', ${role}, true)`.execute(h.database.em.fork().getKysely());
  const signedIn = await ask('/api/v1/auth/login', undefined, { email, password: PASSWORD });
  expect(signedIn.status).toBe(200);
  return { id, email, token: signedIn.body.data.access_token as string };
}

const refused = { status: 403, body: { error: { code: 'FORBIDDEN', details: { mfa_enrolment_required: true } } } };
const EVENT = { type: 'payment.succeeded', data: { payment_id: 'p', amount: 1, currency: 'EUR' } };
const ENROLMENT = ['/auth/mfa/setup', '/auth/mfa/enable', '/auth/logout'].map((path) => `POST /api/v1${path}`);

test('an administrator without a second factor can do nothing but turn one on and sign out', async () => {
  const { id, token } = await someone('admin');
  for (const { route, who } of PERMISSIONS) {
    if (who === 'anyone' || ENROLMENT.includes(route)) continue;
    const [method = '', pattern = ''] = route.split(' ');
    const path = pattern.replace(/\{\w+\}/g, id);
    const json = ['POST', 'PUT', 'PATCH'].includes(method) ? {} : undefined;
    expect(await ask(path, token, json, method), route).toMatchObject(refused);
  }
  // The one that is answered without the application around it.
  expect(await ask('/api/v1/events', token, EVENT)).toMatchObject(refused);
});

test('and everything from the moment it is on, in every process; nothing again when it is turned off', async () => {
  const { email, token } = await someone('admin');
  const other = createMemory({ ...h, identity, operationIds: new OperationIds(Buffer.alloc(32)) });
  await other.notices.start();
  const mustEnrol = async () => (await other.authenticate(token))?.mustEnrol;
  expect(await mustEnrol()).toBe(true);
  expect(await ask('/api/v1/users', token)).toMatchObject(refused);
  const { secret } = (await ask('/api/v1/auth/mfa/setup', token, undefined, 'POST')).body.data;
  const code = () => new TOTP({ secret: Secret.fromBase32(secret) }).generate();
  const enabled = await ask('/api/v1/auth/mfa/enable', token, { code: code() });
  expect(enabled.status).toBe(200);
  expect((await ask('/api/v1/users', token)).status).toBe(200);
  expect((await ask('/api/v1/events', token, EVENT)).status).toBe(202);
  expect(await mustEnrol()).toBe(false);

  const [recovery, again] = enabled.body.data.recovery_codes;
  const login = await ask('/api/v1/auth/login', undefined, { email, password: PASSWORD, code: recovery });
  const proof = { password: PASSWORD, code: again };
  expect((await ask('/api/v1/auth/mfa/disable', login.body.data.access_token, proof)).status).toBe(200);
  expect(await ask('/api/v1/users', login.body.data.access_token)).toMatchObject(refused);
  expect((await ask('/api/v1/auth/logout', login.body.data.access_token, undefined, 'POST')).status).toBe(200);
  await other.notices.stop();
});

test('roles that are not named need none', async () => {
  expect(await ask('/api/v1/admin/kyc', (await someone('reviewer')).token)).toMatchObject(refused);
  expect((await ask('/api/v1/admin/pools', (await someone('operator')).token)).status).toBe(200);
  expect((await ask('/api/v1/users/me', (await someone('user')).token)).status).toBe(200);
});

test('whoever is given such a role has to enrol from then on', async () => {
  const { id, token } = await someone('user');
  expect((await ask('/api/v1/users/me', token)).status).toBe(200);
  await sql`update users set role = 'admin' where id = ${id}`.execute(h.database.em.fork().getKysely());
  await memory.notices.announce('sessions');
  await eventually(async () => (await ask('/api/v1/users/me', token)).status === 403, 'the role is in force');
  expect(await ask('/api/v1/users/me', token)).toMatchObject(refused);
});

test('a new API key takes a code of whoever has a second factor', async () => {
  const { token } = await someone('admin');
  const { secret } = (await ask('/api/v1/auth/mfa/setup', token, undefined, 'POST')).body.data;
  const code = new TOTP({ secret: Secret.fromBase32(secret) }).generate();
  const { recovery_codes } = (await ask('/api/v1/auth/mfa/enable', token, { code })).body.data;
  const make = (more: object = {}) =>
    ask('/api/v1/api-keys', token, { name: 'Billing', scopes: ['events:write'], ...more });
  const lacking = { status: 400, body: { error: { field: 'code', details: { mfa_required: true } } } };
  expect(await make()).toMatchObject(lacking);
  expect(await make({ code: 'aaaaaa-aaaaaa-aaaaaa-aaaaaa' })).toMatchObject(lacking);
  const made = await make({ code: recovery_codes[0] });
  expect(made.status).toBe(201);
  expect(made.body.data.key).toMatch(/^wb_/);
  expect(await make({ code: recovery_codes[0] })).toMatchObject(lacking);
});
