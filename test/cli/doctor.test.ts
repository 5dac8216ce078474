import { randomBytes } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { doctor } from '../../src/cli/doctor.ts';
import { migrate } from '../../src/cli/migrate.ts';
import { call, createInstallation, endAll, type Installation, waybill } from './waybill.ts';

let installation: Installation;

beforeAll(async () => {
  installation = await createInstallation('migrated');
});
// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000 });
afterEach(endAll);
afterAll(() => installation.remove());

/** Runs it in this process; resolves with its exit code, its lines and how long it took. */
async function diagnose(env: NodeJS.ProcessEnv): Promise<{ code: number | undefined; text: string; ms: number }> {
  const { value: code, out: text, ms } = await call({ ...installation.env, ...env }, doctor);
  return { code, text, ms };
}

/** A server that does `talk` with whoever connects. */
async function listen(talk: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    talk(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as { port: number }).port;
}

const secrets = /sesame/;

test('with everything in order it says so and exits with 0', async () => {
  const { code, stdout, stderr } = await waybill(['doctor'], installation.env, { cwd: installation.directory }).exit;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const lines = stdout.split('\n');
  for (const name of [
    'Node',
    'Configuration',
    'PostgreSQL',
    'Schema',
    'Clock',
    'Redis',
    'RabbitMQ',
    'Queues',
    'Mail',
    'Disk',
  ])
    expect(lines.filter((line) => new RegExp(`^ {2}ok {4}${name} {2,}\\S`).test(line))).toHaveLength(1);
  expect(stdout).toMatch(/Schema +up to date, \d+ migrations/);
  expect(stdout).toMatch(/RabbitMQ +\d+\.\d+\.\d+ at /);
  expect(stdout).toMatch(/Queues +(\d+) of \1 will be created/);
  expect(stdout).not.toMatch(/^ {2}fail /m);
});

test('closed ports fail within seconds, each with what to do, and without a password', async () => {
  const { code, text, ms } = await diagnose({
    DATABASE_URL: 'postgresql://ada:sesame@127.0.0.1:1/waybill',
    REDIS_URL: 'redis://:sesame@127.0.0.1:1',
    RABBITMQ_URL: 'amqp://ada:sesame@127.0.0.1:1',
    SMTP_URL: 'smtp://ada:sesame@127.0.0.1:1',
  });
  expect(code).toBe(1);
  for (const name of ['PostgreSQL', 'Redis', 'RabbitMQ', 'Mail'])
    expect(text).toMatch(
      new RegExp(`^ {2}fail {2}${name} +127\\.0\\.0\\.1:1: nothing listens there\\n +→ start `, 'm'),
    );
  for (const name of ['Schema', 'SECRETS_KEY', 'Clock'])
    expect(text).toMatch(new RegExp(`^ {2}- {5}${name} +needs PostgreSQL`, 'm'));
  expect(text).toContain('4 checks failed.');
  expect(text).not.toMatch(secrets);
  expect(ms).toBeLessThan(5000);
});

test('servers that take the connection and say nothing cost seconds, not minutes', async () => {
  const port = await listen(() => undefined);
  const { code, text, ms } = await diagnose({
    DATABASE_URL: `postgresql://ada:sesame@127.0.0.1:${port}/waybill`,
    REDIS_URL: `redis://127.0.0.1:${port}`,
    RABBITMQ_URL: `amqp://ada:sesame@127.0.0.1:${port}`,
    SMTP_URL: `smtp://127.0.0.1:${port}`,
  });
  expect(code).toBe(1);
  expect(text.match(/no answer within 2 s/g)).toHaveLength(4);
  expect(ms).toBeLessThan(8000);
});

test('a broker that greets and then falls silent is given up on', async () => {
  // Connection.Start as far as the handshake looks at it, and nothing after.
  const start = Buffer.from([1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 10, 0xce]);
  const port = await listen((socket) => socket.write(start));
  const { code, text, ms } = await diagnose({ RABBITMQ_URL: `amqp://ada:sesame@127.0.0.1:${port}` });
  expect(code).toBe(1);
  expect(text).toMatch(/^ {2}fail {2}RabbitMQ /m);
  expect(text).toMatch(/^ {2}ok {4}Redis /m);
  expect(text).not.toMatch(secrets);
  expect(ms).toBeLessThan(10_000);
});

test('wrong credentials and a missing virtual host are told apart from a server that is away', async () => {
  const broker = new URL(installation.env.RABBITMQ_URL ?? '');
  broker.password = 'sesame';
  const refused = await diagnose({ RABBITMQ_URL: broker.toString() });
  expect(refused.text).toMatch(
    /RabbitMQ +\S+: it refuses the user or the password\n +→ correct the credentials in RABBITMQ_URL/,
  );
  expect(refused.text).not.toMatch(secrets);

  const elsewhere = new URL(installation.env.RABBITMQ_URL ?? '');
  elsewhere.pathname = '/waybill-nowhere';
  expect((await diagnose({ RABBITMQ_URL: elsewhere.toString() })).text).toMatch(/RabbitMQ +\S+: the virtual host/);
});

test('a database that is not there yet is a warning, and is not created', async () => {
  const missing = new URL(installation.databaseUrl);
  missing.pathname = '/wb_test_cli_nowhere';
  for (let i = 0; i < 2; i += 1) {
    const { code, text } = await diagnose({ DATABASE_URL: missing.toString() });
    expect(code).toBe(0);
    expect(text).toMatch(/^ {2}ok {4}PostgreSQL /m);
    expect(text).toMatch(
      /^ {2}warn {2}Schema +the database "wb_test_cli_nowhere" does not exist\n +→ run "waybill migrate up"/m,
    );
    expect(text).toContain('Nothing failed; see the warnings.');
  }
});

test('pending migrations, and a SECRETS_KEY that does not fit', async () => {
  const other = await createInstallation('migrated');
  onTestFinished(() => other.remove());
  const run = (direction: string) => call(other.env, () => migrate(direction, {}));
  expect((await diagnose(other.env)).text).toMatch(/^ {2}- {5}SECRETS_KEY +nothing is sealed in this database yet/m);
  await run('up');
  expect((await diagnose(other.env)).text).toMatch(/^ {2}ok {4}SECRETS_KEY +fits this database/m);

  const changed = await diagnose({ ...other.env, SECRETS_KEY: randomBytes(32).toString('base64') });
  expect(changed.code).toBe(1);
  expect(changed.text).toMatch(/^ {2}fail {2}SECRETS_KEY +does not fit this database/m);
  expect(changed.text).toContain('SECRETS_KEY_PREVIOUS');

  await run('down');
  const { code, text } = await diagnose(other.env);
  expect(code).toBe(0);
  expect(text).toMatch(/^ {2}warn {2}Schema +1 of \d+ migrations are pending/m);
});

test('a mail server is greeted', async () => {
  const port = await listen((socket) => socket.write('220 mail.example ESMTP\r\n'));
  expect((await diagnose({ SMTP_URL: `smtp://ada:sesame@127.0.0.1:${port}` })).text).toContain(
    `127.0.0.1:${port} takes mail`,
  );
  const busy = await listen((socket) => socket.write('554 no service\r\n'));
  const { code, text } = await diagnose({ SMTP_URL: `smtp://127.0.0.1:${busy}` });
  expect(code).toBe(1);
  expect(text).toContain('it greets with "554 no service"');
});

test('a proxy for webhooks is asked, when there is one', async () => {
  expect((await diagnose({})).text).not.toContain('Webhook proxy');
  let asked = '';
  const port = await listen((socket) =>
    socket.on('data', (data: Buffer) => {
      asked += data;
      socket.end('HTTP/1.1 503 No such host\r\n\r\n');
    }),
  );
  const { text } = await diagnose({ WEBHOOK_PROXY_URL: `http://ada:sesame@127.0.0.1:${port}` });
  expect(text).toMatch(new RegExp(`^ {2}ok {4}Webhook proxy +127\\.0\\.0\\.1:${port} answers$`, 'm'));
  expect(asked).toMatch(
    /^CONNECT doctor\.invalid:443 HTTP\/1\.1\r\n[\s\S]*proxy-authorization: Basic YWRhOnNlc2FtZQ==\r\n\r\n$/,
  );
  const strict = await listen((socket) => socket.end('HTTP/1.1 407 Who are you\r\n\r\n'));
  const refused = await diagnose({ WEBHOOK_PROXY_URL: `http://ada:sesame@127.0.0.1:${strict}` });
  expect(refused.code).toBe(1);
  expect(refused.text).toMatch(/it wants other credentials \(407\)\n +→ correct the credentials in WEBHOOK_PROXY_URL/);
  expect(refused.text).not.toMatch(secrets);
  const gone = await diagnose({ WEBHOOK_PROXY_URL: 'http://127.0.0.1:1' });
  expect(gone.text).toMatch(
    /fail {2}Webhook proxy +127\.0\.0\.1:1: nothing listens there\n +→ start it or correct WEBHOOK_PROXY_URL$/m,
  );
});

test('a configuration that cannot be used is listed, and the rest is left out', async () => {
  const { code, text } = await diagnose({ PORT: '70000', REDIS_URL: 'http://x' });
  expect(code).toBe(1);
  expect(text).toMatch(/^ {2}fail {2}Configuration {2}PORT: must be .*\n +REDIS_URL: must be /m);
  for (const name of ['PostgreSQL', 'Redis', 'RabbitMQ', 'Mail', 'Disk'])
    expect(text).toMatch(new RegExp(`^ {2}- {5}${name} +needs a usable configuration`, 'm'));
});
