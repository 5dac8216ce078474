import { sql } from 'kysely';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createAdmin } from '../../src/cli/admin.ts';
import { verifyAudit } from '../../src/cli/audit.ts';
import { migrate } from '../../src/cli/migrate.ts';
import { api, worker } from '../../src/cli/start.ts';
import { openDatabase } from '../../src/services/database.ts';
import { call, createInstallation, endAll, type Installation, waybill } from './waybill.ts';

let installation: Installation;
const run = (args: string[], env: NodeJS.ProcessEnv = {}) =>
  waybill(args, { ...installation.env, ...env }, { cwd: installation.directory }).exit;

// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000 });

beforeEach(async () => {
  installation = await createInstallation('missing');
});
afterEach(async () => {
  await endAll();
  await installation.remove();
});

async function tables(): Promise<string[]> {
  const orm = await openDatabase(installation.databaseUrl, { entities: [], poolSize: 1 });
  const { rows } = await sql<{ name: string }>`
    select table_name as name from information_schema.tables where table_schema = 'public' and table_name <> 'migrations'`.execute(
    orm.em.fork().getKysely(),
  );
  await orm.close(true);
  return rows.map(({ name }) => name);
}

test('up, status, down and up again', async () => {
  const go = async (direction: string, options = {}) => {
    const { error, out } = await call(installation.env, () => migrate(direction, options));
    expect(error).toBeUndefined();
    return out;
  };
  const up = await go('up');
  expect(up).toMatch(/^created the database\n(migrating \S+ …\n)+\d+ migrations done\n$/);
  expect(await tables()).toEqual(expect.arrayContaining(['users', 'audit_events', 'webhook_deliveries']));
  expect(await go('up')).toBe('nothing to do: the database is up to date\n');

  const count = up.match(/^migrating /gm)?.length ?? 0;
  expect((await go('status')).match(/^\d{4}-\d\d-\d\dT[\d:.]+Z {2}\S+$/gm)).toHaveLength(count);
  expect(await go('down')).toMatch(/^took back \S+\n$/);
  expect((await go('status')).match(/^pending +\S+$/gm)).toHaveLength(1);
  expect((await go('down', { all: true })).match(/^took back \S+$/gm)).toHaveLength(count - 1);
  expect(await tables()).toEqual([]);
  expect(await go('down')).toBe('nothing to take back\n');
  expect(await go('up')).toContain(`${count} migrations done`);
});

test('two at once wait for each other and the work is done once', async () => {
  const both = await Promise.all([run(['migrate', 'up']), run(['migrate', 'up'])]);
  expect(both.map(({ code, stderr }) => ({ code, stderr }))).toEqual([
    { code: 0, stderr: '' },
    { code: 0, stderr: '' },
  ]);
  const lasts = both.map(({ stdout }) => stdout.trimEnd().split('\n').at(-1) ?? '').sort();
  expect(lasts).toEqual([expect.stringMatching(/^\d+ migrations done$/), 'nothing to do: the database is up to date']);
});

const commands = {
  'migrate status': () => migrate('status', {}),
  'audit verify': () => verifyAudit({}),
  'admin create': () => createAdmin(undefined),
  'worker email': () => worker(['email'], {}),
  api,
};

test('without its database or its migrations a command says what to do', async () => {
  const missing = /^database "wb_test_cli_\w+" does not exist: "waybill migrate up" creates it$/;
  for (const name of ['migrate status', 'audit verify', 'admin create'] as const) {
    const { error } = await call<unknown>(installation.env, commands[name]);
    expect({ name, error }).toEqual({ name, error: expect.stringMatching(missing) });
  }
  // The API creates the database, and migrates nothing.
  const unmigrated = 'the database is not migrated: run "waybill migrate up" first';
  const { code, stderr } = await run(['api']);
  expect({ code, stderr }).toEqual({ code: 1, stderr: `waybill: ${unmigrated}\n` });
  for (const name of ['api', 'worker email', 'audit verify', 'admin create'] as const) {
    const { error } = await call<unknown>(installation.env, commands[name]);
    expect({ name, error }).toEqual({ name, error: unmigrated });
  }
});

test('a PostgreSQL that is away is told of in one line without the password', async () => {
  const env = { ...installation.env, DATABASE_URL: 'postgresql://ada:sesame@127.0.0.1:1/waybill' };
  const away = /^PostgreSQL at postgresql:\/\/ada:\*\*\*@127\.0\.0\.1:1\/waybill cannot be used: .+$/;
  for (const [name, body] of Object.entries({ ...commands, 'migrate up': () => migrate('up', {}) })) {
    const { error } = await call<unknown>(env, body);
    expect({ name, error }).toEqual({ name, error: expect.stringMatching(away) });
  }
  const { code, stderr } = await run(['migrate', 'status'], env);
  expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/^waybill: PostgreSQL at .+\n$/) });
});
