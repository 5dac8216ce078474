import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { withDeadline } from '../../../src/services/service.ts';

/** The CLI. */
export const WAYBILL = fileURLToPath(new URL('../../../bin/waybill.js', import.meta.url));
const START_MS = 60_000;

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
  readonly #lines: string[] = [];
  #child: ChildProcess | undefined;
  #exited: Promise<Exit> | undefined;
  #signalledAt: number | undefined;
  #port = 0;

  constructor(name: string, args: string[], env: NodeJS.ProcessEnv, directory: string) {
    this.name = name;
    this.args = args;
    this.#env = env;
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
      env: this.#env,
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
