import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createAdmin } from '../../src/cli/admin.ts';
import { verifyAudit } from '../../src/cli/audit.ts';
import { openDatabase } from '../../src/services/database.ts';
import { tamper } from '../domain/audit/log.ts';
import { eventually } from '../harness.ts';
import { call, createInstallation, endAll, type Installation, registration, request, waybill } from './waybill.ts';

// The API and the pools as processes of their own, as in the containers.

let installation: Installation;
const run = (args: string[], env: NodeJS.ProcessEnv = {}) =>
  waybill(args, { ...installation.env, ...env }, { cwd: installation.directory });

// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000 });

beforeEach(async () => {
  installation = await createInstallation('migrated');
});
afterEach(async () => {
  await endAll();
  await installation.remove();
});

test('api and workers apart do the work together; each serves its health and drains', async () => {
  const api = run(['api']);
  const [, base = ''] = await api.prints(/"url":"(http:\/\/localhost:\d+)"/);
  const pools = ['registration', 'fanout', 'audit', 'email', 'housekeeping'];
  const worker = run(['worker', ...pools, '--concurrency', 'email=3'], { PORT: '' });
  const [, port = ''] = await worker.prints(/"port":(\d+)/);

  const health = `http://localhost:${port}`;
  expect((await fetch(`${health}/livez`)).status).toBe(200);
  expect(await (await fetch(`${health}/metrics`)).text()).toContain('waybill_handled_total');
  expect((await fetch(`${health}/api/v1/users/me`)).status).toBe(404);

  const options = { body: registration('ada@example.com'), headers: { prefer: 'wait=20' } };
  const registered = await request(base, 'POST', '/auth/register', options);
  expect(registered).toMatchObject({ status: 201, body: { data: { email: 'ada@example.com' } } });
  const readiness = (await (await fetch(`${health}/readyz`)).json()) as { checks: Record<string, string> };
  expect(Object.keys(readiness.checks)).toEqual(expect.arrayContaining(pools.map((pool) => `pool ${pool}`)));

  for (const process of [worker, api]) {
    process.child.kill('SIGTERM');
    expect((await process.exit).code).toBe(0);
  }
});

test('admin create makes an administrator who can sign in, once', async () => {
  const create = (password: string) =>
    call({ ...installation.env, ADMIN_EMAIL: '', ADMIN_PASSWORD: password }, () => createAdmin('grace@example.com'));
  expect((await create('')).error).toContain('set ADMIN_PASSWORD');
  expect((await create('another-good-one')).out).toBe('created the administrator grace@example.com\n');
  expect((await create('another-good-one')).error).toBe(
    'grace@example.com has an account already; it was left as it is',
  );

  const api = run(['api']);
  const [, base = ''] = await api.prints(/"url":"(http:\/\/localhost:\d+)"/);
  const body = { email: 'grace@example.com', password: 'another-good-one' };
  const { body: tokens, status } = await request(base, 'POST', '/auth/login', { body });
  expect(status).toBe(200);
  const me = await request(base, 'GET', '/users/me', {
    headers: { authorization: `Bearer ${tokens.data?.access_token}` },
  });
  expect(me.body.data).toMatchObject({ email: 'grace@example.com', role: 'admin', is_verified: true });
});

test('audit verify says that the log is intact, and names the row when it is not', async () => {
  const api = run(['api']);
  await api.prints(/"url":/);
  const worker = run(['worker', 'audit', 'housekeeping'], { PORT: '' });
  await worker.prints(/"port":/);
  // The first administrator was made by the API's start; its audit row passes through the relay and the audit pool.
  const verify = () => call(installation.env, () => verifyAudit({ json: true }));
  const sealed = await eventually(async () => {
    const { value, out } = await verify();
    return /"rows":[1-9]/.test(out) ? { value, out } : undefined;
  }, 'a sealed row');
  expect(sealed.value).toBe(0);
  expect(JSON.parse(sealed.out)).toMatchObject({ intact: true });

  const orm = await openDatabase(installation.databaseUrl, { entities: [], poolSize: 1 });
  await tamper(orm.em.fork(), (tx) => sql`update audit_events set action = 'nothing.happened'`.execute(tx.getKysely()));
  await orm.close(true);
  expect(await verify()).toMatchObject({ value: 1, out: expect.stringContaining('"intact":false') });
  const broken = await run(['audit', 'verify']).exit;
  expect(broken).toMatchObject({
    code: 1,
    stdout: expect.stringMatching(/^BROKEN at row [0-9a-f-]{36} of checkpoint \d+: .+\n$/),
  });
});
