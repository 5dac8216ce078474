import { afterEach, expect, test, vi } from 'vitest';
import { endAll, waybill } from './waybill.ts';

// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000 });
afterEach(endAll);

const POOLS = ['registration', 'kyc', 'fanout', 'audit', 'email', 'webhooks', 'housekeeping'];

test('--help names every command', async () => {
  const { code, stdout, stderr } = await waybill(['--help']).exit;
  expect(code).toBe(0);
  expect(stderr).toBe('');
  for (const command of [
    'start',
    'api',
    'worker',
    'migrate',
    'admin',
    'dead-letters',
    'audit',
    'listen',
    'doctor',
    'config',
    'services',
    'demo',
  ])
    expect(stdout).toMatch(new RegExp(`^  ${command}\\b`, 'm'));
  expect(stdout).toContain('environment variables');
});

test.each([
  [['start'], ['one process']],
  [['api'], ['API']],
  [['worker'], ['<pool...>', '--concurrency <pool=n>', '--concurrency email=10', ...POOLS]],
  [['migrate'], ['<up|down|status>', '--all']],
  [
    ['admin', 'create'],
    ['[email]', 'ADMIN_PASSWORD'],
  ],
  [['audit', 'verify'], ['--json']],
  [['dead-letters'], ['list', 'show', 'replay', 'discard']],
  [
    ['dead-letters', 'replay'],
    ['[id]', '--queue', '--all', '--dry-run'],
  ],
  [['listen'], ['--forward <url>', '--events <types>', 'WEBHOOK_ALLOW_NETWORKS']],
  [['doctor'], ['what to do']],
  [['config'], ['--json', 'masked']],
  [['services'], ['<command...>', 'waybill services --']],
  [['demo'], ['story']],
])('%s --help tells of its arguments and options', async (command, words) => {
  const { code, stdout, stderr } = await waybill([...command, '--help']).exit;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain(`Usage: waybill ${command.join(' ')}`);
  for (const word of words) expect(stdout).toContain(word);
});

test('--version is the version of the package', async () => {
  const { code, stdout } = await waybill(['--version']).exit;
  expect({ code, stdout: stdout.trim() }).toEqual({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+/) });
});

test.each([
  [['wroker'], /unknown command 'wroker'\n\(Did you mean worker\?\)\n\(see "waybill --help"\)/],
  [['frobnicate'], /unknown command 'frobnicate'\n\(see "waybill --help"\)/],
  [['migrate', '--al'], /unknown option '--al'\n\(Did you mean --all\?\)/],
  [['migrate', 'sideways'], /"sideways" is not up, down or status/],
  [['worker'], /missing required argument 'pool'/],
  [['worker', 'nope'], /There is no pool "nope"\. The pools are registration, .*housekeeping\./],
  [['worker', 'email', '--concurrency', 'email=many'], /Write <pool>=<number>, as in email=10\./],
  [['worker', 'email', '--concurrency', 'nope=3'], /There is no pool "nope"/],
  [['admin', 'create', 'nobody'], /give an e-mail address: waybill admin create you@example\.com/],
])('%s is refused with a hint', async (args, hint) => {
  const { code, stdout, stderr } = await waybill(args).exit;
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toMatch(hint);
  expect(stderr).not.toMatch(/^ {4}at /m);
});
