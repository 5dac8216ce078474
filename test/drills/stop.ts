import { pause } from '../../src/services/service.ts';
import { DRAIN_MS } from './lib/cluster.ts';
import type { Outcome, Stage } from './lib/stage.ts';

/** What a drain may take on top, for closing connections. */
const CLOSING_MS = 3000;

/** SIGTERM of one process after the other under load: it exits in time with code 0, and nothing goes out twice. */
export async function stop(stage: Stage, options: { times: number }): Promise<Outcome[]> {
  const { cluster } = stage;
  const load = stage.load();
  const problems: string[] = [];
  load.start({ events: 30, registrations: 5 });
  const all = [...cluster.processes.values()];
  const revivals = new Map<string, Promise<unknown>>();
  let slowest = 0;
  for (let n = 0; n < options.times; n += 1) {
    const process = all[n % all.length];
    if (!process) break;
    await revivals.get(process.name);
    await pause(500);
    const { code, signal, ms } = await process.terminate(DRAIN_MS + CLOSING_MS + 2000);
    stage.report(`SIGTERM ${process.name}: gone after ${(ms / 1000).toFixed(1)} s`);
    slowest = Math.max(slowest, ms);
    if (code !== 0 || signal) problems.push(`${process.name} ended with ${signal ?? `code ${code}`}:\n${process.log}`);
    if (ms > DRAIN_MS) problems.push(`${process.name} took ${(ms / 1000).toFixed(1)} s to stop`);
    revivals.set(
      process.name,
      cluster.revive(process).catch((error: Error) => problems.push(error.message)),
    );
  }
  await load.stop();
  await Promise.all(revivals.values());
  await cluster.untilReady(30_000);
  const what = `SIGTERM of ${options.times} processes, one by one; the slowest took ${(slowest / 1000).toFixed(1)} s`;
  const outcome: Outcome = { load, drill: 'stop', what, recovered: 'settled', problems };
  // Nobody was killed, so nothing may come twice.
  const { duplicates } = await stage.settle(load, 60_000);
  if (duplicates > 0) problems.push(`${duplicates} webhooks or mails went out twice`);
  return [outcome];
}

/** A second SIGTERM while work is in flight ends the process at once; resolves with the milliseconds from it to the end. */
export async function stopTwice(stage: Stage, name: string): Promise<{ ms: number; code: number | null }> {
  const process = stage.cluster.process(name);
  const load = stage.load();
  // Answers that take longer than the drill keep the first SIGTERM busy.
  stage.steady.manner = { delayMs: 6000 };
  try {
    await load.run({ events: 40, registrations: 0 }, 0.7);
    const ended = process.terminate(20_000);
    await pause(500);
    const began = performance.now();
    if (!process.up) throw new Error(`${name} had nothing in flight: the drill proves nothing`);
    process.signal('SIGTERM');
    const { code } = await ended;
    return { ms: performance.now() - began, code };
  } finally {
    stage.steady.manner = {};
    await stage.cluster.revive(process);
    await load.close();
  }
}
