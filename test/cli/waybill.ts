import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { inject, vi } from 'vitest';
import { VARIABLE_NAMES } from '../../src/config.ts';
import { Broker } from '../../src/queues/broker.ts';
import { Topology } from '../../src/queues/topology.ts';
import { openDatabase } from '../../src/services/database.ts';
import { createLogger } from '../../src/services/logger.ts';
import { closeRedis, createRedis } from '../../src/services/redis.ts';
import { createTestDatabase, eventually } from '../harness.ts';

export const BIN = fileURLToPath(new URL('../../bin/waybill.js', import.meta.url));
export const REDIS_URL = process.env.REDIS_URL || 'redis://localhost:6379';
export const RABBITMQ_URL = process.env.RABBITMQ_URL || 'amqp://guest:guest@localhost:5672';

/** Every variable of the product unset, so that the caller's own environment plays no part. */
const blank = Object.fromEntries(VARIABLE_NAMES.flatMap((name) => [name, `${name}_FILE`]).map((name) => [name, '']));

const running = new Set<ChildProcess>();

/** Kills whatever a test left running. For `afterEach`. */
export async function endAll(): Promise<void> {
  await Promise.all(
    [...running].map(
      (child) =>
        new Promise<void>((resolve) => {
          child.once('close', () => resolve());
          child.kill('SIGKILL');
        }),
    ),
  );
}

export interface Run {
  child: ChildProcess;
  /** Everything printed so far. */
  text: () => string;
  /** Resolves with the match once the output has it. */
  prints: (pattern: RegExp, ms?: number) => Promise<RegExpExecArray>;
  exit: Promise<{ code: number | null; signal: NodeJS.Signals | null; stdout: string; stderr: string; ms: number }>;
}

/** Starts the CLI as a user does, by its bin file; `node` is another Node to start it with. */
export function waybill(
  args: string[],
  env: NodeJS.ProcessEnv = {},
  options: { cwd?: string; node?: string } = {},
): Run {
  const since = performance.now();
  const child = spawn(options.node ?? process.execPath, [BIN, ...args], {
    cwd: options.cwd ?? tmpdir(),
    env: { ...process.env, ...blank, COLUMNS: '200', NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  const exit = new Promise<Awaited<Run['exit']>>((resolve) => {
    child.once('close', (code, signal) => {
      running.delete(child);
      resolve({ code, signal, stdout, stderr, ms: performance.now() - since });
    });
  });
  const text = () => stdout + stderr;
  return {
    child,
    text,
    exit,
    async prints(pattern, ms = 20_000) {
      const look = () => {
        const match = pattern.exec(text());
        if (!match && child.exitCode !== null) throw new Error(`it ended without ${pattern}:\n${text()}`);
        return match;
      };
      return eventually(look, `the output has ${pattern}`, ms).catch((error: Error) => {
        throw new Error(`${error.message}\n${text()}`);
      });
    },
  };
}

/**
 * Runs the body of a command in this process, which costs a fraction of a process of its own; resolves with what it
 * printed and either its value or the message that its user would see.
 */
export async function call<T>(
  env: NodeJS.ProcessEnv,
  body: () => Promise<T>,
): Promise<{ value?: T; error?: string; out: string; ms: number }> {
  for (const [name, value] of Object.entries({ ...blank, ...env })) vi.stubEnv(name, value);
  let out = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    out += String(chunk);
    return true;
  });
  const since = performance.now();
  try {
    const value = await body();
    return { value, out, ms: performance.now() - since };
  } catch (error) {
    return { error: (error as Error).message, out, ms: performance.now() - since };
  } finally {
    write.mockRestore();
    vi.unstubAllEnvs();
  }
}

export interface Installation {
  env: NodeJS.ProcessEnv;
  databaseUrl: string;
  /** Empty; to run in. */
  directory: string;
  admin: { email: string; password: string };
  remove: () => Promise<void>;
}

/** A database (`migrated`, or a name that does not exist yet), a namespace and a folder of a test's own. */
export async function createInstallation(database: 'migrated' | 'missing'): Promise<Installation> {
  const random = randomBytes(5).toString('hex');
  const { url, drop } = database === 'migrated' ? await createTestDatabase() : missingDatabase(`wb_test_cli_${random}`);
  const namespace = `wbt-${random}`;
  const directory = mkdtempSync(join(tmpdir(), 'waybill-cli-'));
  const admin = { email: 'admin@example.com', password: randomBytes(9).toString('base64url') };
  return {
    databaseUrl: url,
    directory,
    admin,
    env: {
      DATABASE_URL: url,
      REDIS_URL,
      RABBITMQ_URL,
      NAMESPACE: namespace,
      PORT: '0',
      RATE_LIMITS: 'off',
      ARGON2_MEMORY_KIB: '1024',
      SECRETS_KEY: randomBytes(32).toString('base64'),
      ADMIN_EMAIL: admin.email,
      ADMIN_PASSWORD: admin.password,
    },
    async remove() {
      await removeNamespace(namespace);
      await drop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A name on the tests' server that has no database yet, and how to drop what was made of it. */
function missingDatabase(name: string): { url: string; drop: () => Promise<void> } {
  const url = new URL(inject('databaseUrl'));
  url.pathname = `/${name}`;
  const drop = async () => {
    const server = new URL(url);
    server.pathname = '/postgres';
    const orm = await openDatabase(server.toString(), { entities: [], poolSize: 1 });
    await sql`drop database if exists ${sql.id(name)} with (force)`.execute(orm.em.fork().getKysely());
    await orm.close(true);
  };
  return { url: url.toString(), drop };
}

/** Removes the queues, exchanges and Redis keys of a namespace. */
async function removeNamespace(namespace: string): Promise<void> {
  const log = createLogger({ level: 'silent' });
  const broker = new Broker(RABBITMQ_URL, 'test', log);
  await broker.start();
  await broker.ready(10_000);
  const channel = await broker.model?.createChannel();
  if (channel) await new Topology(namespace).remove(channel);
  await broker.stop(2000);
  const redis = createRedis(REDIS_URL, 'patient', log, 'test');
  const keys = await redis.keys(`${namespace}:*`);
  if (keys.length > 0) await redis.del(keys);
  await closeRedis(redis);
}

/** A JSON request to a started API. */
export async function request(
  base: string,
  method: string,
  path: string,
  options: { body?: unknown; headers?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<{ status: number; body: { data?: Record<string, unknown>; error?: Record<string, unknown> } }> {
  const response = await fetch(`${base}/api/v1${path}`, {
    method,
    headers: { ...(options.body ? { 'content-type': 'application/json' } : {}), ...options.headers },
    ...(options.body ? { body: JSON.stringify(options.body) } : {}),
    signal: options.signal ?? AbortSignal.timeout(20_000),
  });
  return { status: response.status, body: (await response.json()) as never };
}

export const registration = (email: string) => ({
  email,
  password: 'correct horse battery',
  full_name: 'Ada Lovelace',
  terms_accepted: true,
});
