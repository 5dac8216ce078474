import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { VARIABLE_NAMES } from '../../config.ts';
import { Broker } from '../../queues/broker.ts';
import { Topology } from '../../queues/topology.ts';
import { openDatabase } from '../../services/database.ts';
import { createLogger } from '../../services/logger.ts';
import type { ServiceUrls } from '../../services/provision/index.ts';
import { closeRedis, createRedis } from '../../services/redis.ts';
import { pause, withDeadline } from '../../services/service.ts';
import { until } from './client.ts';
import { check, StepFailed } from './narrator.ts';

const WAYBILL = fileURLToPath(new URL('../../../bin/waybill.js', import.meta.url));
const START_MS = 60_000;
const DRAIN_MS = 10_000;
/** What is kept of the platform's output, to be shown when a step does not hold. */
const LINES_KEPT = 30;

/**
 * A whole Waybill with a database, a namespace and a folder of its own, run as its user would: `waybill start`, in a
 * process of its own.
 *
 *   new ──start──► running ──stop──► stopped ──remove──► gone
 *   any ──remove──► gone (kills the process first)
 */
export class Platform {
  readonly admin = { email: 'admin@demo.example', password: randomBytes(12).toString('base64url') };
  readonly databaseName: string;
  readonly namespace: string;
  readonly lines: string[] = [];
  readonly #urls: ServiceUrls;
  readonly #env: NodeJS.ProcessEnv;
  readonly #directory = mkdtempSync(join(tmpdir(), 'waybill-demo-'));
  #child: ChildProcess | undefined;
  #exited: Promise<string> | undefined;

  constructor(urls: ServiceUrls) {
    const random = randomBytes(4).toString('hex');
    this.databaseName = `waybill_demo_${random}`;
    this.namespace = `demo-${random}`;
    const databaseUrl = new URL(urls.databaseUrl);
    databaseUrl.pathname = `/${this.databaseName}`;
    this.#urls = { ...urls, databaseUrl: databaseUrl.toString() };
    // Nothing that the caller's own installation is set to may reach the demo's.
    const unset = Object.fromEntries(
      VARIABLE_NAMES.flatMap((name) => [name, `${name}_FILE`]).map((name) => [name, '']),
    );
    this.#env = {
      ...process.env,
      ...unset,
      NODE_ENV: 'development',
      PORT: '0',
      DATABASE_URL: this.#urls.databaseUrl,
      REDIS_URL: urls.redisUrl,
      RABBITMQ_URL: urls.rabbitmqUrl,
      NAMESPACE: this.namespace,
      SECRETS_KEY: randomBytes(32).toString('base64'),
      ADMIN_EMAIL: this.admin.email,
      ADMIN_PASSWORD: this.admin.password,
      RATE_LIMITS: 'off',
      WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8,::1/128',
      WEBHOOK_RETRY_SCHEDULE: '1s,2s,5s',
      DRAIN_TIMEOUT_MS: String(DRAIN_MS),
    };
  }

  /** Runs `waybill start` and resolves with its base URL once it takes work. */
  async start(): Promise<string> {
    const child = this.#spawn(['start']);
    this.#child = child;
    const { promise: listening, resolve } = Promise.withResolvers<string>();
    for (const stream of [child.stdout, child.stderr]) {
      if (!stream) continue;
      createInterface({ input: stream }).on('line', (line) => {
        this.lines.push(line);
        if (this.lines.length > LINES_KEPT) this.lines.shift();
        const base = /^\s*Front page\s+(http:\S+?)\/?$/.exec(line)?.[1];
        if (base) resolve(base);
      });
    }
    this.#exited = exitOf(child);
    const gone = this.#exited.then((how) => {
      throw new StepFailed('"waybill start" comes up', how);
    });
    const base = await withDeadline(Promise.race([listening, gone]), START_MS, 'starting the platform');
    await until('/readyz answers 200', async () => {
      const response = await fetch(`${base}/readyz`, { signal: AbortSignal.timeout(5000) });
      const seen = await response.text();
      return { found: response.ok || undefined, seen };
    });
    return base;
  }

  /** How its process ended, or `undefined` when it was not started or still runs after `ms`. */
  async endedWithin(ms: number): Promise<string | undefined> {
    return Promise.race([this.#exited, pause(ms).then(() => undefined)]);
  }

  /** Runs another command of the CLI on this platform; resolves with what it printed and its exit code. */
  async run(args: string[]): Promise<{ code: number | null; output: string }> {
    const child = this.#spawn(args);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (chunk: string) => {
        output += chunk;
      });
    }
    const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
    await exitOf(child);
    clearTimeout(timer);
    return { code: child.exitCode, output: output.trim() };
  }

  /** SIGTERM, and the process must end with code 0 within its drain time. */
  async stop(): Promise<void> {
    this.#child?.kill('SIGTERM');
    const how = await withDeadline(this.#exited ?? Promise.resolve('never started'), DRAIN_MS + 4000, 'stopping').catch(
      () => 'still running',
    );
    check(how === 'exit code 0', 'exit code 0 in time after SIGTERM', how);
  }

  /** Ends the process, however it does, at once. */
  kill(): void {
    this.#child?.kill('SIGKILL');
  }

  /** Kills the process if it still runs and removes everything it had; a part that cannot be removed is told at the end. */
  async remove(): Promise<void> {
    this.kill();
    await this.#exited;
    const results = await Promise.allSettled(
      [this.#dropDatabase(), this.#removeQueues(), this.#removeKeys()].map((part) =>
        withDeadline(part, 10_000, 'removing it'),
      ),
    );
    rmSync(this.#directory, { recursive: true, force: true });
    const names = [`database ${this.databaseName}`, `queues ${this.namespace}.*`, `Redis keys ${this.namespace}:*`];
    const left = results.flatMap((result, at) =>
      result.status === 'rejected' ? [`${names[at]} (${(result.reason as Error).message})`] : [],
    );
    check(left.length === 0, 'nothing is left', `left behind: ${left.join(', ')}`);
  }

  #spawn(args: string[]): ChildProcess {
    // A process group of its own: Ctrl-C in the terminal is the demo's to handle.
    return spawn(process.execPath, [WAYBILL, ...args], {
      cwd: this.#directory,
      env: this.#env,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
  }

  async #dropDatabase(): Promise<void> {
    const server = new URL(this.#urls.databaseUrl);
    server.pathname = '/postgres';
    const database = await openDatabase(server.toString(), { entities: [], poolSize: 1 });
    try {
      const db = database.em.fork().getKysely();
      await sql`drop database if exists ${sql.id(this.databaseName)} with (force)`.execute(db);
    } finally {
      await database.close(true);
    }
  }

  async #removeQueues(): Promise<void> {
    const broker = new Broker(this.#urls.rabbitmqUrl, 'waybill demo', createLogger({ level: 'silent' }));
    try {
      await broker.start();
      await broker.ready(5000);
      const channel = await broker.model?.createChannel();
      if (!channel) throw new Error('the connection to RabbitMQ was lost');
      await new Topology(this.namespace).remove(channel);
      await channel.close();
    } finally {
      await broker.stop(1000);
    }
  }

  async #removeKeys(): Promise<void> {
    const redis = createRedis(this.#urls.redisUrl, 'fast', createLogger({ level: 'silent' }), 'waybill demo');
    try {
      await redis.connect();
      for await (const keys of redis.scanStream({ match: `${this.namespace}:*`, count: 500 })) {
        if ((keys as string[]).length > 0) await redis.unlink(keys as string[]);
      }
    } finally {
      await closeRedis(redis);
    }
  }
}

/** How a process ended, in words. */
function exitOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(signal ? `killed by ${signal}` : `exit code ${code}`));
  });
}
