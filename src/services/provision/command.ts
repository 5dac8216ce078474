import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

export interface Outcome {
  /** Exit code; null when the command was killed (deadline, abort) or could not be started. */
  code: number | null;
  /** The last 4,000 characters of standard output. */
  stdout: string;
  /** The last lines of both streams, or why the command could not run: what an error message quotes. */
  tail: string;
}

export interface CommandOptions {
  deadlineMs: number;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Run as this account; needs root. */
  account?: Account | undefined;
  signal?: AbortSignal | undefined;
}

export interface Account {
  uid: number;
  gid: number;
}

const KEPT = 4000;

/** Runs a command without a terminal, in a process group of its own that is killed whole at the deadline. */
export function run(command: string, args: string[], options: CommandOptions): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      ...(options.env && { env: options.env }),
      ...(options.cwd && { cwd: options.cwd }),
      ...options.account,
    });
    let stdout = '';
    let both = '';
    let killed = '';
    const keep = (text: string) => {
      both = (both + text).slice(-KEPT);
    };
    child.stdout.on('data', (chunk: Buffer) => {
      stdout = (stdout + chunk.toString()).slice(-KEPT);
      keep(chunk.toString());
    });
    child.stderr.on('data', (chunk: Buffer) => keep(chunk.toString()));
    const kill = (why: string) => {
      killed = why;
      if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL');
    };
    const timer = setTimeout(() => kill(`not done within ${options.deadlineMs / 1000} s`), options.deadlineMs);
    const aborted = () => kill('stopped on request');
    options.signal?.addEventListener('abort', aborted, { once: true });
    const conclude = (code: number | null, problem: string) => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', aborted);
      const lines = both.trim().split('\n').slice(-8).join('\n');
      resolve({ code: killed ? null : code, stdout, tail: [killed || problem, lines].filter(Boolean).join('\n') });
    };
    child.once('error', (error) => conclude(null, error.message));
    child.once('close', (code) => conclude(code, ''));
    if (options.signal?.aborted) aborted();
  });
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // The group is already gone, which is what was asked for.
  }
}

/** The first of these files that may be executed; a bare name is looked up on PATH. */
export function findExecutable(...candidates: string[]): string | undefined {
  const directories = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  const paths = candidates.flatMap((it) => (it.includes('/') ? [it] : directories.map((each) => join(each, it))));
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Numeric ids of a local account, or undefined when there is none of that name. */
export async function findAccount(name: string): Promise<Account | undefined> {
  const ids = await Promise.all(['-u', '-g'].map((flag) => run('id', [flag, name], { deadlineMs: 5000 })));
  const [uid, gid] = ids.map(({ code, stdout }) => (code === 0 ? Number(stdout.trim()) : Number.NaN));
  return uid !== undefined && gid !== undefined && Number.isInteger(uid) && Number.isInteger(gid)
    ? { uid, gid }
    : undefined;
}

/** True while a process of that id exists, also one of another user. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
