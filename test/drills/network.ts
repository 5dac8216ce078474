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

const SERVERS = ['postgres', 'redis', 'rabbitmq'] as const;
/** A dead connection that nobody closes is noticed by heartbeats and timeouts, at the latest after so long. */
const NOTICED_MS = 45_000;

/** Which processes are cut off from which server at once. */
interface Cut {
  what: string;
  from: (place: number) => ServerName;
}

/** Every process from one server, so that nobody can take over; and each from another one, so that somebody can. */
const CUTS: Cut[] = [
  ...SERVERS.map((server) => ({ what: `every process to ${server}`, from: () => server })),
  // A Latin square: after three rounds each process has been cut off from each server alone.
  ...SERVERS.map((_, round) => ({
    what: `each process to another server, round ${round + 1} of 3`,
    from: (place: number) => SERVERS[(place + round) % 3] as ServerName,
  })),
];

/** Network faults between each process and each server, through proxies; each pair of fault and cut is a row. */
export async function network(
  stage: Stage,
  options: { seconds: number; faultMs?: number; only?: [fault: string, server: ServerName][] },
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const cut of CUTS)
    for (const fault of Object.keys(FAULTS)) {
      const wanted = options.only?.some(([name, server]) => name === fault && cut.what.endsWith(` ${server}`)) ?? true;
      if (wanted) outcomes.push(await broken(stage, options.seconds, fault, cut, options.faultMs ?? 30_000));
    }
  return outcomes;
}

async function broken(stage: Stage, seconds: number, fault: string, cut: Cut, ms: number): Promise<Outcome> {
  const load = stage.load();
  const problems: string[] = [];
  load.start({ events: 20, registrations: 4 });
  await pause((seconds * 1000) / 2);
  stage.report(`${fault}, ${cut.what}`);
  const names = [...stage.cluster.processes.keys()];
  const proxies = names.flatMap((name, place) => stage.cluster.proxiesOf(cut.from(place), [name]));
  for (const [place, proxy] of proxies.entries())
    if (proxy.connections === 0)
      problems.push(`no connection of ${names[place]} to ${cut.from(place)} was there to cut`);
  await FAULTS[fault]?.(proxies, ms);
  const began = performance.now();
  await stage.cluster.untilReady(NOTICED_MS).catch((error: Error) => problems.push(error.message));
  await stage.probe(NOTICED_MS).catch((error: Error) => problems.push(error.message));
  const recovered = (performance.now() - began) / 1000;
  await pause((seconds * 1000) / 2);
  await load.stop();
  return { load, drill: 'network', what: `${fault}, ${cut.what}`, recovered, problems };
}
