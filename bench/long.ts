/**
 * What only shows after a long time: `node bench/long.ts [--events 1000000] [--round 50000] [--sizes
 * 10000,100000,1000000,10000000] [--json]`.
 *
 * Memory: so many events and as many audit records go through fan-out, delivery, audit and relay, round after round, and
 * each process's resident memory is taken after every round. Growth: the tables are filled to each size by SQL, and what
 * an event, an audit row and a registration then cost is measured over them.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { growTo, registrationCost } from './growth.ts';
import { describeMachine, describeVersions } from './machine.ts';
import { round } from './measure.ts';
import type { Platform, WaybillProcess } from './platform.ts';
import { openServers, reporter } from './servers.ts';
import { appendRecords } from './stages/audit.ts';
import { drain, Subscribers } from './stages/deliveries.ts';
import { relayRows } from './stages/relay.ts';

const { values } = parseArgs({
  options: {
    events: { type: 'string', default: '1000000' },
    round: { type: 'string', default: '50000' },
    sizes: { type: 'string', default: '10000,100000,1000000,10000000' },
    json: { type: 'boolean', default: false },
    checkout: { type: 'string', default: fileURLToPath(new URL('..', import.meta.url)) },
  },
});
const events = Number(values.events);
const each = Math.min(events, Number(values.round));
const sizes = values.sizes.split(',').filter(Boolean).map(Number);
const ENDPOINTS = 200;
/** Events, audit rows and registrations that are measured at each size. */
const PROBE = 10_000;

interface Memory {
  events: number;
  /** MiB by process. */
  rss: Record<string, number>;
  deliveries_per_second: number;
}

interface Growth {
  rows: number;
  /** Microseconds of wall time each. */
  delivery_us: number;
  audit_row_us: number;
  registration_us: number;
}

const report = reporter();
const machine = describeMachine();
const servers = await openServers(report);
try {
  const versions = await describeVersions(values.checkout, servers.urls);
  const memory = events > 0 ? await memoryOver(await servers.platform(values.checkout)) : [];
  const growth = sizes.length > 0 ? await costOver(await servers.platform(values.checkout)) : [];
  const outcome = { machine, versions, memory, growth };
  process.stdout.write(values.json ? `${JSON.stringify(outcome, null, 2)}\n` : text(memory, growth));
} finally {
  await servers.close();
}
process.exit(0);

async function memoryOver(platform: Platform): Promise<Memory[]> {
  const subscribers = await Subscribers.create(platform, { name: 'bench.long', types: ENDPOINTS, each: 1 });
  await platform.stopAll();
  const [fanout, webhooks, audit, housekeeping] = await startWorkers(platform);
  const rounds: Memory[] = [];
  for (let done = 0; done < events; ) {
    const count = Math.min(each, events - done);
    await subscribers.receiver.ask('reset');
    const { seconds } = await drain(platform, subscribers, [fanout, webhooks], count, { keep: true });
    await appendRecords(platform, count);
    await relayRows(platform, count);
    done += count;
    const processes: Record<string, WaybillProcess> = { fanout, webhooks, audit, housekeeping };
    const rss = Object.fromEntries(Object.entries(processes).map(([name, it]) => [name, round(it.rssMib())]));
    rounds.push({ events: done, rss, deliveries_per_second: round(count / seconds) });
    report(`${done} of ${events}: ${JSON.stringify(rss)} MiB, ${round(count / seconds)} deliveries/s`);
  }
  await Promise.all([subscribers.receiver.stop(), platform.stopAll()]);
  return rounds;
}

async function costOver(platform: Platform): Promise<Growth[]> {
  const subscribers = await Subscribers.create(platform, { name: 'bench.growth', types: ENDPOINTS, each: 1 });
  await platform.stopAll();
  const figures: Growth[] = [];
  for (const rows of [...sizes].sort((a, b) => a - b)) {
    report(`filling the tables to ${rows} rows`);
    await growTo(platform, rows);
    const [fanout, webhooks] = await startWorkers(platform);
    const us = async (work: () => Promise<number>) => round((await work()) * (1e6 / PROBE), 1);
    const delivery = async () => {
      await subscribers.receiver.ask('reset');
      return (await drain(platform, subscribers, [fanout, webhooks], PROBE, { keep: true })).seconds;
    };
    await delivery(); // warm
    const figure = {
      rows,
      delivery_us: await us(delivery),
      audit_row_us: await us(() => appendRecords(platform, PROBE)),
      registration_us: round(await registrationCost(platform), 1),
    };
    await platform.stopAll();
    figures.push(figure);
    report(`${rows} rows: ${JSON.stringify(figure)}`);
  }
  await subscribers.receiver.stop();
  return figures;
}

async function startWorkers(
  platform: Platform,
): Promise<[WaybillProcess, WaybillProcess, WaybillProcess, WaybillProcess]> {
  const start = (pool: string) => platform.start(['worker', pool]);
  return [await start('fanout'), await start('webhooks'), await start('audit'), await start('housekeeping')];
}

function text(memory: Memory[], growth: Growth[]): string {
  const names = Object.keys(memory[0]?.rss ?? {});
  return [
    `| events | ${names.map((name) => `${name} MiB`).join(' | ')} | deliveries/s |`,
    `|---:|${names.map(() => '---:|').join('')}---:|`,
    ...memory.map(
      (it) => `| ${it.events} | ${names.map((name) => it.rss[name]).join(' | ')} | ${it.deliveries_per_second} |`,
    ),
    '',
    '| rows in each table | µs per delivery | µs per audit row | µs per registration without its hash |',
    '|---:|---:|---:|---:|',
    ...growth.map((it) => `| ${it.rows} | ${it.delivery_us} | ${it.audit_row_us} | ${it.registration_us} |`),
    '',
  ].join('\n');
}
