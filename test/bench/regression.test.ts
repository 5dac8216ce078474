import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import type { Outcome } from '../../bench/table.ts';

const file = (path: string) => fileURLToPath(new URL(`../../bench/${path}`, import.meta.url));
const { ratios } = JSON.parse(readFileSync(file('reference.json'), 'utf8')) as {
  ratios: Record<string, Record<string, number>>;
};

function bench(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [file('run.ts'), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk));
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk));
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
}

async function measured(stages: string[]): Promise<Outcome['stages']> {
  const options = ['--seconds', '0.7', '--runs', '1', '--patience', '0', '--json'];
  const { code, stdout, stderr } = await bench('--only', stages.join(','), ...options);
  if (code !== 0) throw new Error(`the bench ended with ${code}:\n${stderr}`);
  return (JSON.parse(stdout) as Outcome).stages;
}

/** A stage below half of its documented ratio. Seconds and rates are the machine's business, ratios are ours. */
const tooSlow = ({ stage, beside, ratio }: Outcome['stages'][number]) => ratio < (ratios[stage]?.[beside] ?? 0) / 2;

test('accept, audit and relay keep at least half of their documented ratio to the bare limit', async () => {
  const stages = ['accept', 'audit', 'relay'];
  const first = await measured(stages);
  expect(first.map(({ stage }) => stage)).toEqual(stages);
  // What else ran meanwhile may have fallen on one side alone: only what is slow twice is slow.
  const suspects = first.filter(tooSlow).map(({ stage }) => stage);
  const again = suspects.length > 0 ? await measured(suspects) : [];
  expect(again.filter(tooSlow)).toEqual([]);
}, 180_000);

test('a stage that there is not is named, and nothing is measured', async () => {
  const { code, stdout, stderr } = await bench('--only', 'accept,nothing');
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(stderr).toContain('there is no stage "nothing"');
});
