import { setTimeout as delay } from 'node:timers/promises';
import { busySeconds } from './machine.ts';

/** One figure of one side: how much of it there was in how many seconds. */
export interface Sample {
  count: number;
  seconds: number;
  notes?: string[];
}

/** A side of a comparison: the subject first, then what it stands beside. */
export interface Side {
  name: string;
  /** One measurement; warms up by itself before it begins to count. */
  measure(): Promise<Sample>;
}

export interface Measured {
  name: string;
  /** Per second, median of all runs. */
  rate: number;
  rates: number[];
  notes: string[];
}

export interface StageResult {
  stage: string;
  beside: string;
  rate: number;
  baseline: number;
  ratio: number;
  goal: number;
  unit: string;
  notes: string[];
}

export const median = (values: number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
};

export const round = (value: number, digits = 0): number => Number(value.toFixed(digits));

/** CPU that others may take from a measurement without spoiling it, in cores. */
const QUIET_CORES = 0.3;
const LOOK_MS = 300;

/** How long a whole run may wait for a machine at rest, in ms. */
export const patience = { leftMs: 60_000 };

/** Resolves with the cores that others use, when they are few or patience is over. Nothing of ours may be at work. */
async function untilQuiet(): Promise<number> {
  for (let looks = 0; ; looks += 1) {
    const [began, before] = [performance.now(), busySeconds()];
    await delay(LOOK_MS);
    if (looks > 0) patience.leftMs -= LOOK_MS;
    const foreign = Math.max(0, (busySeconds() - before) / ((performance.now() - began) / 1000));
    if (foreign <= QUIET_CORES || patience.leftMs <= 0) return round(foreign, 2);
  }
}

/**
 * Subject, baseline, subject, baseline …: what else the machine does meanwhile falls on both. Waits before each
 * measurement for a machine at rest, and notes what it did not get.
 */
export async function interleave(sides: Side[], runs: number, report: (line: string) => void): Promise<Measured[]> {
  const measured = sides.map(({ name }): Measured => ({ name, rate: 0, rates: [], notes: [] }));
  let disturbed = 0;
  for (let run = 1; run <= runs; run += 1) {
    for (const [i, side] of sides.entries()) {
      const foreign = await untilQuiet();
      if (foreign > QUIET_CORES) disturbed += 1;
      const { count, seconds, notes = [] } = await side.measure();
      const into = measured[i] as Measured;
      into.rates.push(count / seconds);
      into.notes = notes;
      const busy = foreign > QUIET_CORES ? `  (others use ${foreign} cores)` : '';
      report(`  run ${run}/${runs}  ${side.name.padEnd(9)} ${round(count / seconds, 1)}/s${busy}`);
    }
  }
  const [first] = measured;
  if (disturbed > 0) first?.notes.push(`${disturbed} of ${runs * sides.length} measurements beside other work`);
  for (const side of measured) side.rate = median(side.rates);
  return measured;
}

/** The first side, the subject, beside each of the others. */
export async function compare(
  sides: Side[],
  runs: number,
  report: (line: string) => void,
  about: { stage: { name: string; unit: string }; goals: Record<string, number>; notes?: string[] },
): Promise<StageResult[]> {
  const [subject, ...baselines] = await interleave(sides, runs, report);
  if (!subject) throw new Error('there is nothing to measure');
  const spread = (side: Measured) => side.rates.map((rate) => round(rate, rate < 100 ? 1 : 0)).join(' ');
  return baselines.map((baseline) => ({
    stage: about.stage.name,
    beside: baseline.name,
    rate: round(subject.rate, 1),
    baseline: round(baseline.rate, 1),
    ratio: round(subject.rate / baseline.rate, 3),
    goal: about.goals[baseline.name] ?? 1,
    unit: about.stage.unit,
    notes: [
      ...(about.notes ?? []),
      `runs: ${spread(subject)} against ${spread(baseline)}`,
      ...subject.notes,
      ...baseline.notes,
    ],
  }));
}
