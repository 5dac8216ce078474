import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseEnv } from 'node:util';
import ipaddr from 'ipaddr.js';
import { z } from 'zod';

/** The worker pools, in the order in which an operator reads them (product contract, "Operating it"). */
export const POOLS = ['registration', 'kyc', 'fanout', 'audit', 'email', 'webhooks', 'housekeeping'] as const;
export type Pool = (typeof POOLS)[number];

/**
 * Work in flight per process and pool. Registration is bounded by argon2 (25 hashes/s saturate two cores). Commands of
 * `kyc` share their transactions, so more at once means less work for each (50 clients: 470/s with 10, 1,100/s with 50).
 */
const DEFAULT_CONCURRENCY: Record<Pool, number> = {
  registration: 4,
  kyc: 50,
  fanout: 500,
  audit: 500,
  email: 10,
  webhooks: 50,
  housekeeping: 1,
};

/** The roles that may do more than a user: those that `SECOND_FACTOR_REQUIRED` can name. */
export const PRIVILEGED_ROLES = ['admin', 'operator', 'reviewer'] as const;
export type PrivilegedRole = (typeof PRIVILEGED_ROLES)[number];

export const RATE_LIMIT_GROUPS = ['register', 'login', 'user', 'admin'] as const;
export type RateLimitGroup = (typeof RATE_LIMIT_GROUPS)[number];
/** `points` requests in each window of `duration` seconds. */
export type RateLimits = Record<RateLimitGroup, { points: number; duration: number }>;

const DEFAULT_RATE_LIMITS: RateLimits = {
  register: { points: 5, duration: 60 },
  login: { points: 10, duration: 60 },
  user: { points: 100, duration: 60 },
  admin: { points: 1000, duration: 60 },
};

const UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `30s`, `5m`, `7d` → milliseconds; `undefined` when the text is no duration. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+)(ms|s|m|h|d)$/.exec(text.trim());
  const unit = match ? UNITS[match[2] ?? ''] : undefined;
  return match && unit ? Number(match[1]) * unit : undefined;
}

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, `must be a whole number from ${min} to ${max}`)
    .transform(Number)
    .refine((n) => n >= min && n <= max, `must be a whole number from ${min} to ${max}`);

const url = (...protocols: string[]) =>
  z.string().refine(
    (text) => {
      const parsed = URL.parse(text);
      return parsed !== null && protocols.includes(parsed.protocol.slice(0, -1));
    },
    `must be a URL that starts with ${protocols.map((p) => `${p}://`).join(' or ')}`,
  );

const duration = z.string().transform((text, ctx) => {
  const ms = parseDuration(text);
  if (ms === undefined)
    ctx.addIssue({ code: 'custom', message: 'must be a duration such as 500ms, 30s, 5m, 2h or 7d' });
  return ms ?? 0;
});

const list = z.string().transform((text) =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean),
);

const networks = list.transform((parts, ctx) => {
  for (const part of parts)
    if (!ipaddr.isValid(part) && !ipaddr.isValidCIDR(part))
      ctx.addIssue({ code: 'custom', message: `"${part}" is neither an address nor a network such as 10.0.0.0/8` });
  return parts;
});

const origins = list.transform((parts, ctx) => {
  for (const part of parts)
    if (part !== '*' && URL.parse(part)?.origin !== part)
      ctx.addIssue({ code: 'custom', message: `"${part}" is neither * nor an origin such as https://app.example.com` });
  return parts;
});

const privilegedRoles = list.transform((parts, ctx) => {
  for (const part of parts)
    if (!(PRIVILEGED_ROLES as readonly string[]).includes(part))
      ctx.addIssue({ code: 'custom', message: `"${part}" is none of ${PRIVILEGED_ROLES.join(', ')}` });
  return parts as PrivilegedRole[];
});

const MAX_RETRIES = 50;
const MAX_RETRY_DELAY_MS = 30 * 86_400_000;

const schedule = list.transform((parts, ctx) => {
  const refuse = (message: string) => ctx.addIssue({ code: 'custom', message });
  if (parts.length < 1 || parts.length > MAX_RETRIES) refuse(`must be 1 to ${MAX_RETRIES} delays such as 5s,5m,2h`);
  return parts.map((part) => {
    const ms = parseDuration(part);
    if (ms === undefined) refuse(`"${part}" is not a duration such as 5s or 2h`);
    else if (ms > MAX_RETRY_DELAY_MS) refuse(`"${part}" is longer than 30 days`);
    return ms ?? 0;
  });
});

const key32 = z.string().transform((text, ctx) => {
  const key = /^[0-9a-f]{64}$/i.test(text) ? Buffer.from(text, 'hex') : Buffer.from(text, 'base64');
  if (key.length !== 32) {
    ctx.addIssue({ code: 'custom', message: 'must be 32 bytes, in base64 or hex (openssl rand -base64 32)' });
  } else if (new Set(key).size < 8) {
    ctx.addIssue({ code: 'custom', message: 'is too weak: its bytes repeat (openssl rand -base64 32)' });
  }
  return key;
});

const rateLimits = z.string().transform((text, ctx): RateLimits | 'off' => {
  if (text === 'off') return 'off';
  const limits = { ...DEFAULT_RATE_LIMITS };
  for (const part of text.split(',')) {
    const [, group, points, seconds] = /^\s*(\w+)=(\d+)\/(\d+)\s*$/.exec(part) ?? [];
    if (
      !group ||
      !(RATE_LIMIT_GROUPS as readonly string[]).includes(group) ||
      Number(points) < 1 ||
      Number(seconds) < 1
    ) {
      const known = RATE_LIMIT_GROUPS.join(', ');
      ctx.addIssue({ code: 'custom', message: `"${part}" is not "off" or <group>=<requests>/<seconds> (${known})` });
      continue;
    }
    limits[group as RateLimitGroup] = { points: Number(points), duration: Number(seconds) };
  }
  return limits;
});

/** Who calls back about identity checks, each under a signature of its own scheme. */
const SIGNED_PROVIDERS = ['webhook', 'stripe', 'sumsub'] as const;

const variables = {
  NODE_ENV: z.enum(['development', 'test', 'production']).default('development'),
  PORT: integer(0, 65_535).optional(),
  DATABASE_URL: url('postgresql', 'postgres').default('postgresql://postgres:postgres@localhost:5432/waybill'),
  REDIS_URL: url('redis', 'rediss').default('redis://localhost:6379'),
  RABBITMQ_URL: url('amqp', 'amqps').default('amqp://guest:guest@localhost:5672'),
  SMTP_URL: url('smtp', 'smtps').optional(),
  PUBLIC_URL: url('http', 'https').optional(),
  NAMESPACE: z
    .string()
    .regex(/^[a-z0-9][a-z0-9_-]{0,47}$/, 'must be 1–48 of a-z, 0-9, _ and -')
    .default('waybill'),
  LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  ADMIN_EMAIL: z.email('must be an e-mail address').optional(),
  ADMIN_PASSWORD: z
    .string()
    .min(8, 'must have at least 8 characters')
    .max(128, 'must have at most 128 characters')
    .optional(),
  SECRETS_KEY: key32.optional(),
  SECRETS_KEY_PREVIOUS: key32.optional(),
  RATE_LIMITS: rateLimits.default(DEFAULT_RATE_LIMITS),
  COMMAND_WAIT_MS: integer(0, 30_000).default(5000),
  WEBHOOK_RETRY_SCHEDULE: schedule.default(
    ['5s', '5m', '30m', '2h', '5h', '10h', '14h', '20h', '24h'].map((d) => parseDuration(d) ?? 0),
  ),
  WEBHOOK_ALLOW_NETWORKS: networks.default([]),
  WEBHOOK_DISABLE_AFTER: duration.refine((ms) => ms > 0, 'must be longer than 0').default(5 * 86_400_000),
  WEBHOOK_PROXY_URL: url('http', 'https').optional(),
  WEBHOOK_PROXY_RESOLVES: z.enum(['true', 'false']).default('false'),
  DRAIN_TIMEOUT_MS: integer(0, 600_000).default(25_000),
  KYC_PROVIDER: z.enum(['manual', ...SIGNED_PROVIDERS]).default('manual'),
  KYC_PROVIDER_SECRET: z.string().min(16, 'must have at least 16 characters').optional(),
  REGISTRATION_CONFLICT: z.enum(['reject', 'conceal']).default('reject'),
  SECOND_FACTOR_REQUIRED: privilegedRoles.default([]),
  ERASURE_GRACE_DAYS: integer(0, 3650).default(30),
  TRUSTED_PROXIES: networks.default([]),
  CORS_ORIGINS: origins.default([]),
  ARGON2_MEMORY_KIB: integer(1024, 4_194_304).default(65_536),
  ARGON2_TIME: integer(1, 100).default(1),
  ARGON2_PARALLELISM: integer(1, 64).default(4),
  JWT_ISSUER: z.string().min(1).optional(),
  JWT_AUDIENCE: z.string().min(1).default('waybill'),
  MAIL_FROM: z.string().min(3).default('Waybill <no-reply@waybill.localhost>'),
  OPERATION_RETENTION: duration.default(7 * 86_400_000),
  EVENT_RETENTION: duration.default(30 * 86_400_000),
  EMAIL_RETENTION: duration.default(30 * 86_400_000),
  INBOX_RETENTION: duration.default(7 * 86_400_000),
  DEAD_LETTER_RETENTION: duration.default(90 * 86_400_000),
  ...(Object.fromEntries(
    POOLS.map((pool) => [`${pool.toUpperCase()}_CONCURRENCY`, integer(1, 10_000).optional()]),
  ) as Record<`${Uppercase<Pool>}_CONCURRENCY`, z.ZodOptional<ReturnType<typeof integer>>>),
};

/** Every variable's name, for `.env.example`, `waybill config` and the docs. */
export const VARIABLE_NAMES = Object.keys(variables) as (keyof typeof variables)[];

export interface Config {
  env: 'development' | 'test' | 'production';
  /** `undefined` when PORT was not given: the API then takes 3000 and a worker any free port. */
  port: number | undefined;
  databaseUrl: string;
  redisUrl: string;
  rabbitmqUrl: string;
  smtpUrl: string | undefined;
  publicUrl: string;
  namespace: string;
  logLevel: string;
  admin: { email: string; password: string } | undefined;
  secretsKey: Buffer;
  secretsKeyPrevious: Buffer | undefined;
  rateLimits: RateLimits | 'off';
  commandWaitMs: number;
  /** Delays in ms between the attempts of one delivery: n delays are n + 1 attempts. */
  webhookRetrySchedule: number[];
  webhookAllowNetworks: string[];
  /** An endpoint that only fails for so long is disabled, in ms. */
  webhookDisableAfterMs: number;
  /** What webhooks go out through. */
  webhookProxyUrl: string | undefined;
  /** It is given names, not addresses. */
  webhookProxyResolves: boolean;
  concurrency: Record<Pool, number>;
  drainTimeoutMs: number;
  kyc: { provider: 'manual' | (typeof SIGNED_PROVIDERS)[number]; secret: string | undefined };
  registrationConflict: 'reject' | 'conceal';
  /** Whose sessions can only turn a second factor on until one is. */
  secondFactorRequired: PrivilegedRole[];
  erasureGraceDays: number;
  trustedProxies: string[];
  corsOrigins: string[];
  argon2: { memoryKib: number; time: number; parallelism: number };
  jwt: { issuer: string; audience: string };
  mailFrom: string;
  /** Ages in ms after which finished rows are purged. */
  retention: { operations: number; events: number; emails: number; inbox: number; deadLetters: number };
  /** Where development keeps its made secrets and private services. */
  dataDir: string;
}

/** One error for all that is wrong with the environment; `problems` has a line per variable. */
export class ConfigError extends Error {
  readonly problems: string[];
  constructor(problems: string[]) {
    super(`The configuration is not usable:\n${problems.map((p) => `  - ${p}`).join('\n')}`);
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

/**
 * The environment comes before `.env` (which production does not read), and in each `NAME` before `NAME_FILE`;
 * an empty variable counts as unset.
 */
function gather(env: NodeJS.ProcessEnv, directory: string, problems: string[]): Record<string, string> {
  const dotenv = resolve(directory, '.env');
  const base = env.NODE_ENV !== 'production' && existsSync(dotenv) ? parseEnv(readFileSync(dotenv, 'utf8')) : {};
  const found: Record<string, string> = {};
  for (const name of VARIABLE_NAMES) {
    const source = [env, base].find((variables) => variables[name] || variables[`${name}_FILE`]);
    const file = source?.[`${name}_FILE`];
    if (source?.[name]) found[name] = source[name];
    else if (file) {
      try {
        found[name] = readFileSync(file, 'utf8').trim();
        if (!found[name]) problems.push(`${name}_FILE: is empty (${file})`);
      } catch (error) {
        problems.push(`${name}_FILE: cannot be read (${(error as NodeJS.ErrnoException).code ?? 'error'}: ${file})`);
      }
    }
  }
  return found;
}

/** A development secret, made once and kept with mode 0600. */
function keptSecret(dataDir: string, name: string, make: () => string): string {
  const path = resolve(dataDir, name);
  mkdirSync(dataDir, { recursive: true, mode: 0o755 });
  try {
    writeFileSync(path, `${make()}\n`, { mode: 0o600, flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return readFileSync(path, 'utf8').trim();
}

function keptKey(dataDir: string): Buffer {
  const kept = keptSecret(dataDir, 'secrets_key', () => randomBytes(32).toString('base64'));
  const key = key32.safeParse(kept);
  if (!key.success) throw new ConfigError([`SECRETS_KEY: ${resolve(dataDir, 'secrets_key')} does not hold 32 bytes`]);
  return key.data;
}

/** What is wrong with the variables taken together, whatever each holds by itself. */
function missing(given: Record<string, string>): string[] {
  const problems: string[] = [];
  if (given.NODE_ENV === 'production') {
    if (!given.SECRETS_KEY) problems.push('SECRETS_KEY: is required in production (openssl rand -base64 32)');
    if (!given.PUBLIC_URL) problems.push('PUBLIC_URL: is required in production (links in e-mails are built from it)');
    if (!given.SMTP_URL) problems.push('SMTP_URL: is required in production (the built-in inbox is for development)');
    if (given.ADMIN_PASSWORD && given.ADMIN_PASSWORD.length >= 8 && given.ADMIN_PASSWORD.length < 12)
      problems.push('ADMIN_PASSWORD: is too weak for production (at least 12 characters)');
    if (given.ADMIN_PASSWORD && !given.ADMIN_EMAIL) problems.push('ADMIN_EMAIL: is required with ADMIN_PASSWORD');
  }
  if (SIGNED_PROVIDERS.some((name) => name === given.KYC_PROVIDER) && !given.KYC_PROVIDER_SECRET)
    problems.push(`KYC_PROVIDER_SECRET: is required with KYC_PROVIDER=${given.KYC_PROVIDER}`);
  return problems;
}

/**
 * The typed configuration of the environment (product contract, "Configuration").
 * Throws one `ConfigError` that names every bad variable.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env, directory: string = process.cwd()): Config {
  const problems: string[] = [];
  const given = gather(env, directory, problems);
  const parsed = z.object(variables).safeParse(given);
  for (const issue of parsed.error?.issues ?? []) problems.push(`${issue.path.join('.')}: ${issue.message}`);
  problems.push(...missing(given).filter((text) => !problems.some((p) => p.startsWith(`${text.split(':')[0]}_FILE:`))));
  if (!parsed.success || problems.length > 0) throw new ConfigError(problems);

  const v = parsed.data;
  const production = v.NODE_ENV === 'production';
  const dataDir = resolve(directory, '.waybill');
  const secretsKey = v.SECRETS_KEY ?? keptKey(dataDir);
  const adminEmail = v.ADMIN_EMAIL ?? (production ? undefined : 'admin@waybill.localhost');
  const adminPassword =
    v.ADMIN_PASSWORD ??
    (production ? undefined : keptSecret(dataDir, 'admin_password', () => randomBytes(12).toString('base64url')));
  const publicUrl = (v.PUBLIC_URL ?? `http://localhost:${v.PORT || 3000}`).replace(/\/+$/, '');
  return {
    env: v.NODE_ENV,
    port: v.PORT,
    databaseUrl: v.DATABASE_URL,
    redisUrl: v.REDIS_URL,
    rabbitmqUrl: v.RABBITMQ_URL,
    smtpUrl: v.SMTP_URL,
    publicUrl,
    namespace: v.NAMESPACE,
    logLevel: v.LOG_LEVEL,
    admin: adminEmail && adminPassword ? { email: adminEmail, password: adminPassword } : undefined,
    secretsKey,
    secretsKeyPrevious: v.SECRETS_KEY_PREVIOUS,
    rateLimits: v.RATE_LIMITS,
    commandWaitMs: v.COMMAND_WAIT_MS,
    webhookRetrySchedule: v.WEBHOOK_RETRY_SCHEDULE,
    webhookAllowNetworks: v.WEBHOOK_ALLOW_NETWORKS,
    webhookDisableAfterMs: v.WEBHOOK_DISABLE_AFTER,
    webhookProxyUrl: v.WEBHOOK_PROXY_URL,
    webhookProxyResolves: v.WEBHOOK_PROXY_RESOLVES === 'true',
    concurrency: Object.fromEntries(
      POOLS.map((pool) => [
        pool,
        v[`${pool.toUpperCase() as Uppercase<Pool>}_CONCURRENCY`] ?? DEFAULT_CONCURRENCY[pool],
      ]),
    ) as Record<Pool, number>,
    drainTimeoutMs: v.DRAIN_TIMEOUT_MS,
    kyc: { provider: v.KYC_PROVIDER, secret: v.KYC_PROVIDER_SECRET },
    registrationConflict: v.REGISTRATION_CONFLICT,
    secondFactorRequired: v.SECOND_FACTOR_REQUIRED,
    erasureGraceDays: v.ERASURE_GRACE_DAYS,
    trustedProxies: v.TRUSTED_PROXIES,
    corsOrigins: v.CORS_ORIGINS,
    argon2: { memoryKib: v.ARGON2_MEMORY_KIB, time: v.ARGON2_TIME, parallelism: v.ARGON2_PARALLELISM },
    jwt: { issuer: v.JWT_ISSUER ?? publicUrl, audience: v.JWT_AUDIENCE },
    mailFrom: v.MAIL_FROM,
    retention: {
      operations: v.OPERATION_RETENTION,
      events: v.EVENT_RETENTION,
      emails: v.EMAIL_RETENTION,
      inbox: v.INBOX_RETENTION,
      deadLetters: v.DEAD_LETTER_RETENTION,
    },
    dataDir,
  };
}

const SECRET_NAMES = ['ADMIN_PASSWORD', 'SECRETS_KEY', 'SECRETS_KEY_PREVIOUS', 'KYC_PROVIDER_SECRET'];
const URL_NAMES = ['DATABASE_URL', 'REDIS_URL', 'RABBITMQ_URL', 'SMTP_URL', 'WEBHOOK_PROXY_URL'];

/** Masks the password in a URL, so that it can be printed. */
export function maskUrl(text: string): string {
  const parsed = URL.parse(text);
  if (!parsed) return '***';
  if (!parsed.password) return text;
  parsed.password = '***';
  return parsed.toString();
}

/** The environment as `waybill config` prints it: `[name, value]` with every secret masked; unset ones as `null`. */
export function describeEnvironment(
  env: NodeJS.ProcessEnv = process.env,
  directory: string = process.cwd(),
): [string, string | null][] {
  const given = gather(env, directory, []);
  return VARIABLE_NAMES.map((name) => {
    const value = given[name];
    if (value === undefined) return [name, null];
    if (SECRET_NAMES.includes(name)) return [name, '***'];
    return [name, URL_NAMES.includes(name) ? maskUrl(value) : value];
  });
}
