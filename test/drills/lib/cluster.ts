import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VARIABLE_NAMES } from '../../../src/config.ts';
import { createDatabaseIfMissing, migrateUp, openDatabase } from '../../../src/services/database.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { createLogger } from '../../../src/services/logger.ts';
import { run } from '../../../src/services/provision/command.ts';
import { freePort } from '../../../src/services/provision/endpoint.ts';
import { findRunning, type Instance } from '../../../src/services/provision/instance.ts';
import { startPostgres } from '../../../src/services/provision/postgres.ts';
import { startRabbit } from '../../../src/services/provision/rabbit.ts';
import { startRedis } from '../../../src/services/provision/redis.ts';
import { pause } from '../../../src/services/service.ts';
import { WAYBILL, WaybillProcess } from './process.ts';
import { FaultyProxy } from './proxy.ts';
import { eventually } from './wait.ts';

export type ServerName = 'postgres' | 'redis' | 'rabbitmq';
const SERVERS: Record<ServerName, (dir: string, port: number, signal?: AbortSignal) => Promise<Instance>> = {
  postgres: startPostgres,
  redis: startRedis,
  rabbitmq: startRabbit,
};

/** Which processes there are: their arguments by name. */
export type Layout = Record<string, string[]>;

/** A process for each pool, and two where one must take over from the other. */
export const LAYOUT: Layout = {
  api: ['api'],
  'registration-1': ['worker', 'registration', 'kyc'],
  'registration-2': ['worker', 'registration', 'kyc'],
  audit: ['worker', 'audit'],
  'email-1': ['worker', 'email'],
  'email-2': ['worker', 'email'],
  'fanout-1': ['worker', 'fanout'],
  'fanout-2': ['worker', 'fanout'],
  'webhooks-1': ['worker', 'webhooks'],
  'webhooks-2': ['worker', 'webhooks'],
  'housekeeping-1': ['worker', 'housekeeping'],
  'housekeeping-2': ['worker', 'housekeeping'],
};

/** The same pools in fewer processes, for a machine that has other things to do. */
export const SMALL_LAYOUT: Layout = {
  api: ['api'],
  'workers-1': ['worker', 'registration', 'kyc', 'audit', 'fanout', 'email', 'webhooks'],
  'workers-2': ['worker', 'registration', 'kyc', 'audit', 'fanout', 'email', 'webhooks'],
  'housekeeping-1': ['worker', 'housekeeping'],
  'housekeeping-2': ['worker', 'housekeeping'],
};

export const ADMIN = { email: 'admin@drill.example', password: 'a drill of the whole platform' };
/** One for all of the drill's own connections: each logger listens for the end of the process. */
export const SILENT = createLogger({ level: 'silent' });
export const DRAIN_MS = 10_000;
/** Where processes keep what Node made of the source: halves what each of their many starts costs. */
const COMPILED = fileURLToPath(new URL('../../../node_modules/.cache/drills', import.meta.url));
/** How long a webhook waits after its first try, its second …: short and many, so that no outage of a drill uses them up. */
export const RETRY_DELAYS_S: number[] = Array.from({ length: 40 }, (_, n) => (n < 5 ? 1 : 3));

/** Fills COMPILED where it is missing: a process that a drill ends would write it on its way out, and that takes time. */
async function compile(cwd: string): Promise<void> {
  if (existsSync(COMPILED)) return;
  const load = `await import(${JSON.stringify(new URL('../../../src/cli/start.ts', import.meta.url))}); process.exit()`;
  const env = { ...process.env, NODE_COMPILE_CACHE: COMPILED };
  await run(process.execPath, ['--input-type=module', '-e', load], { deadlineMs: 60_000, env, cwd });
}

/** One of the three servers, which a drill may stop and start again over the same data and port. */
class ClusterServer {
  readonly port: number;
  readonly directory: string;
  readonly #start: () => Promise<Instance>;
  #instance: Instance | undefined;

  constructor(name: ServerName, directory: string, port: number, signal: AbortSignal) {
    this.port = port;
    this.directory = directory;
    this.#start = () => SERVERS[name](directory, port, signal);
  }

  get url(): string {
    return this.#instance?.url ?? '';
  }

  async start(): Promise<void> {
    this.#instance = await this.#start();
  }

  async stop(): Promise<void> {
    await this.#instance?.stop();
  }

  async kill(): Promise<void> {
    await this.#instance?.kill();
  }
}

/**
 * A whole installation of its own: three servers on free ports of the loopback, and the processes of a layout. `close`
 * leaves nothing behind; when this process ends without it, what runs is killed on the way out.
 */
export class Cluster {
  readonly directory = mkdtempSync(join(tmpdir(), 'waybill-drill-'));
  readonly namespace = `drill-${randomBytes(3).toString('hex')}`;
  readonly servers: Record<ServerName, ClusterServer>;
  readonly processes = new Map<string, WaybillProcess>();
  /** By process, then by server. Empty unless the cluster is proxied. */
  readonly proxies = new Map<string, Record<ServerName, FaultyProxy>>();
  readonly #aborted = new AbortController();
  /** What every process of it is told. */
  #env: Record<string, string> = {};
  #closed: Promise<void> | undefined;

  private constructor(ports: Record<ServerName, number>) {
    chmodSync(this.directory, 0o755); // PostgreSQL's own account must get through
    const server = (name: ServerName) =>
      new ClusterServer(name, join(this.directory, name), ports[name], this.#aborted.signal);
    this.servers = { postgres: server('postgres'), redis: server('redis'), rabbitmq: server('rabbitmq') };
    process.once('exit', this.#killAll);
    // A test runner that is ended takes its workers with it, without an `exit`.
    process.once('disconnect', this.#killAll);
    process.once('SIGTERM', this.#endOnSignal);
  }

  /** Starts everything and resolves when every process is ready. `proxied`: with a proxy before each server, for each process. `clocks`: each process with a wall clock that can jump. */
  static async start(options: {
    layout: Layout;
    smtpUrl: string;
    proxied?: boolean;
    clocks?: boolean;
    env?: Record<string, string>;
    report?: (line: string) => void;
  }): Promise<Cluster> {
    const [postgres, redis, rabbitmq, api] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
    const cluster = new Cluster({ postgres, redis, rabbitmq });
    try {
      options.report?.(`starting PostgreSQL, Redis and RabbitMQ in ${cluster.directory}`);
      await Promise.all([
        ...Object.values(cluster.servers).map((server) => server.start()),
        compile(cluster.directory),
      ]);
      await cluster.#migrate();
      options.report?.(`starting ${Object.keys(options.layout).length} processes`);
      cluster.#env = { SECRETS_KEY: randomBytes(32).toString('base64'), SMTP_URL: options.smtpUrl, ...options.env };
      for (const [name, args] of Object.entries(options.layout)) {
        const env = await cluster.#environment(name, options.proxied ?? false, {
          PORT: args[0] === 'api' ? String(api) : '0',
          ...cluster.#env,
        });
        cluster.processes.set(name, new WaybillProcess(name, args, env, cluster.directory, options.clocks));
      }
      // Three at a time: a dozen at once would starve each other on a small machine.
      const waiting = [...cluster.processes.values()];
      await Promise.all(
        [1, 2, 3].map(async () => {
          for (let next = waiting.shift(); next; next = waiting.shift()) await next.start();
        }),
      );
      await cluster.untilReady(60_000);
      return cluster;
    } catch (error) {
      await cluster.close();
      throw error;
    }
  }

  get databaseUrl(): string {
    const url = new URL(this.servers.postgres.url);
    url.pathname = '/waybill';
    return url.toString();
  }

  get keyring(): Keyring {
    return new Keyring(Buffer.from(this.#env.SECRETS_KEY ?? '', 'base64'));
  }

  get api(): WaybillProcess {
    return this.process('api');
  }

  process(name: string): WaybillProcess {
    const found = this.processes.get(name);
    if (!found) throw new Error(`the layout has no process "${name}"`);
    return found;
  }

  /** The processes whose names begin so. */
  named(prefix: string): WaybillProcess[] {
    return [...this.processes.values()].filter((it) => it.name.startsWith(prefix));
  }

  get crashes(): string[] {
    return [...this.processes.values()].flatMap((it) => it.crashes);
  }

  /** Starts a process again as an init system would: until it comes up, five times at the most. */
  async revive(it: WaybillProcess): Promise<void> {
    for (let tries = 1; !it.up; tries += 1) {
      try {
        await it.start();
      } catch (error) {
        if (tries === 5) throw error;
        await pause(500);
      }
    }
  }

  /** Resolves with the seconds until every process that is up says that it is ready. */
  async untilReady(ms: number): Promise<number> {
    const { seconds } = await eventually(
      'every process is ready',
      async () => (await this.unready()).length === 0,
      ms,
    ).catch(async (error: Error) => {
      throw new Error(`${error.message}; not ready: ${(await this.unready()).join(', ')}`);
    });
    return seconds;
  }

  async unready(): Promise<string[]> {
    const all = [...this.processes.values()].filter((it) => it.up);
    const answers = await Promise.all(all.map((it) => it.ready()));
    return all.filter((_, i) => !answers[i]).map((it) => it.name);
  }

  /** The proxies before one server: of every process, or of those named. */
  proxiesOf(server: ServerName, processes: string[] = [...this.processes.keys()]): FaultyProxy[] {
    return processes.flatMap((name) => this.proxies.get(name)?.[server] ?? []);
  }

  /** Runs another command of the CLI on this installation; resolves with its exit code and what it printed. */
  async run(args: string[]): Promise<{ code: number | null; output: string }> {
    const env = await this.#environment('run', false, this.#env);
    const { code, tail } = await run(process.execPath, [WAYBILL, ...args], {
      deadlineMs: 60_000,
      env,
      cwd: this.directory,
    });
    return { code, output: tail };
  }

  /** Ends every process and server and removes their data; a second call waits for the first. */
  close(options: { keep?: boolean } = {}): Promise<void> {
    this.#closed ??= (async () => {
      this.#aborted.abort();
      await Promise.allSettled([...this.processes.values()].map((it) => it.kill()));
      await Promise.allSettled([
        this.servers.postgres.stop(),
        this.servers.redis.kill(),
        this.servers.rabbitmq.kill(),
        ...[...this.proxies.values()].flatMap((set) => Object.values(set).map((proxy) => proxy.close())),
      ]);
      this.#killAll();
      process.off('exit', this.#killAll);
      process.off('disconnect', this.#killAll);
      process.off('SIGTERM', this.#endOnSignal);
      if (!options.keep) rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
    })();
    return this.#closed;
  }

  /** Whatever still runs, at once and without waiting: also what is only half started. */
  readonly #killAll = (): void => {
    const servers = Object.values(this.servers).flatMap(({ directory }) => [directory, join(directory, 'epmd')]);
    const pids = [
      ...[...this.processes.values()].map((it) => it.pid),
      ...servers.map((directory) => findRunning(directory)?.pid),
    ];
    for (const pid of pids) {
      if (pid === undefined) continue;
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It is gone already.
      }
    }
  };

  readonly #endOnSignal = (): void => {
    this.#killAll();
    process.exit(143);
  };

  async #migrate(): Promise<void> {
    await createDatabaseIfMissing(this.databaseUrl);
    const database = await openDatabase(this.databaseUrl, { entities: [], poolSize: 2 });
    try {
      await migrateUp(database);
    } finally {
      await database.close(true);
    }
  }

  async #environment(name: string, proxied: boolean, env: Record<string, string>): Promise<NodeJS.ProcessEnv> {
    const ports = Object.fromEntries(Object.entries(this.servers).map(([server, { port }]) => [server, port]));
    if (proxied) {
      const set = Object.fromEntries(
        Object.entries(this.servers).map(([server, { port }]) => [server, new FaultyProxy(port)]),
      ) as Record<ServerName, FaultyProxy>;
      this.proxies.set(name, set);
      for (const [server, proxy] of Object.entries(set)) ports[server] = await proxy.listen();
    }
    const unset = Object.fromEntries(VARIABLE_NAMES.flatMap((it) => [it, `${it}_FILE`]).map((it) => [it, '']));
    return {
      ...process.env,
      ...unset,
      NODE_ENV: 'development',
      NODE_COMPILE_CACHE: COMPILED,
      LOG_LEVEL: 'info',
      DATABASE_URL: `postgresql://postgres:postgres@127.0.0.1:${ports.postgres}/waybill`,
      REDIS_URL: `redis://127.0.0.1:${ports.redis}`,
      RABBITMQ_URL: `amqp://guest:guest@127.0.0.1:${ports.rabbitmq}`,
      NAMESPACE: this.namespace,
      ADMIN_EMAIL: ADMIN.email,
      ADMIN_PASSWORD: ADMIN.password,
      RATE_LIMITS: 'off',
      ARGON2_MEMORY_KIB: '1024',
      ARGON2_PARALLELISM: '1',
      COMMAND_WAIT_MS: '1000',
      DRAIN_TIMEOUT_MS: String(DRAIN_MS),
      WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8,::1/128',
      WEBHOOK_RETRY_SCHEDULE: RETRY_DELAYS_S.map((seconds) => `${seconds}s`).join(','),
      // A clock that is an hour ahead would prune all of it.
      OPERATION_RETENTION: '30m',
      EVENT_RETENTION: '30m',
      EMAIL_RETENTION: '30m',
      ...env,
    };
  }
}
