import { pause } from '../../src/services/service.ts';
import type { ServerName } from './lib/cluster.ts';
import type { FaultyProxy } from './lib/proxy.ts';
import type { Outcome, Stage } from './lib/stage.ts';

/** Applies a fault and takes it away again after `ms`. */
const FAULTS: Record<string, (proxies: FaultyProxy[], ms: number) => Promise<void>> = {
  delay: async (proxies, ms) => {
    for (const proxy of proxies) proxy.delayMs = 150;
    await pause(ms);
    for (const proxy of proxies) proxy.delayMs = 0;
  },
  reset: async (proxies, ms) => {
    for (const end = performance.now() + ms; performance.now() < end; await pause(1000))
      for (const proxy of proxies) proxy.reset();
  },
  'half-open': async (proxies) => {
    for (const proxy of proxies) proxy.halfOpen();
  },
  blackhole: async (proxies, ms) => {
    for (const proxy of proxies) proxy.blackhole = true;
    await pause(ms);
    for (const proxy of proxies) proxy.blackhole = false;
  },
};

/** A dead connection that nobody closes is noticed by heartbeats and timeouts, at the latest after so long. */
const NOTICED_MS = 45_000;

/** Network faults between the processes and each server, through proxies; each pair of server and fault is a row. */
export async function network(
  stage: Stage,
  options: { seconds: number; faultMs?: number; only?: [ServerName, string][]; processes?: string[] },
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const pairs = (['postgres', 'redis', 'rabbitmq'] as const).flatMap((server) =>
    Object.keys(FAULTS).map((fault): [ServerName, string] => [server, fault]),
  );
  for (const [server, fault] of options.only ?? pairs) {
    const load = stage.load();
    const problems: string[] = [];
    load.start({ events: 20, registrations: 4 });
    await pause((options.seconds * 1000) / 2);
    stage.report(`${fault} between ${options.processes?.join(', ') ?? 'every process'} and ${server}`);
    const proxies = stage.cluster.proxiesOf(server, options.processes);
    if (proxies.every((proxy) => proxy.connections === 0)) problems.push('no connection went through the proxies');
    await FAULTS[fault]?.(proxies, options.faultMs ?? 30_000);
    const began = performance.now();
    await stage.cluster.untilReady(NOTICED_MS).catch((error: Error) => problems.push(error.message));
    await stage.probe(NOTICED_MS).catch((error: Error) => problems.push(error.message));
    const recovered = (performance.now() - began) / 1000;
    await pause((options.seconds * 1000) / 2);
    await load.stop();
    outcomes.push({ load, drill: 'network', what: `${fault}, to ${server}`, recovered, problems });
  }
  return outcomes;
}
