import type { Machine, Versions } from './machine.ts';
import type { StageResult } from './measure.ts';
import type { Latency } from './stages/latency.ts';

export interface Outcome {
  machine: Machine;
  versions: Versions;
  stages: StageResult[];
  latency?: Latency;
  startup_ms?: Record<string, number>;
}

const figure = (n: number): string => (n >= 100 ? Math.round(n).toLocaleString('en') : String(n));

/** The outcome as Markdown. */
export function table({ machine, versions, stages, latency, startup_ms }: Outcome): string {
  const rows = stages.map(
    ({ stage, beside, rate, baseline, ratio, goal, unit }) =>
      `| ${stage} | ${beside} | ${figure(rate)} | ${figure(baseline)} | ${ratio.toFixed(2)} | ≥ ${goal} | ${ratio >= goal ? 'yes' : 'no'} | ${unit} |`,
  );
  const notes = stages.flatMap(({ stage, beside, notes: of }) => of.map((note) => `- ${stage} / ${beside}: ${note}`));
  return [
    `${machine.cores} × ${machine.cpu}, ${machine.memory_gib} GiB, ${machine.os}; load before the run ${machine.load_before}.`,
    `Node ${versions.node}, PostgreSQL ${versions.postgresql}, Redis ${versions.redis}, RabbitMQ ${versions.rabbitmq}, Waybill ${versions.waybill} (${versions.revision || 'no revision'}).`,
    '',
    ...(rows.length > 0
      ? [
          '| stage | beside | rate | baseline | ratio | goal | reached | unit |',
          '|---|---|---:|---:|---:|---:|---|---|',
          ...rows,
          '',
          ...notes,
        ]
      : []),
    ...(latency
      ? [
          `- latency, accept → subscriber: p50 ${latency.p50} ms, p99 ${latency.p99} ms at ${figure(latency.rate)} events/s, half of the most that the whole path takes (${figure(latency.maximum)}/s)`,
        ]
      : []),
    ...Object.entries(startup_ms ?? {}).map(([kind, ms]) => `- start to ready, ${kind}: ${ms} ms`),
  ].join('\n');
}
