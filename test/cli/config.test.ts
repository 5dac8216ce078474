import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, onTestFinished, test, vi } from 'vitest';
import { printConfig } from '../../src/cli/config.ts';
import { call, endAll, waybill } from './waybill.ts';

// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000 });
afterEach(endAll);

function folder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'waybill-cli-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

const secrets = {
  SECRETS_KEY: Buffer.from('0123456789abcdef0123456789abcdef').toString('base64'),
  ADMIN_PASSWORD: 'hunter2-hunter2',
  DATABASE_URL: 'postgresql://ada:sesame-pg@db.example:5432/waybill',
  RABBITMQ_URL: 'amqp://ada:sesame-mq@mq.example:5672',
  REDIS_URL: 'redis://:sesame-redis@redis.example:6379',
  SMTP_URL: 'smtp://ada:sesame-smtp@mail.example:587',
  KYC_PROVIDER_SECRET: 'sesame-kyc-secret-16',
};
const hidden = /sesame|hunter2|MDEyMzQ1/;

test('secrets are masked and the rest is shown', async () => {
  const { code, stdout, stderr } = await waybill(['config'], { ...secrets, PORT: '8080' }, { cwd: folder() }).exit;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).not.toMatch(hidden);
  expect(stdout).toMatch(/^PORT +8080$/m);
  expect(stdout).toMatch(/^SECRETS_KEY +\*\*\*$/m);
  expect(stdout).toContain('postgresql://ada:***@db.example:5432/waybill');
  expect(stdout).toMatch(/^KYC_PROVIDER +\(default\) manual$/m);
});

test('what is not set is shown with the default in force', async () => {
  const { out } = await call({ SECRETS_KEY: secrets.SECRETS_KEY }, () => printConfig({}));
  for (const line of [
    /^COMMAND_WAIT_MS +\(default\) 5000$/m,
    /^RATE_LIMITS +\(default\) register=5\/60,login=10\/60,user=100\/60,admin=1000\/60$/m,
    /^WEBHOOK_RETRY_SCHEDULE +\(default\) 5s,5m,30m,2h,5h,10h,14h,20h,1d$/m,
    /^OPERATION_RETENTION +\(default\) 7d$/m,
    /^PUBLIC_URL +\(default\) http:\/\/localhost:3000$/m,
    /^DATABASE_URL +\(default\) postgresql:\/\/postgres:\*\*\*@localhost:5432\/waybill$/m,
    /^WEBHOOKS_CONCURRENCY +\(default\) 50$/m,
    /^ADMIN_PASSWORD +\(default\) \*\*\* /m,
  ])
    expect(out).toMatch(line);
  const unset = [...out.matchAll(/^(\w+) +\(unset\)$/gm)].map(([, name]) => name);
  expect(unset.toSorted()).toEqual([
    'CORS_ORIGINS',
    'KYC_PROVIDER_SECRET',
    'SECOND_FACTOR_REQUIRED',
    'SECRETS_KEY_PREVIOUS',
    'TRUSTED_PROXIES',
    'WEBHOOK_ALLOW_NETWORKS',
    'WEBHOOK_PROXY_URL',
  ]);
});

test('--json is the same as JSON', async () => {
  const { out: stdout } = await call({ ...secrets, PORT: '8080' }, () => printConfig({ json: true }));
  expect(stdout).not.toMatch(hidden);
  expect(JSON.parse(stdout)).toMatchObject({ PORT: '8080', ADMIN_PASSWORD: '***', RATE_LIMITS: null });
});

test('a secret may come from a file', async () => {
  const dir = folder();
  writeFileSync(join(dir, 'password'), 'hunter2-hunter2\n');
  const env = { ADMIN_PASSWORD_FILE: join(dir, 'password'), SMTP_URL_FILE: join(dir, 'absent') };
  const { code, stdout, stderr } = await waybill(['config'], env, { cwd: dir }).exit;
  expect(stdout).toMatch(/^ADMIN_PASSWORD +\*\*\*$/m);
  expect(code).toBe(1);
  expect(stderr).toContain('SMTP_URL_FILE: cannot be read');
});

test('every bad variable is named at once, without a stack', async () => {
  const env = { PORT: '70000', REDIS_URL: 'http://x', NAMESPACE: 'No Good', WEBHOOK_RETRY_SCHEDULE: '5s,soon' };
  const { code, stderr } = await waybill(['config'], env, { cwd: folder() }).exit;
  expect(code).toBe(1);
  for (const name of Object.keys(env)) expect(stderr).toMatch(new RegExp(`^  - ${name}: `, 'm'));
  expect(stderr).not.toMatch(/^ {4}at /m);
});

test('production without its secrets does not start and says what is missing', async () => {
  const { code, stderr } = await waybill(['api'], { NODE_ENV: 'production' }, { cwd: folder() }).exit;
  expect(code).toBe(1);
  for (const name of ['SECRETS_KEY', 'PUBLIC_URL', 'SMTP_URL']) expect(stderr).toContain(`${name}: is required`);
});
