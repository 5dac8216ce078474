import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseEnv } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ConfigError, describeEnvironment, loadConfig, maskUrl, parseDuration, VARIABLE_NAMES } from '../src/config.ts';
import { CALLBACK_PROVIDERS } from '../src/domain/kyc/adapters/index.ts';

const KEY = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=';
const PRODUCTION = {
  NODE_ENV: 'production',
  SECRETS_KEY: KEY,
  PUBLIC_URL: 'https://waybill.example.com',
  SMTP_URL: 'smtp://mail.example.com',
};

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'waybill-config-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const load = (env: NodeJS.ProcessEnv = {}) => loadConfig(env, directory);
const problems = (env: NodeJS.ProcessEnv): string[] => {
  try {
    load(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
};

describe('a variable', () => {
  const hour = 3_600_000;
  const CASES: Record<
    (typeof VARIABLE_NAMES)[number],
    { good: [string, (c: ReturnType<typeof load>) => unknown, unknown][]; bad: string[] }
  > = {
    NODE_ENV: { good: [['test', (c) => c.env, 'test']], bad: ['staging'] },
    PORT: {
      good: [
        ['0', (c) => c.port, 0],
        ['65535', (c) => c.port, 65_535],
      ],
      bad: ['65536', '-1', '80a', '1.5'],
    },
    DATABASE_URL: { good: [['postgres://db/x', (c) => c.databaseUrl, 'postgres://db/x']], bad: ['mysql://db/x', 'db'] },
    REDIS_URL: { good: [['rediss://cache', (c) => c.redisUrl, 'rediss://cache']], bad: ['http://cache', 'cache:6379'] },
    RABBITMQ_URL: { good: [['amqps://mq', (c) => c.rabbitmqUrl, 'amqps://mq']], bad: ['http://mq'] },
    SMTP_URL: { good: [['smtps://mail', (c) => c.smtpUrl, 'smtps://mail']], bad: ['mail:25'] },
    PUBLIC_URL: { good: [['https://a.example//', (c) => c.publicUrl, 'https://a.example']], bad: ['a.example'] },
    NAMESPACE: { good: [['a-1_b', (c) => c.namespace, 'a-1_b']], bad: ['A', '-a', 'a:b', 'a'.repeat(49)] },
    LOG_LEVEL: { good: [['debug', (c) => c.logLevel, 'debug']], bad: ['loud'] },
    ADMIN_EMAIL: { good: [['a@b.example', (c) => c.admin?.email, 'a@b.example']], bad: ['a', 'a@b'] },
    ADMIN_PASSWORD: { good: [['12345678', (c) => c.admin?.password, '12345678']], bad: ['1234567', 'a'.repeat(129)] },
    SECRETS_KEY: {
      good: [
        [KEY, (c) => c.secretsKey.toString('base64'), KEY],
        [Buffer.from(KEY, 'base64').toString('hex'), (c) => c.secretsKey.toString('base64'), KEY],
      ],
      bad: ['short', Buffer.alloc(31, 1).toString('base64'), Buffer.alloc(32).toString('base64')],
    },
    SECRETS_KEY_PREVIOUS: {
      good: [[KEY, (c) => c.secretsKeyPrevious?.toString('base64'), KEY]],
      bad: ['short', '0'.repeat(64)],
    },
    RATE_LIMITS: {
      good: [
        ['off', (c) => c.rateLimits, 'off'],
        [
          'login=1/2',
          (c) => c.rateLimits,
          {
            register: { points: 5, duration: 60 },
            login: { points: 1, duration: 2 },
            user: { points: 100, duration: 60 },
            admin: { points: 1000, duration: 60 },
          },
        ],
      ],
      bad: ['on', 'logins=1/2', 'login=0/2', 'login=1/0', 'login=1', 'login=1/2,'],
    },
    COMMAND_WAIT_MS: { good: [['0', (c) => c.commandWaitMs, 0]], bad: ['30001', '5s'] },
    WEBHOOK_RETRY_SCHEDULE: {
      good: [
        ['500ms, 2h', (c) => c.webhookRetrySchedule, [500, 2 * hour]],
        [Array(50).fill('30d').join(','), (c) => c.webhookRetrySchedule, Array(50).fill(720 * hour)],
      ],
      bad: ['5s,soon', '5', ',', '-5s', '1.5h', '5S', '31d', '999999999999999d', Array(51).fill('1s').join(',')],
    },
    WEBHOOK_ALLOW_NETWORKS: {
      good: [['127.0.0.0/8, ::1', (c) => c.webhookAllowNetworks, ['127.0.0.0/8', '::1']]],
      bad: ['localhost', '10.0.0.0/33'],
    },
    WEBHOOK_DISABLE_AFTER: { good: [['2h', (c) => c.webhookDisableAfterMs, 2 * hour]], bad: ['5', 'never', '0s'] },
    WEBHOOK_PROXY_URL: {
      good: [['http://me:pw@proxy:3128', (c) => c.webhookProxyUrl, 'http://me:pw@proxy:3128']],
      bad: ['proxy:3128', 'socks5://proxy'],
    },
    WEBHOOK_PROXY_RESOLVES: { good: [['true', (c) => c.webhookProxyResolves, true]], bad: ['yes'] },
    DRAIN_TIMEOUT_MS: { good: [['1', (c) => c.drainTimeoutMs, 1]], bad: ['600001'] },
    KYC_PROVIDER: { good: [['manual', (c) => c.kyc.provider, 'manual']], bad: ['acme', 'Stripe'] },
    KYC_PROVIDER_SECRET: { good: [['0123456789abcdef', (c) => c.kyc.secret, '0123456789abcdef']], bad: ['short'] },
    REGISTRATION_CONFLICT: { good: [['conceal', (c) => c.registrationConflict, 'conceal']], bad: ['hide'] },
    SECOND_FACTOR_REQUIRED: {
      good: [['admin, reviewer', (c) => c.secondFactorRequired, ['admin', 'reviewer']]],
      bad: ['user', 'admin,root'],
    },
    ERASURE_GRACE_DAYS: { good: [['0', (c) => c.erasureGraceDays, 0]], bad: ['3651', '1d'] },
    TRUSTED_PROXIES: {
      good: [['10.0.0.1,fd00::/8', (c) => c.trustedProxies, ['10.0.0.1', 'fd00::/8']]],
      bad: ['proxy', '10.0.0.1/x'],
    },
    CORS_ORIGINS: {
      good: [
        ['*', (c) => c.corsOrigins, ['*']],
        ['https://a.example, http://b:3000', (c) => c.corsOrigins, ['https://a.example', 'http://b:3000']],
      ],
      bad: ['a.example', 'https://a.example/'],
    },
    ARGON2_MEMORY_KIB: { good: [['1024', (c) => c.argon2.memoryKib, 1024]], bad: ['1023'] },
    ARGON2_TIME: { good: [['3', (c) => c.argon2.time, 3]], bad: ['0'] },
    ARGON2_PARALLELISM: { good: [['1', (c) => c.argon2.parallelism, 1]], bad: ['65'] },
    JWT_ISSUER: { good: [['me', (c) => c.jwt.issuer, 'me']], bad: [] },
    JWT_AUDIENCE: { good: [['you', (c) => c.jwt.audience, 'you']], bad: [] },
    MAIL_FROM: { good: [['A <a@b.example>', (c) => c.mailFrom, 'A <a@b.example>']], bad: ['a'] },
    OPERATION_RETENTION: { good: [['1h', (c) => c.retention.operations, hour]], bad: ['1'] },
    EVENT_RETENTION: { good: [['1d', (c) => c.retention.events, 24 * hour]], bad: ['d'] },
    EMAIL_RETENTION: { good: [['1h', (c) => c.retention.emails, hour]], bad: ['1 year'] },
    INBOX_RETENTION: { good: [['1h', (c) => c.retention.inbox, hour]], bad: ['-1h'] },
    DEAD_LETTER_RETENTION: { good: [['1h', (c) => c.retention.deadLetters, hour]], bad: ['1w'] },
    REGISTRATION_CONCURRENCY: { good: [['1', (c) => c.concurrency.registration, 1]], bad: ['0'] },
    KYC_CONCURRENCY: { good: [['2', (c) => c.concurrency.kyc, 2]], bad: ['10001'] },
    FANOUT_CONCURRENCY: { good: [['3', (c) => c.concurrency.fanout, 3]], bad: ['0'] },
    AUDIT_CONCURRENCY: { good: [['4', (c) => c.concurrency.audit, 4]], bad: ['0'] },
    EMAIL_CONCURRENCY: { good: [['5', (c) => c.concurrency.email, 5]], bad: ['many'] },
    WEBHOOKS_CONCURRENCY: { good: [['6', (c) => c.concurrency.webhooks, 6]], bad: ['0'] },
    HOUSEKEEPING_CONCURRENCY: { good: [['7', (c) => c.concurrency.housekeeping, 7]], bad: ['0'] },
  };

  test.each(VARIABLE_NAMES)('%s takes what fits and names itself when it does not', (name) => {
    for (const [value, read, expected] of CASES[name].good) expect(read(load({ [name]: value }))).toEqual(expected);
    for (const value of CASES[name].bad) {
      const found = problems({ [name]: value });
      expect(found, `${name}=${value}`).not.toEqual([]);
      expect(found.every((problem) => problem.startsWith(`${name}: `))).toBe(true);
    }
  });
});

describe('the environment as a whole', () => {
  test('has a default for everything outside production', () => {
    expect(load()).toMatchObject({
      env: 'development',
      port: undefined,
      databaseUrl: 'postgresql://postgres:postgres@localhost:5432/waybill',
      publicUrl: 'http://localhost:3000',
      rateLimits: { register: { points: 5, duration: 60 } },
      admin: { email: 'admin@waybill.localhost' },
      jwt: { issuer: 'http://localhost:3000', audience: 'waybill' },
      concurrency: { registration: 4, kyc: 50, fanout: 500, audit: 500, email: 10, webhooks: 50, housekeeping: 1 },
    });
  });

  test('is refused with one error that names every bad variable', () => {
    const env = { NODE_ENV: 'production', PORT: 'x', LOG_LEVEL: 'loud', SMTP_URL_FILE: join(directory, 'none') };
    const found = problems({ ...env, KYC_PROVIDER: 'webhook', ADMIN_PASSWORD: 'only-ten-c' });
    expect(found.map((problem) => problem.split(':')[0]).sort()).toEqual(
      [
        'ADMIN_EMAIL',
        'ADMIN_PASSWORD',
        'KYC_PROVIDER_SECRET',
        'LOG_LEVEL',
        'PORT',
        'PUBLIC_URL',
        'SECRETS_KEY',
        'SMTP_URL_FILE',
      ].sort(),
    );
    expect(new ConfigError(found).message).toContain('  - PORT: must be a whole number from 0 to 65535\n');
  });

  test('counts an empty variable as unset', () => {
    expect(load(Object.fromEntries(VARIABLE_NAMES.map((name) => [name, ''])))).toEqual(load());
  });

  test.each(['0', ''])('does not put port %j into the public URL', (port) => {
    expect(load({ PORT: port }).publicUrl).toBe('http://localhost:3000');
  });
});

describe('NAME_FILE', () => {
  const file = (text: string) => {
    writeFileSync(join(directory, 'value'), text);
    return join(directory, 'value');
  };

  test('reads the variable from a file, without the white space around it', () => {
    expect(load({ SECRETS_KEY_FILE: file(`${KEY}\n`) }).secretsKey.toString('base64')).toBe(KEY);
  });

  test('comes after the variable itself', () => {
    expect(load({ NAMESPACE: 'a', NAMESPACE_FILE: file('b') }).namespace).toBe('a');
    expect(load({ NAMESPACE: '', NAMESPACE_FILE: file('b') }).namespace).toBe('b');
  });

  test('is named when it cannot be read or holds nothing', () => {
    const none = join(directory, 'none');
    expect(problems({ SECRETS_KEY_FILE: none })).toEqual([`SECRETS_KEY_FILE: cannot be read (ENOENT: ${none})`]);
    expect(problems({ ...PRODUCTION, SECRETS_KEY: '', SECRETS_KEY_FILE: file('\n') })).toContain(
      `SECRETS_KEY_FILE: is empty (${join(directory, 'value')})`,
    );
  });
});

describe('.env', () => {
  beforeEach(() => writeFileSync(join(directory, '.env'), 'NAMESPACE=from-file\nLOG_LEVEL=debug\n'));

  test('is read outside production, after the environment', () => {
    expect(load({ LOG_LEVEL: 'warn' })).toMatchObject({ namespace: 'from-file', logLevel: 'warn' });
    expect(load({ LOG_LEVEL: '' }).logLevel).toBe('debug');
    writeFileSync(join(directory, 'ns'), 'from-name-file');
    expect(load({ NAMESPACE_FILE: join(directory, 'ns') }).namespace).toBe('from-name-file');
  });

  test('is not read in production', () => {
    expect(load(PRODUCTION)).toMatchObject({ namespace: 'waybill', logLevel: 'info' });
  });
});

describe('secrets', () => {
  test('are made once outside production and kept, readable by the owner alone', () => {
    const first = load();
    const second = load();
    expect(second.secretsKey).toEqual(first.secretsKey);
    expect(second.admin).toEqual(first.admin);
    expect(first.secretsKey).toHaveLength(32);
    for (const name of ['secrets_key', 'admin_password'])
      expect(statSync(join(directory, '.waybill', name)).mode & 0o777).toBe(0o600);
    expect(load({ NODE_ENV: 'test' }).secretsKey).toEqual(first.secretsKey);
  });

  test('differ between installations', () => {
    const other = join(directory, 'other');
    mkdirSync(other);
    expect(loadConfig({}, other).secretsKey).not.toEqual(load().secretsKey);
  });

  test('are not written when they are given', () => {
    load({ SECRETS_KEY: KEY, ADMIN_PASSWORD: '12345678' });
    expect(() => statSync(join(directory, '.waybill'))).toThrow('ENOENT');
  });

  test('that were kept and damaged are refused', () => {
    load();
    chmodSync(join(directory, '.waybill/secrets_key'), 0o600);
    writeFileSync(join(directory, '.waybill/secrets_key'), 'half');
    expect(problems({})).toEqual([`SECRETS_KEY: ${join(directory, '.waybill/secrets_key')} does not hold 32 bytes`]);
  });

  test('are required in production, and made by nobody', () => {
    expect(problems({ NODE_ENV: 'production' }).map((problem) => problem.split(':')[0])).toEqual([
      'SECRETS_KEY',
      'PUBLIC_URL',
      'SMTP_URL',
    ]);
    expect(load(PRODUCTION).admin).toBeUndefined();
    expect(() => statSync(join(directory, '.waybill'))).toThrow('ENOENT');
  });

  test('that are weak are refused in production', () => {
    expect(problems({ ...PRODUCTION, SECRETS_KEY: Buffer.alloc(32, 7).toString('base64') })).toEqual([
      'SECRETS_KEY: is too weak: its bytes repeat (openssl rand -base64 32)',
    ]);
    expect(problems({ ...PRODUCTION, ADMIN_EMAIL: 'a@b.example', ADMIN_PASSWORD: '12345678901' })).toEqual([
      'ADMIN_PASSWORD: is too weak for production (at least 12 characters)',
    ]);
    expect(problems({ ...PRODUCTION, ADMIN_PASSWORD: '123456789012' })).toEqual([
      'ADMIN_EMAIL: is required with ADMIN_PASSWORD',
    ]);
  });

  test('of a provider are required with it', () => {
    for (const provider of CALLBACK_PROVIDERS) {
      expect(problems({ KYC_PROVIDER: provider })).toEqual([
        `KYC_PROVIDER_SECRET: is required with KYC_PROVIDER=${provider}`,
      ]);
      expect(problems({ KYC_PROVIDER: provider, KYC_PROVIDER_SECRET: '0123456789abcdef' })).toEqual([]);
    }
  });

  test('are not in an error', () => {
    const secret = 'hunter2';
    const env = { ADMIN_PASSWORD: secret, SECRETS_KEY: secret, KYC_PROVIDER_SECRET: secret, DATABASE_URL: secret };
    expect(problems(env)).toHaveLength(4);
    expect(problems(env).join('\n')).not.toContain(secret);
  });
});

describe('what is printed', () => {
  test('has every secret masked', () => {
    const env = {
      SECRETS_KEY: KEY,
      SECRETS_KEY_PREVIOUS: KEY,
      ADMIN_PASSWORD: 'hunter2-hunter2',
      KYC_PROVIDER_SECRET: 'hunter2-hunter2',
      DATABASE_URL: 'postgresql://me:hunter2@db/x',
      REDIS_URL: 'redis://:hunter2@cache',
      RABBITMQ_URL: 'amqp://me:hunter2@mq',
      SMTP_URL: 'smtp://me:hun:ter2@[broken',
      WEBHOOK_PROXY_URL: 'http://me:hunter2@proxy:3128',
      PORT: '80',
    };
    const printed = Object.fromEntries(describeEnvironment(env, directory));
    expect(JSON.stringify(printed)).not.toMatch(/hun|AAEC/);
    expect(printed).toMatchObject({
      DATABASE_URL: 'postgresql://me:***@db/x',
      REDIS_URL: 'redis://:***@cache',
      SMTP_URL: '***',
      WEBHOOK_PROXY_URL: 'http://me:***@proxy:3128/',
      SECRETS_KEY: '***',
      PORT: '80',
      LOG_LEVEL: null,
    });
    expect(Object.keys(printed)).toEqual(VARIABLE_NAMES);
  });

  test('masks the password of a URL alone', () => {
    expect(maskUrl('amqp://me:pw@mq:5672/v')).toBe('amqp://me:***@mq:5672/v');
    expect(maskUrl('redis://localhost:6379')).toBe('redis://localhost:6379');
  });
});

test.each([
  ['0ms', 0],
  ['250ms', 250],
  ['30s', 30_000],
  ['5m', 300_000],
  ['2h', 7_200_000],
  [' 7d ', 604_800_000],
  ['', undefined],
  ['5', undefined],
  ['-5s', undefined],
  ['1.5s', undefined],
  ['5 s', undefined],
])('the duration %j is %j ms', (text, ms) => {
  expect(parseDuration(text)).toBe(ms);
});

describe('.env.example', () => {
  const text = readFileSync(new URL('../.env.example', import.meta.url), 'utf8');
  const uncommented = parseEnv(text.replaceAll(/^# (?=[A-Z0-9_]+=)/gm, ''));

  test('names every variable once, each commented out', () => {
    const names = [...text.matchAll(/^(.*?)([A-Z0-9_]+)=/gm)].map(([, before, name]) => `${before}${name}`);
    expect(names.filter((name) => !name.startsWith('# '))).toEqual([]);
    expect(Object.keys(uncommented).sort()).toEqual([...VARIABLE_NAMES].sort());
    expect(names).toHaveLength(VARIABLE_NAMES.length);
    expect(parseEnv(text)).toEqual({});
  });

  test('is usable whole, and shows the defaults', () => {
    const whole = load(uncommented);
    const defaults = load();
    expect(whole).toMatchObject({
      ...defaults,
      port: 3000,
      smtpUrl: 'smtp://localhost:1025',
      admin: { email: 'admin@waybill.localhost' },
      secretsKey: expect.any(Buffer),
      secretsKeyPrevious: expect.any(Buffer),
      kyc: { provider: 'manual' },
      trustedProxies: ['127.0.0.1', '10.0.0.0/8'],
      corsOrigins: ['https://app.example.com'],
      webhookAllowNetworks: ['127.0.0.0/8', '::1/128'],
      webhookProxyUrl: 'http://user:password@proxy.internal:3128',
    });
  });
});

describe('docs/reference/configuration.md', () => {
  const rows = readFileSync(new URL('../docs/reference/configuration.md', import.meta.url), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim()));

  test('has a row for every variable', () => {
    expect(rows.map((row) => row[1]).sort()).toEqual(VARIABLE_NAMES.map((name) => `\`${name}\``).sort());
  });

  test('gives the defaults that hold', () => {
    const given = rows.flatMap(([, name = '', value = '']) =>
      /^`[^`]+`$/.test(value) ? [[name.slice(1, -1), value.slice(1, -1)]] : [],
    );
    expect(given.length).toBeGreaterThan(25);
    expect(load(Object.fromEntries(given))).toEqual(load());
  });
});
