/**
 * Speed of the platform beside the bare limits of the machine, measured in one run:
 * `node bench/run.ts [--only accept,audit] [--seconds 4] [--runs 3] [--json]`. `--profile <folder>` keeps CPU profiles
 * of the platform's processes (see profile.ts), `--checkout <folder>` measures another tree, `--patience <seconds>` is
 * how long the whole run may wait for a machine at rest.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { describeMachine, describeVersions, load } from './machine.ts';
import { patience, type StageResult } from './measure.ts';
import { openServers, reporter } from './servers.ts';
import { stagesOf } from './stages/index.ts';
import { type Latency, latency } from './stages/latency.ts';
import { startup } from './stages/startup.ts';
import { table } from './table.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    seconds: { type: 'string', default: '4' },
    runs: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    checkout: { type: 'string', default: fileURLToPath(new URL('..', import.meta.url)) },
    profile: { type: 'string' },
    patience: { type: 'string', default: '60' },
  },
});
const seconds = positive('seconds', values.seconds);
const runs = positive('runs', values.runs);
patience.leftMs = Number(values.patience) * 1000;

/** Besides the stages: how long an event is on its way, and how long a process takes to start. */
const EXTRAS = ['latency', 'startup'];
const wanted = values.only?.split(',').map((it) => it.trim());
const extras = wanted ? EXTRAS.filter((it) => wanted.includes(it)) : EXTRAS;
const stages = chosenStages();
const report = reporter();
const machine = describeMachine();
const servers = await openServers(report);
try {
  const versions = await describeVersions(values.checkout, servers.urls);
  report(`${machine.cores} × ${machine.cpu}, ${machine.memory_gib} GiB, load ${machine.load_before}`);
  report(`Node ${versions.node}, PostgreSQL ${versions.postgresql}`);
  report(`Redis ${versions.redis}, RabbitMQ ${versions.rabbitmq}`);
  const platform = await servers.platform(
    values.checkout,
    values.profile ? { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${values.profile}` } : {},
  );
  const results: StageResult[] = [];
  for (const stage of stages) {
    report(`${stage.name} (load ${load()})`);
    const figures = await stage.run({ platform, seconds, runs, report });
    for (const { beside, ratio, goal } of figures) report(`  ${stage.name} / ${beside}: ${ratio} (goal ${goal})`);
    results.push(...figures);
  }
  let onTheWay: Latency | undefined;
  let starting: Record<string, number> | undefined;
  if (extras.includes('latency')) {
    report(`latency (load ${load()})`);
    onTheWay = await latency(platform, seconds);
    report(`  p50 ${onTheWay.p50} ms, p99 ${onTheWay.p99} ms at ${onTheWay.rate}/s`);
  }
  if (extras.includes('startup')) {
    report(`startup (load ${load()})`);
    starting = await startup(platform, runs);
  }
  const outcome = {
    machine,
    versions,
    stages: results,
    ...(onTheWay ? { latency: onTheWay } : {}),
    ...(starting ? { startup_ms: starting } : {}),
  };
  process.stdout.write(values.json ? `${JSON.stringify(outcome, null, 2)}\n` : `${table(outcome)}\n`);
} finally {
  await servers.close();
}
process.exit(0);

function chosenStages() {
  const names = wanted?.filter((it) => !EXTRAS.includes(it));
  if (names?.length === 0) return [];
  try {
    return stagesOf(names?.join(','));
  } catch (error) {
    process.stderr.write(`${(error as Error).message}, ${EXTRAS.join(', ')}\n`);
    process.exit(2);
  }
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (value > 0) return value;
  process.stderr.write(`--${name} must be a number above 0, not "${text}"\n`);
  process.exit(2);
}
