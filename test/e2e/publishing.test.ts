import { execFile, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { expect, test, vi } from 'vitest';
import { createInstallation, endAll, waybill } from '../cli/waybill.ts';

vi.setConfig({ testTimeout: 180_000 });

const there = ['bash', 'curl', 'jq'].every((command) => spawnSync(command, ['--version']).status === 0);
const BREAK = '---8<---';

/** Each shell block of the page, with the output that is shown right after it. */
function blocks(page: string): { script: string; shown: string[] }[] {
  const found = page.matchAll(/^```sh\n([\s\S]*?)^```\n(?:```json\n([\s\S]*?)^```\n)?/gm);
  return [...found].map(([, script = '', shown = '']) => ({ script, shown: shown.split('\n').filter(Boolean) }));
}

test.skipIf(!there)('docs/learn/publishing.md works as it is written', async () => {
  const page = readFileSync(new URL('../../docs/learn/publishing.md', import.meta.url), 'utf8');
  const steps = blocks(page);
  expect(steps.length).toBeGreaterThan(8);
  const installation = await createInstallation('migrated');
  const platform = waybill(['start'], installation.env, { cwd: installation.directory });
  try {
    const [, base = ''] = await platform.prints(/Front page +(http:\/\/localhost:\d+)\//, 60_000);
    const script = steps
      .map((step) => step.script)
      .join(`\necho '${BREAK}'\n`)
      .replaceAll('http://localhost:3000', base)
      .replaceAll('admin@waybill.localhost', installation.admin.email)
      .replaceAll('$(cat .waybill/admin_password)', installation.admin.password);
    const { stdout, stderr } = await promisify(execFile)('bash', ['-c', script], { cwd: installation.directory });
    expect(stderr, stdout).toBe('');
    const printed = stdout.split(BREAK).map((text) => text.split('\n').filter(Boolean));
    expect(printed).toHaveLength(steps.length);
    for (const [n, { shown, script }] of steps.entries()) {
      for (const line of shown) expect(printed[n], script).toContain(line);
      expect(
        printed[n]?.filter((line) => line.includes('null') && !shown.includes(line) && !line.includes('_at')),
      ).toEqual([]);
    }
  } finally {
    platform.child.kill('SIGTERM');
    await platform.exit;
    await endAll();
    await installation.remove();
  }
});
