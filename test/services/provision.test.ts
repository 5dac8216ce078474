import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MikroORM } from '@mikro-orm/postgresql';
import { connect } from 'amqplib';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { SERVICES } from '../../src/services/provision/catalogue.ts';
import { freePort, maskPassword } from '../../src/services/provision/endpoint.ts';
import { provision, ServicesUnavailable, type ServiceUrls } from '../../src/services/provision/index.ts';
import { withLock } from '../../src/services/provision/lock.ts';
import { postgresDirectory, startPostgres } from '../../src/services/provision/postgres.ts';
import { greetPostgres } from '../../src/services/provision/postgres-handshake.ts';
import { startRedis } from '../../src/services/provision/redis.ts';

// These servers are on the machine already; the tests that look at one URL let the two others be answered by them.
const shared: ServiceUrls = {
  databaseUrl: process.env.DATABASE_URL || 'postgresql://postgres:postgres@localhost:5432/waybill',
  redisUrl: process.env.REDIS_URL || 'redis://localhost:6379',
  rabbitmqUrl: process.env.RABBITMQ_URL || 'amqp://guest:guest@localhost:5672',
};

const folder = (): string => {
  const dir = mkdtempSync(join(tmpdir(), 'wb_provision_'));
  chmodSync(dir, 0o755);
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
};

/** Private instances need the servers' binaries; where the three run in containers these tests cannot. */
const installed = SERVICES.every((service) => service.isInstalled());

const silent = () => undefined;

async function closedPorts(): Promise<ServiceUrls> {
  const [a, b, c] = await Promise.all([freePort(), freePort(), freePort()]);
  return {
    databaseUrl: `postgresql://postgres:postgres@localhost:${a}/postgres`,
    redisUrl: `redis://localhost:${b}/2`,
    rabbitmqUrl: `amqp://guest:guest@localhost:${c}`,
  };
}

/** Every process that works below a directory: what a private instance leaves behind if it is not ended whole. */
function processesBelow(dir: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readlinkSync(`/proc/${pid}/cwd`).startsWith(dir);
    } catch {
      return false;
    }
  });
}

async function withPostgres<T>(clientUrl: string, use: (run: (sql: string) => Promise<unknown[]>) => Promise<T>) {
  const orm = await MikroORM.init({ clientUrl, entities: [], discovery: { warnWhenNoEntities: false } });
  try {
    return await use((sql) => orm.em.getConnection().execute(sql));
  } finally {
    await orm.close(true);
  }
}

test.runIf(installed && process.platform === 'linux')(
  'brings up all three, keeps their data over a stop, and leaves no process behind',
  { timeout: 60_000 },
  async () => {
    const dir = folder();
    const dataDir = join(dir, '.waybill');
    const urls = await closedPorts();
    const lines: string[] = [];
    const options = { dataDir, report: (line: string) => lines.push(line), allow: ['binaries' as const] };

    const first = await provision(urls, options);
    onTestFinished(() => first.stop());
    expect([...first.started].sort()).toEqual(['postgres', 'rabbitmq', 'redis']);
    for (const key of ['databaseUrl', 'redisUrl', 'rabbitmqUrl'] as const) {
      expect(new URL(first[key]).port, 'the named port was free').toBe(new URL(urls[key]).port);
      expect(new URL(first[key]).pathname).toBe(new URL(urls[key]).pathname);
    }
    expect(lines.filter((line) => /: ready in \d+\.\d s at 127\.0\.0\.1:\d+$/.test(line))).toHaveLength(3);

    await withPostgres(first.databaseUrl, async (run) => {
      await run('create table kept (value text)');
      await run("insert into kept values ('over a stop')");
    });
    const redis = new Redis(first.redisUrl);
    await redis.set('kept', 'over a stop');
    const settings = await redis.config('GET', 'append*', 'maxmemory-policy');
    expect(settings).toEqual(
      expect.arrayContaining(['appendonly', 'yes', 'appendfsync', 'everysec', 'maxmemory-policy', 'noeviction']),
    );
    redis.disconnect();
    const broker = await connect(first.rabbitmqUrl);
    const channel = await broker.createConfirmChannel();
    await channel.assertQueue('kept', { durable: true, arguments: { 'x-queue-type': 'quorum' } });
    channel.sendToQueue('kept', Buffer.from('over a stop'), { persistent: true });
    await channel.waitForConfirms();
    await broker.close();

    // Meanwhile another caller with other closed ports finds the running instances and does not own them.
    const guest = await provision(await closedPorts(), { ...options, report: silent });
    expect(guest).toMatchObject({ started: [], databaseUrl: first.databaseUrl, redisUrl: first.redisUrl });
    await guest.stop();
    expect(processesBelow(dir)).not.toEqual([]);

    await Promise.all([first.stop(), first.stop()]);
    expect(processesBelow(dir)).toEqual([]);

    const second = await provision(urls, { ...options, report: silent });
    onTestFinished(() => second.stop());
    await withPostgres(second.databaseUrl, async (run) => {
      expect(await run('select value from kept')).toEqual([{ value: 'over a stop' }]);
    });
    const again = new Redis(second.redisUrl);
    expect(await again.get('kept')).toBe('over a stop');
    again.disconnect();
    const connection = await connect(second.rabbitmqUrl);
    const message = await (await connection.createChannel()).get('kept', { noAck: true });
    expect(message ? message.content.toString() : 'nothing').toBe('over a stop');
    await connection.close();
    await second.stop();
    expect(processesBelow(dir)).toEqual([]);
  },
);

describe('what a URL names', () => {
  const allow: 'binaries'[] = ['binaries'];

  test('is used when it answers, and nothing is started', async () => {
    const used = await provision(shared, { dataDir: join(folder(), '.waybill'), report: silent, allow });
    expect(used).toMatchObject({ ...shared, started: [] });
  });

  test('is an error without its password when it is another machine that does not answer', async () => {
    // 192.0.2.0/24 is reserved for documentation (RFC 5737), so nothing can answer there.
    const redisUrl = 'redis://user:hunter2@192.0.2.1:6379';
    const failed = provision({ ...shared, redisUrl }, { dataDir: folder(), report: silent, allow });
    await expect(failed).rejects.toThrow(ServicesUnavailable);
    await expect(failed).rejects.toThrow(
      /REDIS_URL \(redis:\/\/user:\*\*\*@192\.0\.2\.1:6379\): no Redis at 192\.0\.2\.1:6379/,
    );
    await expect(failed).rejects.not.toThrow(/hunter2/);
  });

  test.runIf(installed)('is an error that names the variable when Redis refuses the password', async () => {
    const dir = folder();
    const server = await startRedis(join(dir, 'redis'), await freePort());
    onTestFinished(() => server.stop());
    const admin = new Redis(server.url);
    await admin.config('SET', 'requirepass', 'right');
    admin.disconnect();
    const address = server.url.replace('redis://', '');
    const attempt = (redisUrl: string) => provision({ ...shared, redisUrl }, { dataDir: dir, report: silent, allow });

    expect(await attempt(`redis://:right@${address}`)).toMatchObject({ started: [] });
    for (const url of [`redis://:wrong@${address}`, `redis://${address}`]) {
      const failed = attempt(url);
      await expect(failed).rejects.toThrow(/^REDIS_URL .*refuses the credentials/);
      await expect(failed).rejects.not.toThrow(/wrong@/);
    }
  });

  test.runIf(installed)('moves to a free port when something else listens there', async () => {
    const dir = folder();
    const stranger: Server = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    await new Promise<void>((done) => stranger.listen(0, '127.0.0.1', done));
    onTestFinished(() => void stranger.close());
    const { port } = stranger.address() as { port: number };
    const redisUrl = `redis://127.0.0.1:${port}`;
    const lines: string[] = [];
    const report = (line: string) => lines.push(line);
    const moved = await provision({ ...shared, redisUrl }, { dataDir: dir, report, allow });
    onTestFinished(() => moved.stop());
    expect(moved.started).toEqual(['redis']);
    expect(moved.redisUrl).not.toBe(redisUrl);
    expect(lines.join('\n')).toContain(`because ${port} is taken`);
    const client = new Redis(moved.redisUrl);
    expect(await client.ping()).toBe('PONG');
    client.disconnect();
  });

  test('cannot be had when no way is allowed: the message says what to install', async () => {
    const redisUrl = `redis://localhost:${await freePort()}`;
    const failed = provision({ ...shared, redisUrl }, { dataDir: folder(), report: silent, allow: [] });
    await expect(failed).rejects.toThrow(
      /Redis \(REDIS_URL localhost:\d+\)[\s\S]*apt-get install redis-server[\s\S]*brew install redis/,
    );
  });

  test.runIf(installed)('is not waited for after an abort, and what was started is ended', async () => {
    const dir = folder();
    const abort = new AbortController();
    const report = (line: string) => {
      if (line.startsWith('RabbitMQ: starting')) abort.abort();
    };
    const failed = provision(await closedPorts(), { dataDir: dir, report, allow, signal: abort.signal });
    await expect(failed).rejects.toThrow(/Stopped on request/);
    if (process.platform === 'linux') expect(processesBelow(dir)).toEqual([]);
  });
});

describe.runIf(installed)('PostgreSQL credentials', () => {
  let server: Awaited<ReturnType<typeof startPostgres>>;
  let dir: string;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'wb_provision_'));
    chmodSync(dir, 0o755);
    server = await startPostgres(join(dir, 'postgres'), await freePort());
    await withPostgres(server.url, async (run) => {
      for (const [user, method] of [
        ['scram', 'scram-sha-256'],
        ['hashed', 'md5'],
        ['clear', 'scram-sha-256'],
      ]) {
        await run(`set password_encryption = '${method}'`);
        await run(`create role ${user} login password 'pass:wörd'`);
      }
      const lines = ['scram scram-sha-256', 'hashed md5', 'clear password', 'postgres trust'];
      const rules = lines.map((line) => `host all ${line.replace(' ', ' 127.0.0.1/32 ')}\n`).join('');
      writeFileSync(join(dir, 'postgres', 'data', 'pg_hba.conf'), rules);
      await run('select pg_reload_conf()');
    });
    // The postmaster reads the new rules when it gets to it.
    await vi.waitFor(async () => expect(await greetPostgres(urlOf('scram', 'x'))).toMatchObject({ state: 'refused' }));
  });
  afterAll(async () => {
    await server.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  const urlOf = (user: string, password: string, database = 'postgres') => {
    const { host } = new URL(server.url);
    return `postgresql://${user}:${encodeURIComponent(password)}@${host}/${database}`;
  };

  test.each(['scram', 'hashed', 'clear'])('%s: the right password is taken and a wrong one refused', async (user) => {
    expect(await greetPostgres(urlOf(user, 'pass:wörd'))).toEqual({ state: 'ready' });
    expect(await greetPostgres(urlOf(user, 'wrong'))).toMatchObject({
      state: 'refused',
      detail: expect.stringContaining(`password authentication failed for user "${user}"`),
    });
  });

  test('a database that does not exist yet counts as an answer', async () => {
    expect(await greetPostgres(urlOf('postgres', 'any', 'not_there_yet'))).toEqual({ state: 'ready' });
  });

  test('a role that does not exist is refused although no password is asked', async () => {
    writeFileSync(join(dir, 'postgres', 'data', 'pg_hba.conf'), 'host all all 127.0.0.1/32 trust\n');
    await withPostgres(server.url, (run) => run('select pg_reload_conf()'));
    await vi.waitFor(async () =>
      expect(await greetPostgres(urlOf('nobody', ''))).toEqual({
        state: 'refused',
        detail: 'role "nobody" does not exist',
      }),
    );
  });

  test('comes back after SIGKILL with what was committed', async () => {
    await withPostgres(server.url, (run) => run('create table survived ()'));
    const port = Number(new URL(server.url).port);
    await server.kill();
    server = await startPostgres(join(dir, 'postgres'), port);
    expect(await withPostgres(server.url, (run) => run('select * from survived'))).toEqual([]);
  });
});

test.runIf(installed && process.getuid?.() === 0)('PostgreSQL moves where its account can enter', async () => {
  const dir = folder();
  expect(await postgresDirectory(join(dir, 'open'))).toBe(join(dir, 'open'));
  const closed = join(dir, 'closed');
  mkdirSync(closed, { mode: 0o700 });
  const elsewhere = await postgresDirectory(join(closed, 'postgres'));
  expect(elsewhere).toMatch(/\/waybill-[0-9a-f]{12}$/);
  expect(await postgresDirectory(join(closed, 'postgres'))).toBe(elsewhere);
});

test('passwords are masked wherever a URL may carry one', () => {
  expect(maskPassword('amqp://guest:secret@host:5672/v')).toBe('amqp://guest:***@host:5672/v');
  expect(maskPassword('postgresql://u@h/db?password=secret')).not.toContain('secret');
});

test('the lock lets one in at a time and is taken over from a process that died', async () => {
  const path = join(folder(), 'services', 'lock');
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, '4194304999');
  const order: string[] = [];
  const work = (name: string) =>
    withLock(path, 5000, silent, async () => {
      order.push(`${name} in`);
      await new Promise((done) => setImmediate(done));
      order.push(`${name} out`);
    });
  await Promise.all([work('a'), work('b')]);
  expect(order).toHaveLength(4);
  expect([order[0]?.[0], order[2]?.[0]]).toEqual([order[1]?.[0], order[3]?.[0]]);
});
