/**
 * `npm run drill [-- name…] [--seconds n] [--markdown file] [--json file] [--keep]`: breaks a private installation on
 * purpose, drill by drill, and reports what became of everything that clients were told. Exits 1 when anything was lost.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { clock } from './clock.ts';
import { kill } from './kill.ts';
import { LAYOUT, type Layout, SMALL_LAYOUT } from './lib/cluster.ts';
import { asJson, asMarkdown, asText, passed, type Row } from './lib/report.ts';
import { type Outcome, Stage } from './lib/stage.ts';
import { network } from './network.ts';
import { poison } from './poison.ts';
import { postgres } from './postgres.ts';
import { rabbit } from './rabbit.ts';
import { redis } from './redis.ts';
import { stop, stopTwice } from './stop.ts';

/** The longest that what was accepted may take to arrive: mails refused twice wait a minute, open breakers too. */
const SETTLE_MS = 240_000;

interface Drill {
  layout: Layout;
  proxied?: boolean;
  clocks?: boolean;
  /** How long the load runs, in seconds, unless `--seconds` says otherwise; per fault where there are several. */
  seconds: number;
  run(stage: Stage, seconds: number): Promise<Outcome[]>;
}

const DRILLS: Record<string, Drill> = {
  kill: { layout: LAYOUT, seconds: 60, run: (stage, seconds) => kill(stage, { seconds }) },
  redis: { layout: LAYOUT, seconds: 12, run: (stage, seconds) => redis(stage, { seconds }) },
  rabbitmq: { layout: LAYOUT, seconds: 10, run: (stage, seconds) => rabbit(stage, { seconds }) },
  postgres: { layout: LAYOUT, seconds: 10, run: (stage, seconds) => postgres(stage, { seconds }) },
  network: { layout: SMALL_LAYOUT, proxied: true, seconds: 10, run: (stage, seconds) => network(stage, { seconds }) },
  clock: { layout: LAYOUT, clocks: true, seconds: 20, run: (stage, seconds) => clock(stage, { seconds }) },
  poison: { layout: LAYOUT, seconds: 300, run: (stage, seconds) => poison(stage, { perQueue: 10_000, seconds }) },
  stop: {
    layout: LAYOUT,
    seconds: 150,
    async run(stage, seconds) {
      const outcomes = await stop(stage, { times: Math.max(1, Math.round(seconds / 3)) });
      const { ms, code } = await stopTwice(stage, 'webhooks-1');
      if (ms > 1000 || code === 0)
        outcomes[0]?.problems.push(`after a second SIGTERM: code ${code}, ${ms.toFixed(0)} ms`);
      return outcomes;
    },
  },
};

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: 'string' },
      markdown: { type: 'string' },
      json: { type: 'string' },
      keep: { type: 'boolean', default: false },
    },
  });
  const names = positionals.length > 0 ? positionals : Object.keys(DRILLS);
  const unknown = names.find((name) => !(name in DRILLS));
  const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
  if (unknown || (seconds !== undefined && !(seconds > 0))) {
    console.error(
      `usage: npm run drill -- [${Object.keys(DRILLS).join('|')} …] [--seconds n] [--markdown file] [--json file] [--keep]`,
    );
    process.exitCode = 2;
    return;
  }
  const rows: Row[] = [];
  let stage: Stage | undefined;
  const interrupted = (signal: NodeJS.Signals) => {
    console.error(`${signal}: taking everything down`);
    process.exit(130); // what still runs is killed on the way out
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  for (const name of names) {
    const drill = DRILLS[name];
    if (!drill) continue;
    console.log(`\n${name}`);
    stage = await Stage.start({ ...drill, report: (line) => console.log(`  ${line}`) });
    try {
      const began = rows.length;
      for (const outcome of await drill.run(stage, seconds ?? drill.seconds))
        rows.push(await stage.row(outcome, SETTLE_MS));
      const audit = await stage.verifyAudit();
      if (audit) rows.at(-1)?.problems.push(audit);
      console.log(asText(rows.slice(began)));
    } finally {
      await stage.close({ keep: values.keep });
      if (values.keep) console.log(`  logs are in ${stage.cluster.directory}`);
    }
  }
  console.log(`\n${asText(rows)}`);
  if (values.markdown) writeFileSync(values.markdown, asMarkdown(rows));
  if (values.json) writeFileSync(values.json, asJson(rows));
  if (!passed(rows)) process.exitCode = 1;
}

await main();
