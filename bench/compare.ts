/**
 * Two checkouts, measured in turns on the same servers: `node bench/compare.ts <folder A> <folder B> [--only accept]
 * [--seconds 4] [--runs 3] [--json]`. The ratio is A to B. Both need their `node_modules`; the stages and loads are
 * those of this tree, the processes and migrations those of each checkout.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { describeMachine, describeVersions, load } from './machine.ts';
import { compare, patience, type StageResult } from './measure.ts';
import { openServers, reporter } from './servers.ts';
import { stagesOf } from './stages/index.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string' },
    seconds: { type: 'string', default: '4' },
    runs: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    patience: { type: 'string', default: '60' },
  },
});
const [a, b] = positionals.map((it) => resolve(it));
if (!a || !b) {
  process.stderr.write('two checkouts are needed: node bench/compare.ts <folder A> <folder B> [--only accept,audit]\n');
  process.exit(2);
}
patience.leftMs = Number(values.patience) * 1000;
const report = reporter();
const machine = describeMachine();
const servers = await openServers(report);
try {
  const versions = { a: await describeVersions(a, servers.urls), b: await describeVersions(b, servers.urls) };
  const platforms = [await servers.platform(a), await servers.platform(b)];
  const results: StageResult[] = [];
  for (const stage of stagesOf(values.only)) {
    report(`${stage.name} (load ${load()})`);
    const subjects = [];
    try {
      for (const platform of platforms) subjects.push(await stage.subject(platform, Number(values.seconds)));
      const sides = subjects.map((subject, i) => ({ name: i === 0 ? 'A' : 'B', measure: () => subject.measure() }));
      const [result] = await compare(sides, Number(values.runs), report, { stage, goals: {} });
      if (result) results.push(result);
    } finally {
      for (const subject of subjects) await subject.close();
    }
  }
  if (values.json) process.stdout.write(`${JSON.stringify({ machine, versions, stages: results }, null, 2)}\n`);
  else
    process.stdout.write(
      [
        `A ${a} (${versions.a.revision})`,
        `B ${b} (${versions.b.revision})`,
        '',
        '| stage | A | B | A / B | unit |',
        '|---|---:|---:|---:|---|',
        ...results.map((it) => `| ${it.stage} | ${it.rate} | ${it.baseline} | ${it.ratio.toFixed(2)} | ${it.unit} |`),
        '',
        ...results.flatMap((it) => it.notes.map((note) => `- ${it.stage}: ${note}`)),
        '',
      ].join('\n'),
    );
} finally {
  await servers.close();
}
process.exit(0);
