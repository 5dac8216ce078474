import { Broker } from '../../src/queues/broker.ts';
import { BROKER_POOLS, Topology } from '../../src/queues/topology.ts';
import { pause } from '../../src/services/service.ts';
import { SILENT } from './lib/cluster.ts';
import { evalOnBroker } from './lib/rabbitmqctl.ts';
import type { Outcome, Stage } from './lib/stage.ts';

/** Consumers are back so soon after their broker, and a client hears of its absence so soon. */
const BACK_S = 10;
const REFUSED_MS = 2000;
/** What a busy machine may make of it. */
const SLACK = 1.25;

/** What is done to the broker, and for how long it is away. */
export const FAULTS: Record<string, (stage: Stage, awayMs: number) => Promise<void>> = {
  'stopped and started': async ({ cluster }, awayMs) => {
    await cluster.servers.rabbitmq.stop();
    await pause(awayMs);
    await cluster.servers.rabbitmq.start();
  },
  'SIGKILL and start': async ({ cluster }, awayMs) => {
    await cluster.servers.rabbitmq.kill();
    await pause(awayMs);
    await cluster.servers.rabbitmq.start();
  },
  'channels killed': ({ cluster }) =>
    evalOnBroker(cluster.servers.rabbitmq.directory, '[exit(P, kill) || P <- rabbit_channel:list()].'),
  'exchanges deleted': ({ cluster }) =>
    onBroker(cluster.servers.rabbitmq.url, async (model) => {
      const topology = new Topology(cluster.namespace);
      const channel = await model.createChannel();
      for (const name of [topology.events, topology.commands, topology.audit]) await channel.deleteExchange(name);
      await channel.close();
    }),
  'publishers blocked by a memory alarm': ({ cluster }, awayMs) =>
    evalOnBroker(
      cluster.servers.rabbitmq.directory,
      `Old = vm_memory_monitor:get_vm_memory_high_watermark(), vm_memory_monitor:set_vm_memory_high_watermark(0.000001),
       timer:sleep(${awayMs}), vm_memory_monitor:set_vm_memory_high_watermark(Old).`,
    ),
};

/** The broker stopped, killed, blocked, and its parts deleted under load; each fault is a row. */
export async function rabbit(
  stage: Stage,
  options: { seconds: number; awayMs?: number; faults?: string[]; slack?: number },
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const slack = options.slack ?? SLACK;
  for (const [what, breakIt] of Object.entries(FAULTS)) {
    if (options.faults && !options.faults.includes(what)) continue;
    outcomes.push(await broken(stage, options.seconds, what, slack, () => breakIt(stage, options.awayMs ?? 5000)));
  }
  if (!options.faults || options.faults.includes(QUEUES))
    outcomes.push(await queuesDeleted(stage, options.seconds, slack));
  return outcomes;
}

async function broken(
  stage: Stage,
  seconds: number,
  what: string,
  slack: number,
  breakIt: () => Promise<void>,
): Promise<Outcome> {
  const load = stage.load();
  const problems: string[] = [];
  load.start({ events: 30, registrations: 5 });
  await pause((seconds * 1000) / 2);
  stage.report(`RabbitMQ: ${what}`);
  await breakIt();
  const recovered = await back(stage, problems, slack);
  await pause((seconds * 1000) / 2);
  await load.stop();
  if (load.slowestRefusalMs > REFUSED_MS * slack)
    problems.push(`a 503 took ${(load.slowestRefusalMs / 1000).toFixed(1)} s`);
  const slowest = load.slowestRefusalMs > 0 ? `; slowest 503 after ${(load.slowestRefusalMs / 1000).toFixed(1)} s` : '';
  return { load, drill: 'rabbitmq', what: `${what}${slowest}`, recovered, problems };
}

/** Empty queues deleted under their consumers; what is published after must be handled as ever. */
export const QUEUES = 'queues deleted';

async function queuesDeleted(stage: Stage, seconds: number, slack: number): Promise<Outcome> {
  const load = stage.load();
  const problems: string[] = [];
  await load.run({ events: 30, registrations: 5 }, seconds / 2);
  await stage.tabled(load, 30_000);
  stage.report('RabbitMQ: empty queues deleted under their consumers');
  await onBroker(stage.cluster.servers.rabbitmq.url, async (model) => {
    const topology = new Topology(stage.cluster.namespace);
    const channel = await model.createChannel();
    for (const pool of BROKER_POOLS) await channel.deleteQueue(topology.queue(pool));
    await channel.close();
  });
  load.start({ events: 30, registrations: 5 });
  const recovered = await back(stage, problems, slack);
  await pause((seconds * 1000) / 2);
  await load.stop();
  return { load, drill: 'rabbitmq', what: 'empty queues deleted under their consumers', recovered, problems };
}

/** The seconds until every process consumes again and a new event goes all the way. */
async function back(stage: Stage, problems: string[], slack: number): Promise<number> {
  const began = performance.now();
  const late = (error: Error) => problems.push(error.message);
  await stage.cluster.untilReady(4 * BACK_S * 1000).catch(late);
  await stage.probe(4 * BACK_S * 1000).catch(late);
  const seconds = (performance.now() - began) / 1000;
  if (seconds > BACK_S * slack) problems.push(`consumers were back only after ${seconds.toFixed(1)} s`);
  return seconds;
}

/** Runs `work` on a connection of the drill's own. */
export async function onBroker(
  url: string,
  work: (model: NonNullable<Broker['model']>) => Promise<void>,
): Promise<void> {
  const broker = new Broker(url, 'drill', SILENT);
  try {
    await broker.start();
    await broker.ready(10_000);
    if (broker.model) await work(broker.model);
  } finally {
    await broker.stop(1000);
  }
}
