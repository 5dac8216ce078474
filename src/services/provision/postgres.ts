import { createHash } from 'node:crypto';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Account, findAccount, findExecutable, run } from './command.ts';
import { type Instance, launch, ServiceStartError } from './instance.ts';
import { greetPostgres } from './postgres-handshake.ts';

const DEBIAN_ROOT = '/usr/lib/postgresql';
const LOCALE = process.platform === 'linux' ? 'C.UTF-8' : 'en_US.UTF-8';

/** Directory of PostgreSQL's server binaries: of the `major` version if one is given, else the newest. */
export function findPostgres(major?: string): string | undefined {
  const versions = existsSync(DEBIAN_ROOT) ? readdirSync(DEBIAN_ROOT) : [];
  const newestFirst = versions.sort((a, b) => Number(b) - Number(a)).map((it) => `${DEBIAN_ROOT}/${it}/bin/postgres`);
  const wanted = major ? newestFirst.filter((it) => it.startsWith(`${DEBIAN_ROOT}/${major}/`)) : newestFirst;
  const found = findExecutable(...wanted, 'postgres', '/opt/homebrew/opt/postgresql@17/bin/postgres');
  return found && dirname(found);
}

/** PostgreSQL refuses to run as root; then it runs as the account its package made. */
async function serverAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const account = await findAccount('postgres');
  if (!account) throw new ServiceStartError('PostgreSQL refuses to run as root and there is no user "postgres"');
  return account;
}

async function isUsable(dir: string, account: Account): Promise<boolean> {
  mkdirSync(dir, { recursive: true });
  chownSync(dir, account.uid, account.gid);
  const probe = await run('/bin/sh', ['-c', 'cd "$1" && test -w .', 'sh', dir], {
    deadlineMs: 5000,
    cwd: '/',
    account,
  });
  return probe.code === 0;
}

/** The directories a private cluster may have: the preferred one, then one that the server's account can enter. */
export function postgresHomes(preferred: string): [string, string] {
  const path = resolve(preferred);
  const base = existsSync('/var/lib/postgresql') ? '/var/lib/postgresql' : tmpdir();
  return [path, join(base, `waybill-${createHash('sha256').update(path).digest('hex').slice(0, 12)}`)];
}

/**
 * Where a private cluster can live: `preferred`, or, when the server's account cannot enter it (a checkout below
 * /root), a directory named by a hash of it below /var/lib/postgresql or the temporary directory.
 */
export async function postgresDirectory(preferred: string): Promise<string> {
  const [path, elsewhere] = postgresHomes(preferred);
  const account = await serverAccount();
  return !account || (await isUsable(path, account)) ? path : elsewhere;
}

async function createCluster(bin: string, dir: string, account?: Account, signal?: AbortSignal): Promise<void> {
  // Made under another name first: a directory called `data` is always a whole cluster, whatever kills us here.
  const fresh = join(dir, 'data.new');
  rmSync(fresh, { recursive: true, force: true });
  const made = await run(
    join(bin, 'initdb'),
    ['-D', fresh, '-A', 'trust', '-U', 'postgres', '-E', 'UTF8', `--locale=${LOCALE}`, '--no-sync'],
    { deadlineMs: 60_000, cwd: dir, env: { PATH: process.env.PATH, LC_ALL: LOCALE }, account, signal },
  );
  if (made.code !== 0) throw new ServiceStartError(`PostgreSQL's initdb failed: ${made.tail}`);
  renameSync(fresh, join(dir, 'data'));
}

function binariesFor(data: string): string {
  const version = join(data, 'PG_VERSION');
  const major = existsSync(version) ? readFileSync(version, 'utf8').trim() : undefined;
  const bin = findPostgres(major);
  if (!bin) {
    throw new ServiceStartError(
      major ? `${data} needs PostgreSQL ${major}, which is not installed` : 'PostgreSQL is not installed',
    );
  }
  return bin;
}

/** What a new postmaster says while the backends of one that was killed are still going away. */
const LEFTOVERS = /pre-existing shared memory block|lock file "postmaster.pid" already exists/;

/**
 * Starts PostgreSQL on 127.0.0.1:`port` with its cluster in `dir`/data, made on first use; superuser `postgres`, no
 * password from loopback. As root the server runs as user postgres, who must be able to enter `dir`.
 */
export async function startPostgres(dir: string, port: number, signal?: AbortSignal): Promise<Instance> {
  const path = resolve(dir);
  const data = join(path, 'data');
  const account = await serverAccount();
  mkdirSync(path, { recursive: true });
  if (account) chownSync(path, account.uid, account.gid);
  const bin = binariesFor(data);
  if (!existsSync(data)) await createCluster(bin, path, account, signal);

  const url = `postgresql://postgres:postgres@127.0.0.1:${port}/postgres`;
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', max_connections: '300' };
  const start = () =>
    launch({
      title: 'PostgreSQL',
      dir: path,
      command: join(bin, 'postgres'),
      args: [
        '-D',
        data,
        '-p',
        `${port}`,
        ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
      ],
      env: { PATH: process.env.PATH, LC_ALL: LOCALE, HOME: path },
      account,
      url,
      port,
      greet: () => greetPostgres(url),
      deadlineMs: 60_000,
      // SIGINT is the "fast" shutdown: clients are disconnected and a checkpoint is written.
      stopSignal: 'SIGINT',
      graceMs: 20_000,
      signal,
    });
  const deadline = Date.now() + 15_000;
  for (;;) {
    try {
      return await start();
    } catch (error) {
      if (!(error instanceof Error && LEFTOVERS.test(error.message)) || Date.now() > deadline) throw error;
      await delay(200);
    }
  }
}
