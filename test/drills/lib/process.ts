import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { withDeadline } from '../../../src/services/service.ts';
import { attempt, eventually } from './wait.ts';

/** The CLI. */
export const WAYBILL = fileURLToPath(new URL('../../../bin/waybill.js', import.meta.url));
const START_MS = 60_000;
const preload = (name: string): string => `--import=${new URL(`./preload-${name}.ts`, import.meta.url)}`;

/** How a process ended. */
export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** From the first signal sent to the end. */
  ms: number;
}

/**
 * One process of the CLI, as an init system would keep it.
 *
 *   down ──start──► up ──kill, terminate──► down
 *   up ──ends without having been told to──► down, and `crashes` says how
 */
export class WaybillProcess {
  readonly name: string;
  readonly args: string[];
  /** Ends of a process at work that nobody asked for. */
  readonly crashes: string[] = [];
  readonly #env: NodeJS.ProcessEnv;
  readonly #directory: string;
  readonly #clock: string;
  readonly #lines: string[] = [];
  #child: ChildProcess | undefined;
  #exited: Promise<Exit> | undefined;
  #signalledAt: number | undefined;
  #port = 0;
  /** A mechanism of the platform that it runs without from its next start on; `preload-without.ts` knows which there are. */
  without: string | undefined;

  /** `clock`: with a wall clock of its own, which can `jump`. */
  constructor(name: string, args: string[], env: NodeJS.ProcessEnv, directory: string, clock = false) {
    this.name = name;
    this.args = args;
    this.#clock = `${directory}/${name}.clock`;
    writeFileSync(this.#clock, '0');
    this.#env = clock
      ? { ...env, NODE_OPTIONS: `${env.NODE_OPTIONS ?? ''} ${preload('clock')}`, DRILL_CLOCK: this.#clock }
      : env;
    this.#directory = directory;
  }

  get up(): boolean {
    return this.#child !== undefined;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** The last lines that it logged. */
  get log(): string {
    return this.#lines.join('\n');
  }

  /** Resolves when it listens. */
  async start(): Promise<void> {
    if (this.#child) throw new Error(`${this.name} is up already`);
    const child = spawn(process.execPath, [WAYBILL, ...this.args], {
      cwd: this.#directory,
      env: this.without
        ? {
            ...this.#env,
            NODE_OPTIONS: `${this.#env.NODE_OPTIONS ?? ''} ${preload('without')}`,
            DRILL_WITHOUT: this.without,
          }
        : this.#env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    this.#signalledAt = undefined;
    const file = createWriteStream(`${this.#directory}/${this.name}.log`, { flags: 'a' });
    const { promise: listening, resolve } = Promise.withResolvers<number>();
    for (const stream of [child.stdout, child.stderr]) {
      if (!stream) continue;
      createInterface({ input: stream }).on('line', (line) => {
        file.write(`${line}\n`);
        this.#lines.push(line);
        if (this.#lines.length > 100) this.#lines.shift();
        const port = line.includes('is listening') ? portOf(line) : undefined;
        if (port) resolve(port);
      });
    }
    let listens = false;
    this.#exited = new Promise((done) => {
      child.once('close', (code, signal) => {
        const ms = this.#signalledAt === undefined ? 0 : performance.now() - this.#signalledAt;
        if (listens && this.#signalledAt === undefined)
          this.crashes.push(`${this.name} ended by itself (${signal ?? code})`);
        if (this.#child === child) this.#child = undefined;
        file.end();
        done({ code, signal, ms });
      });
    });
    const gone = this.#exited.then(({ code, signal }) => {
      throw new Error(`${this.name} ended while it started (${signal ?? code}):\n${this.log}`);
    });
    this.#port = await withDeadline(Promise.race([listening, gone]), START_MS, `starting ${this.name}`);
    listens = true;
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.#exited;
  }

  /** SIGTERM; resolves with how it ended, at the latest after `deadlineMs`, when SIGKILL ends it. */
  async terminate(deadlineMs: number): Promise<Exit> {
    this.signal('SIGTERM');
    const timer = setTimeout(() => this.signal('SIGKILL'), deadlineMs);
    const exit = (await this.#exited) ?? { code: null, signal: null, ms: 0 };
    clearTimeout(timer);
    return exit;
  }

  signal(signal: NodeJS.Signals): void {
    this.#signalledAt ??= performance.now();
    this.#child?.kill(signal);
  }

  /** Sets its wall clock apart from the host's by `ms`, now and for every later start; resolves when that holds. */
  async jump(ms: number): Promise<void> {
    writeFileSync(this.#clock, String(ms));
    if (!this.#child) return;
    this.#child.kill('SIGUSR2');
    const read = async () => readFileSync(`${this.#clock}.read`, 'utf8') === String(ms);
    await eventually(`the clock of ${this.name} has jumped`, () => attempt(read), 10_000, 20);
  }

  /** Whether `/readyz` says 200: for a worker that it consumes. */
  async ready(): Promise<boolean> {
    if (!this.#child || this.#port === 0) return false;
    try {
      const response = await fetch(`${this.url}/readyz`, { signal: AbortSignal.timeout(3000) });
      await response.arrayBuffer();
      return response.ok;
    } catch {
      return false;
    }
  }

  /** Resident memory in MiB. */
  rss(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
  }
}

/** The port in a log line such as `{"port":40001,"msg":"the worker is listening"}`. */
function portOf(line: string): number | undefined {
  try {
    const { port, url } = JSON.parse(line) as { port?: number; url?: string };
    return port ?? (url ? Number(new URL(url).port) : undefined);
  } catch {
    return undefined;
  }
}
