import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import amqp, { type ChannelModel, type ConfirmChannel } from 'amqplib';
import { Redis } from 'ioredis';
import pg, { type Client } from 'pg';
import { VARIABLE_NAMES } from '../src/config.ts';
import { Topology } from '../src/queues/topology.ts';
import { freePort } from '../src/services/provision/endpoint.ts';
import { pause } from '../src/services/service.ts';

export interface Urls {
  databaseUrl: string;
  redisUrl: string;
  rabbitmqUrl: string;
}

const ADMIN = { email: 'admin@bench.example', password: 'a bench of the whole platform' };
const START_MS = 30_000;
/** Messages that a pre-fill keeps unconfirmed. */
const IN_FLIGHT = 1000;

/** One process of the CLI, started as a user would, its log in a file. */
export class WaybillProcess {
  readonly url: string;
  readonly args: string[];
  readonly logFile: string;
  readonly #child: ChildProcess;
  readonly #gone: Promise<void>;

  constructor(checkout: string, args: string[], env: NodeJS.ProcessEnv, directory: string, port: number) {
    this.args = args;
    this.url = `http://127.0.0.1:${port}`;
    this.logFile = join(directory, `${args.join('-')}-${port}.log`);
    const log = openSync(this.logFile, 'a');
    this.#child = spawn(process.execPath, [join(checkout, 'bin/waybill.js'), ...args], {
      cwd: directory,
      env: { ...env, PORT: String(port) },
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    const kill = () => this.#child.kill('SIGKILL'); // nothing of a run outlives it
    process.once('exit', kill);
    this.#child.once('exit', () => process.off('exit', kill));
    this.#gone = new Promise((resolve) => this.#child.once('exit', () => resolve()));
  }

  get up(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Resolves with the ms since the call when `/readyz` says 200. */
  async ready(everyMs = 20): Promise<number> {
    const began = performance.now();
    for (;;) {
      if (!this.up) throw new Error(`${this.args.join(' ')} ended while it started:\n${this.tail()}`);
      const answer = await fetch(`${this.url}/readyz`, { signal: AbortSignal.timeout(2000) }).catch(() => undefined);
      await answer?.arrayBuffer();
      if (answer?.ok) return performance.now() - began;
      if (performance.now() - began > START_MS)
        throw new Error(`${this.args.join(' ')} is not ready after ${START_MS} ms:\n${this.tail()}`);
      await pause(everyMs);
    }
  }

  /** Holds the process where it is (SIGSTOP), so that work can pile up, and lets it go on. */
  freeze(): void {
    this.#child.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child.kill('SIGCONT');
  }

  /** CPU seconds used so far. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.#child.pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }

  /** Resident memory in MiB. */
  rssMib(): number {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
  }

  async stop(): Promise<void> {
    if (!this.up) return;
    this.thaw();
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 15_000);
    await this.#gone;
    clearTimeout(timer);
  }

  tail(): string {
    return readFileSync(this.logFile, 'utf8').split('\n').slice(-20).join('\n');
  }
}

export interface Message {
  exchange: string;
  routingKey: string;
  body: Buffer;
  messageId: string;
  type: string;
}

/**
 * A Waybill of its own on shared servers: a database and a NAMESPACE that nobody else has, dropped by `close`. Its
 * processes are those of `checkout`.
 */
export class Platform {
  readonly checkout: string;
  readonly urls: Urls;
  readonly namespace: string;
  readonly topology: Topology;
  readonly directory = mkdtempSync(join(tmpdir(), 'waybill-bench-'));
  readonly db: Client;
  readonly redis: Redis;
  readonly #model: ChannelModel;
  readonly channel: ConfirmChannel;
  readonly #env: NodeJS.ProcessEnv;
  readonly #processes = new Set<WaybillProcess>();
  readonly #queues: string[] = [];
  #token: { value: string; at: number } | undefined;
  #api: Promise<WaybillProcess> | undefined;

  private constructor(options: {
    checkout: string;
    urls: Urls;
    namespace: string;
    db: Client;
    model: ChannelModel;
    channel: ConfirmChannel;
    env: Record<string, string>;
  }) {
    this.checkout = options.checkout;
    this.urls = options.urls;
    this.namespace = options.namespace;
    this.topology = new Topology(options.namespace);
    this.db = options.db;
    this.#model = options.model;
    this.channel = options.channel;
    this.redis = new Redis(options.urls.redisUrl, { maxRetriesPerRequest: null });
    const unset = Object.fromEntries(VARIABLE_NAMES.flatMap((it) => [it, `${it}_FILE`]).map((it) => [it, '']));
    this.#env = {
      ...process.env,
      ...unset,
      DATABASE_URL: options.urls.databaseUrl,
      REDIS_URL: options.urls.redisUrl,
      RABBITMQ_URL: options.urls.rabbitmqUrl,
      NAMESPACE: options.namespace,
      LOG_LEVEL: 'info',
      RATE_LIMITS: 'off',
      SECRETS_KEY: randomBytes(32).toString('base64'),
      ADMIN_EMAIL: ADMIN.email,
      ADMIN_PASSWORD: ADMIN.password,
      PUBLIC_URL: 'http://localhost:3000', // the issuer of the tokens: the same whatever the port
      WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8,::1/128',
      ...options.env,
    };
  }

  /** Makes the database, migrates it with the checkout's own CLI, and declares the topology. */
  static async create(options: { checkout: string; servers: Urls; env?: Record<string, string> }): Promise<Platform> {
    const id = randomBytes(4).toString('hex');
    const name = `waybill_bench_${id}`;
    const admin = new pg.Client({ connectionString: new URL('/postgres', options.servers.databaseUrl).toString() });
    await admin.connect();
    await admin.query(`create database ${name}`);
    await admin.end();
    const databaseUrl = new URL(`/${name}`, options.servers.databaseUrl).toString();
    const db = new pg.Client({ connectionString: databaseUrl });
    await db.connect();
    const model = await amqp.connect(options.servers.rabbitmqUrl, { noDelay: true });
    const channel = await model.createConfirmChannel();
    const urls = { ...options.servers, databaseUrl };
    const platform = new Platform({
      checkout: options.checkout,
      urls,
      namespace: `bench-${id}`,
      db,
      model,
      channel,
      env: options.env ?? {},
    });
    try {
      await platform.#migrate();
    } catch (error) {
      await platform.close();
      throw error;
    }
    return platform;
  }

  /** Starts a process and resolves when it is ready. */
  async start(args: string[], env: Record<string, string> = {}, pollMs = 20): Promise<WaybillProcess> {
    const started = new WaybillProcess(this.checkout, args, { ...this.#env, ...env }, this.directory, await freePort());
    this.#processes.add(started);
    await started.ready(pollMs);
    return started;
  }

  /** The API, started when it is first needed, with this addition to its environment. */
  api(env: Record<string, string> = {}): Promise<WaybillProcess> {
    this.#api ??= this.start(['api'], env);
    return this.#api;
  }

  async stop(...processes: WaybillProcess[]): Promise<void> {
    await Promise.all(processes.map((it) => it.stop()));
    const api = await this.#api;
    for (const it of processes) {
      this.#processes.delete(it);
      if (it === api) this.#api = undefined;
    }
  }

  /** Ends every process of this platform. */
  async stopAll(): Promise<void> {
    await this.stop(...this.#processes);
  }

  /** An admin's access token with ten minutes of life. */
  async adminToken(): Promise<string> {
    if (this.#token && Date.now() - this.#token.at < 240_000) return this.#token.value;
    const value = await this.signIn(ADMIN.email, ADMIN.password);
    this.#token = { value, at: Date.now() };
    return value;
  }

  async signIn(email: string, password: string): Promise<string> {
    const { data } = await this.call<{ access_token: string }>('POST', '/auth/login', { email, password });
    return data.access_token;
  }

  /** One call of the API. Throws on anything but 2xx. */
  async call<T>(method: string, path: string, body?: unknown, token?: string): Promise<{ status: number; data: T }> {
    const { url } = await this.api();
    const response = await fetch(`${url}/api/v1${path}`, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(token ? { authorization: `Bearer ${token}` } : {}),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text.slice(0, 300)}`);
    return { status: response.status, data: (JSON.parse(text) as { data: T }).data };
  }

  async count(query: string): Promise<number> {
    const { rows } = await this.db.query<{ n: string }>(`select (${query})::bigint as n`);
    return Number(rows[0]?.n ?? 0);
  }

  /** Polls until the query gives at least `target`; resolves with the time when it was seen. */
  async until(query: string, target: number, deadlineMs: number, everyMs = 5): Promise<number> {
    const end = performance.now() + deadlineMs;
    for (;;) {
      const seen = await this.count(query);
      if (seen >= target) return performance.now();
      if (performance.now() > end) throw new Error(`${seen} of ${target} after ${deadlineMs} ms: ${query}`);
      await pause(everyMs);
    }
  }

  /** Publishes all of them, 1,000 unconfirmed at most; resolves when the broker has every one. */
  async publish(messages: Iterable<Message>): Promise<void> {
    let inFlight = 0;
    let wake: (() => void) | undefined;
    let failed: Error | undefined;
    for (const { exchange, routingKey, body, messageId, type } of messages) {
      if (inFlight >= IN_FLIGHT) await new Promise<void>((resolve) => (wake = resolve));
      if (failed) throw failed;
      inFlight += 1;
      const options = { persistent: true, messageId, type, contentType: 'application/json' };
      this.channel.publish(exchange, routingKey, body, options, (error) => {
        inFlight -= 1;
        if (error) failed = error as Error;
        wake?.();
        wake = undefined;
      });
    }
    await this.channel.waitForConfirms();
  }

  /** A queue for a baseline, a quorum queue like the platform's own; deleted with the rest. */
  async bareQueue(name: string): Promise<string> {
    const queue = `${this.namespace}.bare.${name}`;
    await this.channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
    if (!this.#queues.includes(queue)) this.#queues.push(queue);
    return queue;
  }

  async purge(...queues: string[]): Promise<void> {
    for (const queue of queues) await this.channel.purgeQueue(queue);
  }

  /** Leaves nothing behind: a step that fails does not keep the next from its own, and is told of at the end. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    const steps = [
      async () => void (await Promise.allSettled([...this.#processes].map((it) => it.stop()))),
      () => this.#removeQueues(),
      () => this.#removeKeys(),
      () => this.db.end(),
      () => this.#dropDatabase(),
      async () => rmSync(this.directory, { recursive: true, force: true }),
    ];
    for (const step of steps) await step().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, `${this.namespace} is not wholly removed`);
  }

  /** On a connection of its own: the other one may have gone with what was being measured. */
  async #removeQueues(): Promise<void> {
    await this.#model.close().catch(() => undefined);
    const model = await amqp.connect(this.urls.rabbitmqUrl);
    try {
      const channel = await model.createChannel();
      for (const queue of this.#queues) await channel.deleteQueue(queue);
      await this.topology.remove(channel);
    } finally {
      await model.close();
    }
  }

  async #removeKeys(): Promise<void> {
    for (let cursor = ''; cursor !== '0'; ) {
      const [next, keys] = await this.redis.scan(cursor || '0', 'MATCH', `${this.namespace}*`, 'COUNT', 1000);
      if (keys.length > 0) await this.redis.unlink(...keys);
      cursor = next;
    }
    this.redis.disconnect();
  }

  async #dropDatabase(): Promise<void> {
    const admin = new pg.Client({ connectionString: new URL('/postgres', this.urls.databaseUrl).toString() });
    await admin.connect();
    await admin.query(`drop database if exists ${new URL(this.urls.databaseUrl).pathname.slice(1)} with (force)`);
    await admin.end();
  }

  async #migrate(): Promise<void> {
    const child = spawn(process.execPath, [join(this.checkout, 'bin/waybill.js'), 'migrate', 'up'], {
      cwd: this.directory,
      env: this.#env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk));
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    if (code !== 0) throw new Error(`migrate up ended with ${code}:\n${output}`);
  }
}
