import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parse } from 'yaml';

interface ComposeService {
  image?: string;
  build?: string;
  profiles?: string[];
  command?: string[];
  environment?: Record<string, string>;
  ports?: string[];
  volumes?: string[];
  depends_on?: Record<string, { condition: string }>;
  healthcheck?: { test?: string[]; disable?: boolean };
  restart?: string;
  init?: boolean;
  stop_grace_period?: string;
  container_name?: string;
}

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const text = read('docker-compose.yml');
const file = parse(text, { merge: true }) as {
  version?: string;
  services: Record<string, ComposeService>;
  volumes: Record<string, unknown>;
};

const SERVERS = ['postgres', 'redis', 'rabbitmq'];
const POOLS = ['registration', 'kyc', 'fanout', 'audit', 'email', 'webhooks', 'housekeeping'];
const APP = ['api', ...POOLS];

const service = (name: string): ComposeService => {
  const found = file.services[name];
  if (!found) throw new Error(`docker-compose.yml has no service ${name}`);
  return found;
};

test('has the servers, the inbox, the migration, the API and every pool, and nothing else', () => {
  expect(Object.keys(file.services).sort()).toEqual([...SERVERS, 'mailpit', 'migrate', ...APP].sort());
  expect(file).not.toHaveProperty('version');
});

test.each(POOLS)('%s runs its pool alone and can be scaled', (pool) => {
  expect(service(pool).command).toEqual(['worker', pool]);
  expect(service(pool).ports).toBeUndefined();
});

test('no service has a fixed container name, and ports are published on loopback only', () => {
  for (const [name, { container_name, ports }] of Object.entries(file.services)) {
    expect(container_name, name).toBeUndefined();
    for (const port of ports ?? []) expect(port, name).toMatch(/^127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+$/);
  }
});

test('the servers alone are up without the app profile', () => {
  for (const name of SERVERS) expect(service(name).profiles, name).toBeUndefined();
  for (const name of ['mailpit', 'migrate', ...APP]) expect(service(name).profiles, name).toEqual(['app']);
  // Compose resolves the whole file first, so one `${NAME:?}` would make the servers ask for the platform's secrets.
  expect(text.replace(/^\s*#.*$/gm, '')).not.toMatch(/\$\{[A-Z_]+:?\?/);
});

test('the health of each is asked with a program its image has', () => {
  const program: Record<string, string> = {
    postgres: 'pg_isready',
    redis: 'redis-cli',
    rabbitmq: 'rabbitmq-diagnostics',
    mailpit: '/mailpit',
    ...Object.fromEntries(APP.map((name) => [name, 'node'])),
  };
  for (const [name, expected] of Object.entries(program)) {
    const [kind, command] = service(name).healthcheck?.test ?? [];
    expect(['CMD', 'CMD-SHELL'], name).toContain(kind);
    expect(command?.split(' ')[0], name).toBe(expected);
  }
  expect(service('migrate')).toMatchObject({ healthcheck: { disable: true }, restart: 'no' });
});

test.each(APP)('%s starts after healthy servers and a finished migration, and gets time to drain', (name) => {
  expect(service(name).depends_on).toEqual({
    postgres: { condition: 'service_healthy' },
    redis: { condition: 'service_healthy' },
    rabbitmq: { condition: 'service_healthy' },
    mailpit: { condition: 'service_healthy' },
    migrate: { condition: 'service_completed_successfully' },
  });
  expect(service(name)).toMatchObject({ init: false, stop_grace_period: '30s', build: '.' });
});

test('the platform talks to the servers by their names, and the health check to the port it is given', () => {
  const environment = service('email').environment ?? {};
  for (const [name, host] of [
    ['DATABASE_URL', 'postgres:5432'],
    ['REDIS_URL', 'redis:6379'],
    ['RABBITMQ_URL', 'rabbitmq:5672'],
    ['SMTP_URL', 'mailpit:1025'],
  ] as const) {
    expect(environment[name], name).toContain(host);
  }
  expect(service('email').healthcheck?.test?.join(' ')).toContain(`127.0.0.1:${environment.PORT}/livez`);
  expect(service('api').ports?.[0]).toMatch(new RegExp(`:${environment.PORT}$`));
});

test('servers keep their data in named volumes, get only variables their image documents, and Redis never evicts', () => {
  const documented: Record<string, string[]> = {
    postgres: ['POSTGRES_USER', 'POSTGRES_PASSWORD'],
    redis: [],
    rabbitmq: ['RABBITMQ_DEFAULT_USER', 'RABBITMQ_DEFAULT_PASS'],
    mailpit: ['MP_MAX_MESSAGES'],
  };
  for (const [name, variables] of Object.entries(documented)) {
    expect(Object.keys(service(name).environment ?? {}), name).toEqual(variables);
  }
  for (const name of SERVERS) {
    const [volume, path] = service(name).volumes?.[0]?.split(':') ?? [];
    expect(file.volumes).toHaveProperty(volume ?? '');
    expect(path).toBe({ postgres: '/var/lib/postgresql/data', redis: '/data', rabbitmq: '/var/lib/rabbitmq' }[name]);
  }
  const redis = service('redis').command?.join(' ');
  expect(redis).toContain('--appendonly yes --appendfsync everysec');
  expect(redis).toContain('--maxmemory-policy noeviction');
});

test('the image runs node itself, as a user that is not root, without development dependencies', () => {
  const stages = read('Dockerfile').split(/^FROM /m);
  const last = stages.at(-1) ?? '';
  expect(last).toMatch(/^node:24-bookworm-slim\n/);
  expect(last).toMatch(/^USER node$/m);
  expect(last).toMatch(/^ENTRYPOINT \["node", "dist\/main\.js"\]$/m);
  expect(last).toMatch(/^CMD \["start"\]$/m);
  expect(last).toContain('--from=dependencies /app/node_modules');
  expect(stages.find((stage) => stage.includes('AS dependencies'))).toContain('--omit=dev');
  expect(last).not.toMatch(/^(RUN|CMD|ENTRYPOINT).*npm/m);
});
