import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { afterEach, expect, onTestFinished, test, vi } from 'vitest';
import { BIN, endAll, waybill } from './waybill.ts';

// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000 });
afterEach(endAll);

/** A Node on this machine that is too old to run the product itself. */
const old = (process.env.PATH ?? '')
  .split(delimiter)
  .concat('/usr/bin', '/usr/local/bin')
  .map((folder) => join(folder, 'node'))
  .filter((path) => existsSync(path))
  .find((path) => Number(/^v(\d+)/.exec(spawnSync(path, ['--version'], { encoding: 'utf8' }).stdout)?.[1] ?? 99) < 24);

test.skipIf(!old)('an older Node without the pinned one is told of in one line', () => {
  const folder = mkdtempSync(join(tmpdir(), 'waybill-node-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, 'bin'));
  cpSync(BIN, join(folder, 'bin', 'waybill.js'));
  cpSync(join(dirname(BIN), '..', 'package.json'), join(folder, 'package.json'));
  const { status, stdout, stderr } = spawnSync(old ?? '', [join(folder, 'bin', 'waybill.js'), 'start'], {
    encoding: 'utf8',
  });
  expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
  expect(stderr).toMatch(
    /^waybill needs Node 24 or newer and this is v\d+\.\d+\.\d+\. Run "npm ci" without --ignore-scripts .*\n$/,
  );
});

test.skipIf(!old)('an older Node hands over to the pinned one, exit codes and signals included', async () => {
  const options = { node: old ?? '' };
  expect((await waybill(['--version'], {}, options).exit).code).toBe(0);
  expect((await waybill(['frobnicate'], {}, options).exit).code).toBe(1);
  const command = ['services', '--', process.execPath, '-e', 'console.log("up"); setInterval(() => undefined, 1000)'];
  const run = waybill(command, {}, options);
  await run.prints(/^up$/m);
  run.child.kill('SIGTERM');
  expect((await run.exit).code).toBe(1);
});
