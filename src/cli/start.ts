import { randomBytes } from 'node:crypto';
import { type Config, loadConfig, POOLS, type Pool } from '../config.ts';
import { ensureAdmin } from '../domain/users/administration.ts';
import type { RunningPool } from '../queues/pools.ts';
import { migrateUp } from '../services/database.ts';
import { hasInbox } from '../services/inbox.ts';
import { createLogger, type Logger } from '../services/logger.ts';
import { freePort } from '../services/provision/endpoint.ts';
import { type Provisioned, provision } from '../services/provision/index.ts';
import { pause, type Service } from '../services/service.ts';
import { apiServer, type ProcessState, workerServer } from './http.ts';
import { composePools } from './pools.ts';
import { Supervisor, storeService } from './process.ts';
import { ensureDatabase, openRuntime, openStore, type Runtime } from './runtime.ts';
import { say } from './say.ts';

const DEFAULT_PORT = 3000;
const CONSUMING_MS = 10_000;

const logger = (config: Config, quiet = false): Logger =>
  createLogger({
    level: quiet && config.logLevel === 'info' ? 'warn' : config.logLevel,
    pretty: process.stdout.isTTY === true && config.env !== 'production',
  });

/** The services that the configuration names, brought up where they are missing; SIGINT in between ends what was begun. */
export async function provisionFor(config: Config, report: (line: string) => void): Promise<Provisioned> {
  const interrupted = new AbortController();
  const abort = () => interrupted.abort();
  process.once('SIGINT', abort);
  process.once('SIGTERM', abort);
  try {
    return await provision(
      { databaseUrl: config.databaseUrl, redisUrl: config.redisUrl, rabbitmqUrl: config.rabbitmqUrl },
      { dataDir: config.dataDir, report, signal: interrupted.signal },
    );
  } finally {
    process.off('SIGINT', abort);
    process.off('SIGTERM', abort);
  }
}

/** Creates the database when it is missing and runs pending migrations, with a line for each. */
export async function prepareDatabase(config: Config, report: (line: string) => void): Promise<void> {
  if (await ensureDatabase(config)) report(`Database: created "${new URL(config.databaseUrl).pathname.slice(1)}"`);
  const { database } = await openStore(config, 'waybill migrate');
  try {
    const done = await migrateUp(database, (name) => report(`Database: migrating ${name} …`));
    report(done.length > 0 ? `Database: ${done.length} migrations done` : 'Database: up to date');
  } finally {
    await database.close(true);
  }
}

/** Makes the first administrator when the configuration names one. */
export async function firstAdmin({ config, database, messaging, identity }: Runtime): Promise<string | undefined> {
  if (!config.admin) return undefined;
  const { created } = await ensureAdmin(
    { em: database.em.fork(), transact: messaging.transact, passwords: identity.passwords },
    config.admin,
  );
  return created ? 'created' : 'exists';
}

/** Everything in one process; resolves with the exit code after a signal. */
export async function start(): Promise<number> {
  const given = loadConfig();
  const provisioned = await provisionFor(given, say);
  const config = await withPort({ ...given, ...urlsOf(provisioned) });
  const log = logger(config, process.stdout.isTTY === true);
  const supervisor = new Supervisor(log, config.drainTimeoutMs);
  const stopped = supervisor.untilSignal();
  supervisor.onDrain(() => supervisor.signalled && say('Stopping: finishing what is under way (again: at once) …'));
  const services: Service = { name: 'private services', start: async () => undefined, stop: () => provisioned.stop() };
  try {
    await supervisor.start([services]);
    await prepareDatabase(config, say);
    const runtime = await openRuntime(config, log, 'start');
    const state: ProcessState = { stopping: false };
    supervisor.onDrain(() => runtime.messaging.commands.release());
    const { services: pools, running } = composePools([...POOLS], runtime);
    say(`Workers: starting ${POOLS.length} pools …`);
    await supervisor.start([storeService(runtime), runtime.messaging, ...pools]);
    const admin = await firstAdmin(runtime);
    const server = await apiServer(runtime, state, config.port ?? DEFAULT_PORT, running);
    // The requests that the server has yet to answer wait for no worker then, so neither stops after the other.
    await supervisor.startBeside(server);
    await consuming(running);
    welcome(config, server.address().port, admin);
  } catch (error) {
    // What a signal took away in the middle of the start is no error of the start.
    const { signalled } = supervisor;
    await supervisor.stop();
    if (!signalled) throw error;
  }
  await stopped;
  say('Stopped.');
  return 0;
}

/** Waits for the pools to take work, for a while: a broker that is away now is waited for after the welcome too. */
async function consuming(pools: RunningPool[]): Promise<void> {
  const end = performance.now() + CONSUMING_MS;
  while (!pools.every((pool) => pool.ready()) && performance.now() < end) await pause(20);
}

/** `PORT=0` is settled before anything is built: the links in mails and the issuer of tokens name the address. */
async function withPort(config: Config): Promise<Config> {
  if (config.port !== 0 || process.env.PUBLIC_URL) return config;
  const port = await freePort();
  const publicUrl = `http://localhost:${port}`;
  const issuer = process.env.JWT_ISSUER ? config.jwt.issuer : publicUrl;
  return { ...config, port, publicUrl, jwt: { ...config.jwt, issuer } };
}

const urlsOf = ({ databaseUrl, redisUrl, rabbitmqUrl }: Provisioned) => ({ databaseUrl, redisUrl, rabbitmqUrl });

function welcome(config: Config, port: number, admin: string | undefined): void {
  const base = `http://localhost:${port}`;
  const email = `ada-${randomBytes(2).toString('hex')}@example.com`;
  const password = process.env.ADMIN_PASSWORD ? '(ADMIN_PASSWORD)' : config.admin?.password;
  const lines = [
    '',
    'Waybill is ready.',
    `  Front page   ${base}/`,
    `  API          ${base}/api/v1`,
    `  Console      ${base}/console`,
    `  API docs     ${base}/docs`,
    ...(hasInbox(config) ? [`  Mail inbox   ${base}/dev/mail`] : []),
    ...(admin ? [`  Admin        ${config.admin?.email}  ${password}`] : []),
    '',
    'Try:',
    `  curl -s ${base}/api/v1/auth/register -H 'content-type: application/json' -d '{"email":"${email}","password":"correct horse battery","full_name":"Ada","terms_accepted":true}'`,
    '',
  ];
  say(lines.join('\n'));
}

/** The API alone. */
export async function api(): Promise<number> {
  const config = loadConfig();
  const log = logger(config);
  const runtime = await openRuntime(config, log, 'api');
  const supervisor = new Supervisor(log, config.drainTimeoutMs);
  supervisor.onDrain(() => runtime.messaging.commands.release());
  const server = await apiServer(runtime, { stopping: false }, config.port ?? DEFAULT_PORT);
  await supervisor.start([storeService(runtime), runtime.messaging]);
  await firstAdmin(runtime);
  await supervisor.start([server]);
  log.info({ url: server.address().url }, 'the API is listening');
  await supervisor.untilSignal();
  return 0;
}

/** Some pools. Without PORT the health server takes any free port and says which. */
export async function worker(pools: Pool[], overrides: Record<string, string>): Promise<number> {
  const config = loadConfig({ ...process.env, ...overrides });
  const log = logger(config);
  const runtime = await openRuntime(config, log, `worker ${pools.join('+')}`);
  const supervisor = new Supervisor(log, config.drainTimeoutMs);
  const { services, running } = composePools([...new Set(pools)], runtime);
  const server = workerServer(runtime, { stopping: false }, config.port ?? 0, running);
  await supervisor.start([storeService(runtime), runtime.messaging, ...services]);
  await supervisor.startBeside(server);
  log.info({ pools, port: server.address().port }, 'the worker is listening');
  await supervisor.untilSignal();
  return 0;
}
