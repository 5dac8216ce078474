import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/*
 * Load generators, receivers and baselines run in processes of their own, so that none of them shares an event loop
 * with what is measured. One asks them by name over Node's IPC channel and gets one answer.
 */

interface Question {
  id: number;
  action: string;
  input: unknown;
}
type Answer = { id: number; result: unknown } | { id: number; error: string };

/** A script of this folder as a process. Its death rejects whatever is asked of it. */
export class Peer {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #next = 0;

  /** `script` relative to this folder. */
  constructor(script: string) {
    this.#child = fork(fileURLToPath(new URL(script, import.meta.url)), [], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#child.on('message', (answer: Answer) => {
      const waiting = this.#waiting.get(answer.id);
      this.#waiting.delete(answer.id);
      if ('error' in answer) waiting?.reject(new Error(`${script}: ${answer.error}`));
      else waiting?.resolve(answer.result);
    });
    this.#child.on('exit', (code) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`${script} ended (${code})`));
      this.#waiting.clear();
    });
  }

  ask<T>(action: string, input: unknown = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const id = this.#next++;
      this.#waiting.set(id, { resolve: (value) => resolve(value as T), reject });
      this.#child.send({ id, action, input } satisfies Question);
    });
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise<void>((resolve) => this.#child.once('exit', () => resolve()));
    this.#child.kill('SIGKILL'); // it holds nothing that must be put down in order
    await gone;
  }
}

/** The other side: answers questions until its parent is gone. */
export function serve(actions: Record<string, (input: never) => unknown>): void {
  process.on('message', async ({ id, action, input }: Question) => {
    try {
      const work = actions[action];
      if (!work) throw new Error(`there is no action "${action}"`);
      process.send?.({ id, result: await work(input as never) });
    } catch (error) {
      process.send?.({ id, error: (error as Error).stack ?? String(error) });
    }
  });
  process.on('disconnect', () => process.exit(0));
}
