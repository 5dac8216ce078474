import { type Config, describeEnvironment, loadConfig, maskUrl, POOLS, RATE_LIMIT_GROUPS } from '../config.ts';
import { say } from './say.ts';

/**
 * `waybill config`: what is set, masked, and the default in force of what is not; then an error that names everything
 * wrong with it. With `json` what is not set is `null`.
 */
export async function printConfig(options: { json?: boolean }): Promise<void> {
  const entries = describeEnvironment();
  if (options.json) {
    say(JSON.stringify(Object.fromEntries(entries), null, 2));
    loadConfig();
    return;
  }
  const read = attempt(loadConfig);
  const defaults: Record<string, string> = 'value' in read ? inForce(read.value) : {};
  for (const [name, value] of entries) {
    const standing = defaults[name] ? `(default) ${defaults[name]}` : '(unset)';
    say(`${name.padEnd(28)} ${value ?? standing}`);
  }
  if ('error' in read) throw read.error;
}

/** Each variable as it would be written to get what is in force now; those that stand for nothing are left out or empty. */
function inForce(config: Config): Record<string, string> {
  const { rateLimits, argon2, retention } = config;
  return {
    NODE_ENV: config.env,
    PORT: String(config.port ?? '3000 (a worker: any free port)'),
    DATABASE_URL: maskUrl(config.databaseUrl),
    REDIS_URL: maskUrl(config.redisUrl),
    RABBITMQ_URL: maskUrl(config.rabbitmqUrl),
    SMTP_URL: '(mails go to the built-in inbox)',
    PUBLIC_URL: config.publicUrl,
    NAMESPACE: config.namespace,
    LOG_LEVEL: config.logLevel,
    ADMIN_EMAIL: config.admin?.email ?? '',
    ADMIN_PASSWORD: config.admin ? '*** (kept in .waybill)' : '',
    SECRETS_KEY: '*** (kept in .waybill)',
    RATE_LIMITS:
      rateLimits === 'off'
        ? 'off'
        : RATE_LIMIT_GROUPS.map((g) => `${g}=${rateLimits[g].points}/${rateLimits[g].duration}`).join(','),
    COMMAND_WAIT_MS: String(config.commandWaitMs),
    WEBHOOK_RETRY_SCHEDULE: config.webhookRetrySchedule.map(duration).join(','),
    WEBHOOK_ALLOW_NETWORKS: config.webhookAllowNetworks.join(','),
    WEBHOOK_DISABLE_AFTER: duration(config.webhookDisableAfterMs),
    WEBHOOK_PROXY_RESOLVES: String(config.webhookProxyResolves),
    DRAIN_TIMEOUT_MS: String(config.drainTimeoutMs),
    KYC_PROVIDER: config.kyc.provider,
    REGISTRATION_CONFLICT: config.registrationConflict,
    SECOND_FACTOR_REQUIRED: config.secondFactorRequired.join(','),
    ERASURE_GRACE_DAYS: String(config.erasureGraceDays),
    TRUSTED_PROXIES: config.trustedProxies.join(','),
    CORS_ORIGINS: config.corsOrigins.join(','),
    ARGON2_MEMORY_KIB: String(argon2.memoryKib),
    ARGON2_TIME: String(argon2.time),
    ARGON2_PARALLELISM: String(argon2.parallelism),
    JWT_ISSUER: config.jwt.issuer,
    JWT_AUDIENCE: config.jwt.audience,
    MAIL_FROM: config.mailFrom,
    OPERATION_RETENTION: duration(retention.operations),
    EVENT_RETENTION: duration(retention.events),
    EMAIL_RETENTION: duration(retention.emails),
    INBOX_RETENTION: duration(retention.inbox),
    DEAD_LETTER_RETENTION: duration(retention.deadLetters),
    ...Object.fromEntries(POOLS.map((pool) => [`${pool.toUpperCase()}_CONCURRENCY`, String(config.concurrency[pool])])),
  };
}

/** The shortest way to write a duration of `ms`. */
function duration(ms: number): string {
  const units: [string, number][] = [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1000],
  ];
  const [unit, length] = units.find(([, length]) => ms % length === 0) ?? ['ms', 1];
  return `${ms / length}${unit}`;
}

function attempt<T>(work: () => T): { value: T } | { error: unknown } {
  try {
    return { value: work() };
  } catch (error) {
    return { error };
  }
}
