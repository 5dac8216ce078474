import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';

const source = (path: string): string => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);

test('a handle that is left open at the end of the drain does not keep the process up', async () => {
  const code = `
    import { Supervisor } from ${source('cli/process.ts')};
    import { createLogger } from ${source('services/logger.ts')};
    const supervisor = new Supervisor(createLogger({ level: 'warn' }), 500);
    const signal = supervisor.untilSignal();
    const stuck = { name: 'stuck', start: async () => setInterval(() => undefined, 60_000), stop: () => new Promise(() => undefined) };
    await supervisor.start([stuck]);
    console.log('up');
    await signal;
    process.exitCode = 7;`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code]);
  try {
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    child.kill('SIGTERM');
    // With the code that its command gave, not cut off.
    expect(await ended).toEqual([7, null]);
  } finally {
    child.kill('SIGKILL');
  }
});
