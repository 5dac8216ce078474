import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createInstallation, type Installation, registration, request } from '../cli/waybill.ts';
import { eventually } from '../harness.ts';

// The two commands of the README in a fresh clone of what is committed. Takes about a minute:
// npx vitest run test/e2e/clone.test.ts

const root = fileURLToPath(new URL('../..', import.meta.url));
const INSTALL_MS = 240_000;

const isCheckout = spawnSync('git', ['rev-parse', '--verify', 'HEAD'], { cwd: root }).status === 0;

let installation: Installation;
let folder: string;
let started: ChildProcess | undefined;

beforeAll(async () => {
  installation = await createInstallation('missing');
  folder = mkdtempSync(join(tmpdir(), 'waybill-clone-'));
});
afterAll(async () => {
  if (started?.pid && isAlive(started.pid)) process.kill(-started.pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
  await installation.remove();
});

/** The environment of somebody at a terminal: no variables of the npm that runs the tests, no `node_modules/.bin`. */
function terminal(): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(
    ([name]) => !/^(npm_|VITEST|NODE_ENV$|NODE_OPTIONS$|INIT_CWD$)/i.test(name),
  );
  const path = (process.env.PATH ?? '').split(delimiter).filter((part) => !part.includes('node_modules'));
  return { ...Object.fromEntries(own), PATH: path.join(delimiter), CI: 'true' };
}

/** Whether any process of a group still runs. */
function isAlive(group: number): boolean {
  try {
    process.kill(-group, 0);
    return true;
  } catch {
    return false;
  }
}

test.skipIf(!isCheckout)(
  'npm ci && npm start in a fresh clone serves the printed URLs and leaves nothing running',
  { timeout: INSTALL_MS + 90_000 },
  async () => {
    const clone = join(folder, 'waybill');
    execFileSync('git', ['clone', '--quiet', root, clone]);
    const npm = { cwd: clone, env: { ...terminal(), ...installation.env } };
    const ci = spawnSync('npm', ['ci', '--prefer-offline', '--no-audit', '--no-fund'], {
      ...npm,
      encoding: 'utf8',
      timeout: INSTALL_MS,
    });
    expect({ status: ci.status, stderr: ci.status === 0 ? '' : ci.stderr }).toEqual({ status: 0, stderr: '' });

    const child = spawn('npm', ['start'], { ...npm, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    started = child;
    let text = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    await eventually(() => text.includes('Try:') || child.exitCode !== null, 'the welcome', 60_000);
    expect(text).toContain('Waybill is ready.');

    const urls = [...text.matchAll(/^ {2}(Front page|API docs|Mail inbox) +(http:\S+)$/gm)].map(
      (match) => match[2] ?? '',
    );
    expect(urls).toHaveLength(3);
    for (const url of urls) {
      const response = await fetch(url);
      expect({ url, status: response.status, type: response.headers.get('content-type') }).toEqual({
        url,
        status: 200,
        type: expect.stringContaining('text/html'),
      });
    }
    const base = new URL(urls[0] ?? '').origin;
    const registered = await request(base, 'POST', '/auth/register', { body: registration('ada@example.com') });
    expect(registered.status).toBe(201);

    // Ctrl-C reaches every process of the terminal's foreground group.
    const group = child.pid ?? 0;
    process.kill(-group, 'SIGINT');
    await eventually(() => child.exitCode !== null || child.signalCode !== null, 'npm start ends', 30_000);
    await ended;
    expect(text).toContain('Stopped.');
    await eventually(() => !isAlive(group), 'nothing of it runs any more', 5000);
    await expect(fetch(base)).rejects.toThrow('fetch failed');
    // What it made for itself is not in the way of git.
    expect(execFileSync('git', ['status', '--porcelain'], { cwd: clone, encoding: 'utf8' })).toBe('');
  },
);
