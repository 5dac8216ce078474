import { pause } from '../../src/services/service.ts';
import type { WaybillProcess } from './lib/process.ts';
import type { Outcome, Stage } from './lib/stage.ts';

/**
 * SIGKILL of a process every two seconds under load, each started again at once as an init system would: every process
 * of the layout in turn, in an order of chance, so that the API, each pool and the holder of the relay are among them.
 */
export async function kill(stage: Stage, options: { seconds: number; everyMs?: number }): Promise<Outcome[]> {
  const { cluster } = stage;
  const load = stage.load();
  const problems: string[] = [];
  const restarts: Promise<void>[] = [];
  const revived = async (victim: WaybillProcess) => {
    await victim.kill();
    await cluster.revive(victim).catch((error: Error) => problems.push(error.message));
  };
  load.start({ events: 30, registrations: 5 });
  const end = performance.now() + options.seconds * 1000;
  let kills = 0;
  let victims: WaybillProcess[] = [];
  while (performance.now() < end) {
    await pause(options.everyMs ?? 2000);
    if (victims.length === 0) victims = shuffled([...cluster.processes.values()]);
    const victim = victims.pop();
    if (!victim?.up) continue;
    kills += 1;
    stage.report(`SIGKILL ${victim.name}`);
    restarts.push(revived(victim));
  }
  await load.stop();
  await Promise.all(restarts);
  await cluster.untilReady(30_000);
  return [{ load, drill: 'kill', what: `SIGKILL of ${kills} processes, one by one`, recovered: 'settled', problems }];
}

function shuffled<T>(items: T[]): T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}
