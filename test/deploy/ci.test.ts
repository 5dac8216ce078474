import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { parse } from 'yaml';

const script = fileURLToPath(new URL('../../.ci/run', import.meta.url));

/** Runs .ci/run in an empty project with an npm that does what `npm` (a shell fragment) says for each of its calls. */
function runWith(npm: string) {
  const dir = mkdtempSync(join(tmpdir(), 'wb_ci_'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  mkdirSync(join(dir, '.ci'));
  mkdirSync(join(dir, 'bin'));
  cpSync(script, join(dir, '.ci', 'run'));
  writeFileSync(join(dir, 'bin', 'npm'), `#!/bin/sh\necho "npm $* CI=$CI" >> ${dir}/calls\n${npm}`);
  chmodSync(join(dir, 'bin', 'npm'), 0o755);
  const { status, stdout } = spawnSync('bash', ['.ci/run'], {
    cwd: dir,
    encoding: 'utf8',
    env: { ...process.env, PATH: `${join(dir, 'bin')}${delimiter}${process.env.PATH}` },
  });
  const calls = readFileSync(join(dir, 'calls'), 'utf8').trim().split('\n');
  const summaries = stdout.split('\n').filter((line) => /^\d+ passed, \d+ failed$/.test(line));
  return { status, last: stdout.trimEnd().split('\n').at(-1), calls, summaries };
}

const report = (passed: number, failed: number) =>
  `for it in "$@"; do case "$it" in --outputFile.json=*) echo '{"numPassedTests":${passed},"numFailedTests":${failed}}' > "\${it#*=}";; esac; done\n`;

test('runs every step in order and ends with the count', () => {
  const { status, last, calls, summaries } = runWith(report(412, 0));
  expect(status).toBe(0);
  expect(last).toBe('412 passed, 0 failed');
  expect(summaries).toHaveLength(1);
  expect(calls.map((call) => call.split(' ').slice(1, 3).join(' '))).toEqual([
    'ci CI=true',
    'run lint',
    'run typecheck',
    'run build',
    'test --',
    'run demo',
  ]);
});

test('failed tests end it before the demo, with the count', () => {
  const { status, last, calls } = runWith(`${report(410, 2)}[ "$1" != test ]`);
  expect(status).not.toBe(0);
  expect(last).toBe('410 passed, 2 failed');
  expect(calls.at(-1)).toMatch(/^npm test /);
});

test('a report with failures is a failure, whatever npm test answered', () => {
  expect(runWith(report(410, 2))).toMatchObject({ status: 1, last: '410 passed, 2 failed' });
});

test('a failed demo is a failure although the tests passed', () => {
  const { status, last } = runWith(`${report(412, 0)}[ "$2" != demo ]`);
  expect(status).not.toBe(0);
  expect(last).toBe('412 passed, 0 failed');
});

test('without a report there is no count to print', () => {
  const { status, summaries, calls } = runWith('[ "$2" != lint ]');
  expect(status).not.toBe(0);
  expect(summaries).toEqual([]);
  expect(calls).toHaveLength(2);
});

test('the workflow runs the same script beside the three servers', () => {
  const path = fileURLToPath(new URL('../../.github/workflows/ci.yml', import.meta.url));
  const { jobs } = parse(readFileSync(path, 'utf8')) as {
    jobs: { test: { services: Record<string, unknown>; steps: { run?: string }[] } };
  };
  expect(Object.keys(jobs.test.services)).toEqual(['postgres', 'redis', 'rabbitmq']);
  expect(jobs.test.steps.at(-1)?.run).toBe('bash .ci/run');
});
