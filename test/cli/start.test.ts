import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { verifyAudit } from '../../src/cli/audit.ts';
import { migrate } from '../../src/cli/migrate.ts';
import { api, start, worker } from '../../src/cli/start.ts';
import { OperationIds } from '../../src/domain/ids.ts';
import { Keyring } from '../../src/services/keyring.ts';
import { eventually } from '../harness.ts';
import { call, createInstallation, endAll, type Installation, registration, request, waybill } from './waybill.ts';

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

const FRONT_PAGE = /Front page +(http:\/\/localhost:\d+)\//;

test('prints where everything is, serves it, and drains on SIGTERM', async () => {
  const platform = run(['start']);
  const [, base = ''] = await platform.prints(FRONT_PAGE);
  const text = platform.text();
  expect(text).toMatch(/PostgreSQL: answers at/);
  expect(text).toContain('Database: up to date');
  expect(text).toContain(`API docs     ${base}/docs`);
  expect(text).toContain(`Mail inbox   ${base}/dev/mail`);
  expect(text).toContain(`Admin        ${installation.admin.email}`);
  expect(text).not.toContain(installation.admin.password);
  for (const path of [
    '/',
    '/docs',
    '/openapi.json',
    '/dev/mail',
    '/health',
    '/readyz',
    '/metrics',
    '/.well-known/jwks.json',
  ])
    expect({ path, status: (await fetch(`${base}${path}`)).status }).toEqual({ path, status: 200 });

  // Pools consume by the time it says that it is ready, so the printed line to try answers with its result.
  expect((await request(base, 'POST', '/auth/register', { body: registration('ada@example.com') })).status).toBe(201);
  const admin = await request(base, 'POST', '/auth/login', { body: installation.admin });
  expect(admin).toMatchObject({ status: 200, body: { data: { token_type: 'Bearer' } } });

  platform.child.kill('SIGTERM');
  const { code, stdout } = await platform.exit;
  expect(code).toBe(0);
  expect(stdout).toMatch(/^Stopping: .*[\s\S]*\nStopped\.\n$/m);
  await expect(fetch(base)).rejects.toThrow('fetch failed');
});

test('requests under way at SIGTERM get their answers', async () => {
  const platform = run(['start'], { DRAIN_TIMEOUT_MS: '15000' });
  const [, base = ''] = await platform.prints(FRONT_PAGE);
  const registrations = Array.from({ length: 12 }, (_, i) =>
    request(base, 'POST', '/auth/register', {
      body: registration(`u${i}@example.com`),
      headers: { prefer: 'wait=20' },
    }),
  );
  // The others are with a worker, or wait for one, when the signal comes.
  await registrations[0];
  platform.child.kill('SIGTERM');
  const statuses = (await Promise.allSettled(registrations)).map((result) =>
    result.status === 'fulfilled' ? result.value.status : 0,
  );
  // What was accepted got its answer; a connection that came too late was refused as a whole.
  expect(statuses.filter((status) => ![0, 201, 202].includes(status))).toEqual([]);
  expect(statuses).toContain(201);
  expect((await platform.exit).code).toBe(0);
});

test('SIGTERM ends the waits of those who wait for an operation, at once', async () => {
  const platform = run(['start']);
  const [, base = ''] = await platform.prints(FRONT_PAGE);
  const keyring = new Keyring(Buffer.from(installation.env.SECRETS_KEY ?? '', 'base64'));
  // Issued, and never published: nothing but the end of the wait answers it.
  const id = new OperationIds(keyring.for('operation-id').current().key).issue();
  const socket = connect(Number(new URL(base).port), 'localhost');
  onTestFinished(() => void socket.destroy());
  let answer = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    answer += chunk;
  });
  const closed = once(socket, 'close');
  const head = `GET /api/v1/operations/${id} HTTP/1.1\r\nHost: localhost\r\n`;
  // The server says "continue" when the request has reached it.
  socket.write(`${head}Prefer: wait=30\r\nExpect: 100-continue\r\n\r\n`);
  await eventually(() => answer.startsWith('HTTP/1.1 100'), 'the request is under way');
  const since = performance.now();
  platform.child.kill('SIGTERM');
  const { code, stderr } = await platform.exit;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(performance.now() - since).toBeLessThan(5000);
  await closed;
  expect(answer).toMatch(/^HTTP\/1\.1 200 /m);
  expect(answer).toContain(`"operation_id":"${id}","type":null,"status":"accepted"`);
});

test('SIGTERM answers 202 to one who waits for a command', async () => {
  const api = run(['api']);
  const [, base = ''] = await api.prints(/"url":"(http:\/\/localhost:\d+)"/);
  const waiting = request(base, 'POST', '/auth/register', {
    body: registration('ada@example.com'),
    headers: { prefer: 'wait=30' },
    signal: AbortSignal.timeout(40_000),
  });
  await api.prints(/"type":"user.register"/);
  const since = performance.now();
  api.child.kill('SIGTERM');
  expect(await waiting).toMatchObject({ status: 202, body: { data: { status: 'accepted' } } });
  expect((await api.exit).code).toBe(0);
  expect(performance.now() - since).toBeLessThan(5000);
});

test('a client that does not finish its request holds a process no longer than DRAIN_TIMEOUT_MS', async () => {
  const platform = run(['start'], { DRAIN_TIMEOUT_MS: '3000' });
  const [, base = ''] = await platform.prints(FRONT_PAGE);
  await unfinished(base);
  const since = performance.now();
  platform.child.kill('SIGTERM');
  const { code, stdout } = await platform.exit;
  expect(code).toBe(0);
  expect(stdout).toContain('Stopped.');
  expect(performance.now() - since).toBeLessThan(3500);
});

/** Begins a request whose body never ends; resolves once the server holds it. */
async function unfinished(base: string): Promise<void> {
  const socket = connect(Number(new URL(base).port), 'localhost');
  onTestFinished(() => void socket.destroy());
  socket.on('error', () => undefined);
  const head = 'POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n';
  socket.write(`${head}Content-Length: 50\r\nExpect: 100-continue\r\n\r\n`);
  const [answer] = await once(socket, 'data');
  expect(String(answer)).toMatch(/^HTTP\/1\.1 100 /);
  socket.write('{');
}

test('a second signal ends the drain at once', async () => {
  const api = run(['api'], { DRAIN_TIMEOUT_MS: '60000' });
  const [, base = ''] = await api.prints(/"url":"(http:\/\/localhost:\d+)"/);
  await unfinished(base);
  api.child.kill('SIGTERM');
  await api.prints(/"msg":"draining"/);
  expect(api.child.exitCode).toBeNull();
  const since = performance.now();
  api.child.kill('SIGTERM');
  const { code } = await api.exit;
  expect(code).toBe(1);
  expect(performance.now() - since).toBeLessThan(2000);
});

test('Ctrl-C while it starts ends it cleanly', async () => {
  const platform = run(['start']);
  await platform.prints(/Workers: starting/);
  platform.child.kill('SIGINT');
  const { code, stdout, stderr } = await platform.exit;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).not.toContain('Waybill is ready');
  expect(stdout).toContain('Stopped.');
});

test('another SECRETS_KEY than the database was filled under stops the start and names the ways out', async () => {
  await call(installation.env, () => migrate('up', {}));
  const other = { ...installation.env, SECRETS_KEY: randomBytes(32).toString('base64') };
  const ways =
    /^SECRETS_KEY does not fit this database: .*\n {2}- .*SECRETS_KEY.*\n {2}- .*SECRETS_KEY_PREVIOUS;\n {2}- .*DATABASE_URL .*$/;
  for (const body of [start, api, () => worker(['email'], {}), () => migrate('up', {}), () => verifyAudit({})])
    expect((await call<unknown>(other, body)).error).toMatch(ways);
  const { code, stderr } = await run(['start'], other).exit;
  expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/^waybill: SECRETS_KEY does not fit/) });
  expect(stderr).not.toMatch(/^ {4}at /m);

  // One of the ways: the old key beside the new one.
  const rotated = { ...other, SECRETS_KEY_PREVIOUS: installation.env.SECRETS_KEY };
  expect((await call(rotated, () => verifyAudit({}))).out).toMatch(/^intact: \d+ rows/);
});

test('a taken port is told of in one line', async () => {
  const server = createServer().listen(0);
  onTestFinished(() => void server.close());
  await eventually(() => server.listening, 'the port is taken');
  const { port } = server.address() as AddressInfo;
  const { code, stderr } = await run(['start'], { PORT: String(port) }).exit;
  expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining(`waybill: port ${port} is taken`) });
  expect(stderr).not.toMatch(/^ {4}at /m);
});

test('the body of start serves, and resolves with 0 after a signal', async () => {
  const before = process.listeners('SIGTERM');
  const { value, out } = await call(installation.env, async () => {
    const done = start();
    const printed = () =>
      vi
        .mocked(process.stdout.write)
        .mock.calls.map(([chunk]) => String(chunk))
        .join('');
    const base = await eventually(() => FRONT_PAGE.exec(printed())?.[1], 'the front page', 20_000);
    const ready = await fetch(`${base}/readyz`);
    expect(await ready.json()).toMatchObject({ status: 'ok', checks: { database: 'up', rabbitmq: 'up', redis: 'up' } });
    const [onSignal] = process.listeners('SIGTERM').filter((listener) => !before.includes(listener));
    onSignal?.('SIGTERM');
    return done;
  });
  expect(value).toBe(0);
  expect(out).toContain('Stopped.');
  expect(process.listeners('SIGTERM')).toEqual(before);
});
