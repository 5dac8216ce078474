/**
 * One private server process. Its states:
 *
 * - starting: the process runs and is not ready yet; `launch` polls its handshake until the deadline
 * - ready:    `launch` has returned it
 * - stopping: `stop()` has sent the server's own stop signal; after the grace time SIGKILL follows
 * - gone:     the process has been reaped and `instance.json` removed
 *
 * `instance.json` in the server's directory says which process serves the data there, so that nobody starts a second
 * one over it. It is written when the process is spawned and counts only while that very process lives.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Account, isAlive } from './command.ts';
import type { Answer } from './handshake.ts';

export interface Instance {
  url: string;
  pid: number;
  /** Ends the server gracefully, with SIGKILL after its grace time. A second call waits for the first. */
  stop(): Promise<void>;
  /** SIGKILL, as a crash would; resolves when the process is gone. */
  kill(): Promise<void>;
}

export interface Launch {
  title: string;
  dir: string;
  command: string;
  args: string[];
  env: NodeJS.ProcessEnv;
  account?: Account | undefined;
  url: string;
  port: number;
  greet: () => Promise<Answer>;
  deadlineMs: number;
  stopSignal: NodeJS.Signals;
  graceMs: number;
  signal?: AbortSignal | undefined;
}

/** A server process that did not come up; `message` quotes the end of its log. */
export class ServiceStartError extends Error {
  override readonly name = 'ServiceStartError';
}

const POLL_MS = 50;

/** A process id is reused after a restart of the machine; its working directory tells a stranger from our server. */
function servesDirectory(pid: number, dir: string): boolean {
  if (!isAlive(pid)) return false;
  if (process.platform !== 'linux') return true;
  try {
    return `${readlinkSync(`/proc/${pid}/cwd`)}/`.startsWith(`${dir}/`);
  } catch {
    return false;
  }
}

/** The live process that serves this directory, started by this or an earlier call, or undefined. */
export function findRunning(dir: string): { pid: number; port: number } | undefined {
  try {
    const record: unknown = JSON.parse(readFileSync(join(dir, 'instance.json'), 'utf8'));
    const { pid, port } = record as { pid: number; port: number };
    return servesDirectory(pid, dir) ? { pid, port } : undefined;
  } catch {
    return undefined;
  }
}

function endOfLog(path: string): string {
  const lines = readFileSync(path, 'utf8').trim().split('\n').slice(-12);
  return lines.length > 0 && lines[0] ? `\nIts log (${path}) ends:\n${lines.join('\n')}` : '';
}

/** Starts a server in a session of its own (a terminal's Ctrl-C does not reach it) and waits until it is ready. */
export async function launch(spec: Launch): Promise<Instance> {
  const { title, dir } = spec;
  const running = findRunning(dir);
  if (running) throw new ServiceStartError(`${title} already serves ${dir} (process ${running.pid})`);
  mkdirSync(dir, { recursive: true });
  const logPath = join(dir, 'server.log');
  const recordPath = join(dir, 'instance.json');
  const log = openSync(logPath, 'w');
  const child = spawn(spec.command, spec.args, {
    cwd: dir,
    env: spec.env,
    detached: true,
    stdio: ['ignore', log, log],
    ...spec.account,
  });
  closeSync(log);
  const gone = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ? `ended by ${signal}` : `exited with code ${code}`));
  }).finally(() => rmSync(recordPath, { force: true }));
  const { pid } = child;
  if (pid === undefined) throw new ServiceStartError(`${title}: ${await gone}`);
  writeFileSync(recordPath, JSON.stringify({ pid, port: spec.port }));

  try {
    await untilReady(spec, gone);
  } catch (error) {
    await end(child, gone, 'SIGKILL', spec.graceMs);
    const reason = error instanceof Error ? error.message : String(error);
    throw new ServiceStartError(`${title} did not start: ${reason}${endOfLog(logPath)}`);
  }
  child.unref();

  let stopped: Promise<void> | undefined;
  return {
    url: spec.url,
    pid,
    stop: () => {
      stopped ??= end(child, gone, spec.stopSignal, spec.graceMs);
      return stopped;
    },
    kill: () => end(child, gone, 'SIGKILL', spec.graceMs),
  };
}

async function untilReady({ greet, deadlineMs, signal }: Launch, gone: Promise<string>): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  const ended = gone.then((how) => ({ state: 'gone' as const, detail: how }));
  for (;;) {
    const answer = await Promise.race([greet(), ended]);
    if (answer.state === 'ready') return;
    if (answer.state === 'gone' || answer.state === 'refused') throw new Error(answer.detail);
    if (signal?.aborted) throw new Error('stopped on request');
    if (Date.now() > deadline) throw new Error(`not ready within ${deadlineMs / 1000} s (${answer.detail})`);
    await delay(POLL_MS);
  }
}

async function end(child: ChildProcess, gone: Promise<string>, signal: NodeJS.Signals, graceMs: number): Promise<void> {
  child.ref();
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
  await gone;
  clearTimeout(timer);
}
