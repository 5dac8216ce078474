import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { styleText } from 'node:util';
import { sql } from 'kysely';
import { type Config, ConfigError, loadConfig } from '../config.ts';
import { Broker } from '../queues/broker.ts';
import { Topology } from '../queues/topology.ts';
import { type Database, migrationStatus, openDatabase } from '../services/database.ts';
import { Keyring, SealError } from '../services/keyring.ts';
import { createLogger } from '../services/logger.ts';
import { addressOf, type Endpoint, endpointOf, isLoopback } from '../services/provision/endpoint.ts';
import {
  type Answer,
  absent,
  greet,
  greetRabbit,
  greetRedis,
  ready,
  refused,
} from '../services/provision/handshake.ts';
import { greetPostgres } from '../services/provision/postgres-handshake.ts';
import { createRedis } from '../services/redis.ts';
import { withDeadline } from '../services/service.ts';
import { proxyAuthorization } from '../webhooks/proxy.ts';
import { say } from './say.ts';

/** `skip`: it could not be looked at, because of a failure that is listed already. */
type State = 'ok' | 'warn' | 'fail' | 'skip';

interface Finding {
  name: string;
  state: State;
  text: string;
  /** What to do about it. */
  advice?: string;
}

/** A server that does not answer costs this much in all, in ms; the three are asked at the same time. */
const DEADLINE_MS = 6000;
const MINIMUM_NODE = 24;
const MINIMUM_POSTGRES = 14;
/** Quorum queues dead-letter at least once from here on. */
const MINIMUM_RABBITMQ = [3, 10];
const MINIMUM_REDIS = [6, 2];
const TOLERATED_SKEW_MS = 2000;
const GIB = 1024 ** 3;

const ok = (name: string, text: string): Finding => ({ name, state: 'ok', text });
const warn = (name: string, text: string, advice: string): Finding => ({ name, state: 'warn', text, advice });
const fail = (name: string, text: string, advice: string): Finding => ({ name, state: 'fail', text, advice });
const skip = (name: string, text: string): Finding => ({ name, state: 'skip', text });

/** `waybill doctor`: a line for each thing that Waybill needs. Writes to no service. 0 when nothing failed, else 1. */
export async function doctor(): Promise<number> {
  const states: State[] = [];
  const tell = (findings: Finding[]) => {
    for (const finding of findings) {
      states.push(finding.state);
      show(finding);
    }
  };
  tell([node()]);
  const config = configuration(tell);
  if (config) {
    // All begin at once and are told in this order.
    const findings = [postgres(config), redis(config), rabbitmq(config), mail(config), proxy(config), disk(config)];
    for (const found of findings) tell(await found);
  }
  const count = (state: State) => states.filter((s) => s === state).length;
  const failed = count('fail');
  say('');
  if (failed > 0) say(`${failed} ${failed === 1 ? 'check' : 'checks'} failed.`);
  else say(count('warn') > 0 ? 'Nothing failed; see the warnings.' : 'Everything is in order.');
  return failed > 0 ? 1 : 0;
}

const COLOUR = { ok: 'green', warn: 'yellow', fail: 'red', skip: 'gray' } as const;
const NAME_WIDTH = 15;

function show({ name, state, text, advice }: Finding): void {
  const indent = ' '.repeat(8 + NAME_WIDTH);
  const mark = styleText(COLOUR[state], (state === 'skip' ? '-' : state).padEnd(4));
  say(`  ${mark}  ${name.padEnd(NAME_WIDTH)}${text.replaceAll('\n', `\n${indent}`)}`);
  if (advice) say(`${indent}→ ${advice.replaceAll('\n', `\n${indent}  `)}`);
}

function node(): Finding {
  const at = `${process.version} (${process.execPath})`;
  return Number(process.versions.node.split('.')[0]) >= MINIMUM_NODE
    ? ok('Node', at)
    : fail('Node', at, `install Node ${MINIMUM_NODE} or newer, or run "npm ci" without --ignore-scripts`);
}

function configuration(tell: (findings: Finding[]) => void): Config | undefined {
  try {
    const config = loadConfig();
    tell([ok('Configuration', `${config.env}, namespace "${config.namespace}"`)]);
    return config;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const names = ['PostgreSQL', 'Redis', 'RabbitMQ', 'Mail', 'Disk'];
    tell([
      fail('Configuration', error.problems.join('\n'), 'correct these variables; "waybill config" shows what is set'),
      ...names.map((name) => skip(name, 'needs a usable configuration')),
    ]);
    return undefined;
  }
}

/** Why a server could not be used, as a finding; `undefined` when it answers. */
function unusable(name: string, variable: string, endpoint: Endpoint, answer: Answer): Finding | undefined {
  if (answer.state === 'ready') return undefined;
  const text = `${addressOf(endpoint)}: ${answer.detail}`;
  if (answer.state === 'refused') return fail(name, text, `correct the credentials in ${variable}`);
  if (answer.state === 'starting') return fail(name, text, 'wait until it has started');
  const orElse =
    isLoopback(endpoint) && variable !== 'WEBHOOK_PROXY_URL' ? '; "waybill start" brings one up by itself' : '';
  return fail(name, text, `start it or correct ${variable}${orElse}`);
}

/** Runs a check that ends within its deadline and turns whatever it throws into a failure. */
async function bounded(name: string, check: () => Promise<Finding[]>): Promise<Finding[]> {
  try {
    return await withDeadline(check(), DEADLINE_MS, 'the check');
  } catch (error) {
    const { message } = error as Error;
    return [fail(name, message.split('\n')[0] ?? message, 'see the message; nothing else is known about it')];
  }
}

/** Whether a version such as `3.10.8` is at least `minimum`, compared part by part. */
function atLeast(version: string, minimum: number[]): boolean {
  const parts = version.split('.').map((part) => Number.parseInt(part, 10));
  for (const [at, wanted] of minimum.entries()) {
    const got = parts[at] ?? 0;
    if (got !== wanted) return got > wanted;
  }
  return true;
}

async function postgres(config: Config): Promise<Finding[]> {
  const dependent = ['Schema', 'SECRETS_KEY', 'Clock'];
  const found = await bounded('PostgreSQL', async () => {
    const endpoint = endpointOf(config.databaseUrl, 5432);
    const where = addressOf(endpoint);
    const answer = await greetPostgres(config.databaseUrl);
    const problem = unusable('PostgreSQL', 'DATABASE_URL', endpoint, answer);
    if (problem) return [problem];
    const name = decodeURIComponent(new URL(config.databaseUrl).pathname.slice(1));
    try {
      return await inDatabase(config.databaseUrl, async (database) => [
        await postgresVersion(database, `${where}, database "${name}"`),
        await schema(database),
        await secretsKey(database, config),
        await clock(database),
      ]);
    } catch (error) {
      // 3D000: invalid_catalog_name.
      if ((error as { code?: string }).code !== '3D000') throw error;
      const server = new URL(config.databaseUrl);
      server.pathname = '/postgres';
      return await inDatabase(server.toString(), async (database) => [
        await postgresVersion(database, where),
        missingDatabase(name),
        skip('SECRETS_KEY', 'there is no database yet to compare it with'),
        await clock(database),
      ]);
    }
  });
  const missing = dependent.filter((name) => !found.some((finding) => finding.name === name));
  return [...found, ...missing.map((name) => skip(name, 'needs PostgreSQL'))];
}

async function inDatabase<T>(url: string, work: (database: Database) => Promise<T>): Promise<T> {
  const database = await openDatabase(url, { entities: [], poolSize: 1, applicationName: 'waybill doctor' });
  try {
    return await work(database);
  } finally {
    await database.close(true);
  }
}

async function one<Row>(database: Database, query: ReturnType<typeof sql<Row>>): Promise<Row> {
  const { rows } = await query.execute(database.em.fork().getKysely());
  const [row] = rows;
  if (!row) throw new Error('the server answered without a row');
  return row;
}

async function postgresVersion(database: Database, where: string): Promise<Finding> {
  const { version } = await one(
    database,
    sql<{ version: string }>`select current_setting('server_version') as version`,
  );
  const text = `${version.split(' ')[0]} at ${where}`;
  return atLeast(version, [MINIMUM_POSTGRES])
    ? ok('PostgreSQL', text)
    : fail('PostgreSQL', text, `Waybill needs PostgreSQL ${MINIMUM_POSTGRES} or newer`);
}

const missingDatabase = (name: string): Finding =>
  warn(
    'Schema',
    `the database "${name}" does not exist`,
    'run "waybill migrate up" ("waybill start" does it by itself)',
  );

const has = async (database: Database, table: string): Promise<boolean> => {
  const { found } = await one(database, sql<{ found: boolean }>`select to_regclass(${table}) is not null as found`);
  return found;
};

async function schema(database: Database): Promise<Finding> {
  const advice = 'run "waybill migrate up" ("waybill start" does it by itself)';
  // The migrator would create its table, and this command writes nothing.
  if (!(await has(database, 'migrations'))) return warn('Schema', 'the database is empty: not migrated yet', advice);
  const migrations = await migrationStatus(database);
  const pending = migrations.filter(({ executedAt }) => executedAt === null);
  if (pending.length === 0) return ok('Schema', `up to date, ${migrations.length} migrations`);
  return warn('Schema', `${pending.length} of ${migrations.length} migrations are pending`, advice);
}

async function secretsKey(database: Database, config: Config): Promise<Finding> {
  const name = 'SECRETS_KEY';
  if (!(await has(database, 'installation'))) return skip(name, 'nothing is sealed in this database yet');
  const { sealed } = await one(
    database,
    sql<{ sealed: string | null }>`select max(secrets_check) as sealed from installation`,
  );
  if (sealed === null) return skip(name, 'nothing is sealed in this database yet');
  try {
    await new Keyring(config.secretsKey, config.secretsKeyPrevious).open('check', sealed);
    return ok(name, 'fits this database');
  } catch (error) {
    if (!(error instanceof SealError)) throw error;
    const advice =
      'give the key that this database was created with (in development it is kept in .waybill/secrets_key);\nto change keys, give the old one as SECRETS_KEY_PREVIOUS; or use another, empty database';
    return fail(name, 'does not fit this database: what is sealed in it was sealed under another key', advice);
  }
}

async function clock(database: Database): Promise<Finding> {
  const before = Date.now();
  const { now } = await one(
    database,
    sql<{ now: string }>`select (extract(epoch from clock_timestamp()) * 1000)::text as now`,
  );
  const after = Date.now();
  // The server read its clock somewhere between; only what lies outside is certain.
  const skew = Math.round(Math.max(0, before - Number(now), Number(now) - after));
  return skew <= TOLERATED_SKEW_MS
    ? ok('Clock', `within ${Math.max(1, skew)} ms of PostgreSQL’s`)
    : warn('Clock', `${(skew / 1000).toFixed(1)} s away from PostgreSQL’s`, 'let NTP set the clocks of both machines');
}

async function redis(config: Config): Promise<Finding[]> {
  return bounded('Redis', async () => {
    const endpoint = endpointOf(config.redisUrl, 6379);
    const problem = unusable('Redis', 'REDIS_URL', endpoint, await greetRedis(config.redisUrl));
    if (problem) return [problem];
    const client = createRedis(config.redisUrl, 'fast', createLogger({ level: 'silent' }), 'waybill doctor');
    try {
      await client.connect();
      return redisFindings(await client.info(), addressOf(endpoint));
    } finally {
      client.disconnect();
    }
  });
}

function redisFindings(info: string, where: string): Finding[] {
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] ?? '';
  const version = field('redis_version');
  const text = `${version} at ${where}`;
  const policy = field('maxmemory_policy');
  const found = [
    atLeast(version, MINIMUM_REDIS)
      ? ok('Redis', text)
      : fail('Redis', text, `Waybill needs Redis ${MINIMUM_REDIS.join('.')} or newer`),
  ];
  if (policy && policy !== 'noeviction') {
    const advice = 'set maxmemory-policy to noeviction, so that no waiting job is dropped to make room';
    found.push(warn('Redis memory', `maxmemory-policy is ${policy}`, advice));
  }
  if (field('aof_enabled') === '0') {
    const advice =
      'set appendonly to yes; without it jobs are queued again from PostgreSQL after a restart, more slowly';
    found.push(warn('Redis storage', 'appendonly is off', advice));
  }
  return found;
}

async function rabbitmq(config: Config): Promise<Finding[]> {
  return bounded('RabbitMQ', async () => {
    const endpoint = endpointOf(config.rabbitmqUrl, config.rabbitmqUrl.startsWith('amqps:') ? 5671 : 5672);
    const where = addressOf(endpoint);
    const problem = unusable('RabbitMQ', 'RABBITMQ_URL', endpoint, await greetRabbit(config.rabbitmqUrl));
    if (problem) return [problem];
    const { broker, failure } = firstConnection(config.rabbitmqUrl);
    try {
      await broker.start();
      const outcome = await Promise.race([broker.ready(DEADLINE_MS - 2000), failure]);
      if (outcome) return [unusable('RabbitMQ', 'RABBITMQ_URL', endpoint, outcome) ?? ok('RabbitMQ', where)];
      return await brokerFindings(broker.model, config.namespace, where);
    } finally {
      await broker.stop(1000);
    }
  });
}

/** A broker's connection, and what its first failure says: it would itself go on trying for ever. */
function firstConnection(url: string): { broker: Broker; failure: Promise<Answer> } {
  const { promise: failure, resolve } = Promise.withResolvers<Answer>();
  const destination = {
    write(line: string) {
      const { error } = JSON.parse(line) as { error?: string };
      if (!error) return;
      if (/ACCESS.REFUSED/.test(error)) resolve(refused('it refuses the user or the password'));
      else if (/NOT.ALLOWED|530|ConnectionOpenOk/.test(error))
        resolve(refused('the virtual host that the URL names is not there, or not for this user'));
      else resolve(absent(error));
    },
  };
  return { broker: new Broker(url, 'waybill doctor', createLogger({ level: 'warn', destination })), failure };
}

type Connection = NonNullable<Broker['model']>;

async function brokerFindings(model: Connection | undefined, namespace: string, where: string): Promise<Finding[]> {
  if (!model) return [fail('RabbitMQ', `${where}: the connection was lost`, 'see the log of RabbitMQ')];
  const { version } = model.connection.serverProperties;
  const text = `${version} at ${where}`;
  const queues = new Topology(namespace).everyQueue;
  const there = await Promise.all(queues.map((queue) => isThere(model, queue)));
  const missing = there.filter((is) => !is).length;
  return [
    atLeast(version, MINIMUM_RABBITMQ)
      ? ok('RabbitMQ', text)
      : fail('RabbitMQ', text, `Waybill needs RabbitMQ ${MINIMUM_RABBITMQ.join('.')} or newer`),
    ok('Queues', missing === 0 ? `all ${queues.length} are there` : `${missing} of ${queues.length} will be created`),
  ];
}

/** A passive declaration; the broker closes the channel on which a missing queue was asked for. */
async function isThere(model: Connection, queue: string): Promise<boolean> {
  const channel = await model.createChannel();
  channel.on('error', () => undefined);
  try {
    await channel.checkQueue(queue);
    await channel.close();
    return true;
  } catch (error) {
    if ((error as { code?: number }).code === 404) return false;
    throw error;
  }
}

async function mail(config: Config): Promise<Finding[]> {
  const { smtpUrl } = config;
  if (!smtpUrl) return [ok('Mail', 'the built-in inbox at /dev/mail (SMTP_URL is not set)')];
  return bounded('Mail', async () => {
    const tls = smtpUrl.startsWith('smtps:');
    const endpoint = { ...endpointOf(smtpUrl, tls ? 465 : 587), tls };
    const where = addressOf(endpoint);
    // RFC 5321, section 4.2: the server speaks first, 220 when it takes mail.
    const answer = await greet(endpoint, Buffer.alloc(0), (received) => {
      if (!received.includes('\n')) return undefined;
      const line = received.toString('latin1').split('\r\n')[0] ?? '';
      return line.startsWith('220') ? ready : absent(`it greets with "${line.slice(0, 80)}"`);
    });
    if (answer.state === 'ready') return [ok('Mail', `${where} takes mail`)];
    return [fail('Mail', `${where}: ${answer.detail}`, 'start the mail server or correct SMTP_URL')];
  });
}

/** Asked for a tunnel to a name that cannot exist (RFC 6761, section 6.4): whatever it answers, it is a proxy. */
async function proxy({ webhookProxyUrl }: Config): Promise<Finding[]> {
  if (!webhookProxyUrl) return [];
  const name = 'Webhook proxy';
  return bounded(name, async () => {
    const url = new URL(webhookProxyUrl);
    const tls = url.protocol === 'https:';
    const endpoint = { ...endpointOf(webhookProxyUrl, tls ? 443 : 80), tls };
    const lines = Object.entries({ host: 'doctor.invalid:443', ...proxyAuthorization(url) });
    const asked = ['CONNECT doctor.invalid:443 HTTP/1.1', ...lines.map(([key, value]) => `${key}: ${value}`), '', ''];
    const answer = await greet(endpoint, Buffer.from(asked.join('\r\n')), (received) => {
      if (!received.includes('\n')) return undefined;
      const [, status] = /^HTTP\/1\.[01] (\d{3})/.exec(received.toString('latin1')) ?? [];
      if (status === '407') return refused('it wants other credentials (407)');
      return status ? ready : absent('what listens there is no HTTP proxy');
    });
    return [unusable(name, 'WEBHOOK_PROXY_URL', endpoint, answer) ?? ok(name, `${addressOf(endpoint)} answers`)];
  });
}

async function disk(config: Config): Promise<Finding[]> {
  return bounded('Disk', async () => {
    const { bavail, bsize } = await statfs(config.dataDir).catch(() => statfs(dirname(config.dataDir)));
    const free = bavail * bsize;
    const text = `${(free / GIB).toFixed(1)} GiB free under ${config.dataDir}`;
    return [free >= GIB ? ok('Disk', text) : warn('Disk', text, 'make room: private services keep their data there')];
  });
}
