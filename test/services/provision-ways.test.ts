import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { Redis } from 'ioredis';
import { expect, onTestFinished, test, vi } from 'vitest';
import { installPackages } from '../../src/services/provision/apt.ts';
import { run } from '../../src/services/provision/command.ts';
import { freePort } from '../../src/services/provision/endpoint.ts';
import { provision, type ServiceUrls } from '../../src/services/provision/index.ts';
import { findRedis } from '../../src/services/provision/redis.ts';

// Docker and apt-get are played by scripts that note how they are called; what they bring up is a real Redis.

const others: Omit<ServiceUrls, 'redisUrl'> = {
  databaseUrl: process.env.DATABASE_URL || 'postgresql://postgres:postgres@localhost:5432/waybill',
  rabbitmqUrl: process.env.RABBITMQ_URL || 'amqp://guest:guest@localhost:5672',
};

function folder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'wb_provision_'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Puts a script of that name first on PATH; returns where it may write. */
function play(name: string, script: string): string {
  const dir = folder();
  mkdirSync(join(dir, 'bin'));
  writeFileSync(join(dir, 'bin', name), `#!/bin/sh\nD=${dir}\n${script}`);
  chmodSync(join(dir, 'bin', name), 0o755);
  vi.stubEnv('PATH', `${join(dir, 'bin')}${delimiter}${process.env.PATH}`);
  onTestFinished(() => void vi.unstubAllEnvs());
  return dir;
}

const ENGINE = `echo "$*" >> $D/calls
case "$*" in
  info*) echo 27.5.1 ;;
  "compose port"*) exit 1 ;;
  "compose up"*)
    redis-server --port $REDIS_PORT --bind 127.0.0.1 --dir $D --save '' --daemonize yes
    until redis-cli -p $REDIS_PORT ping; do sleep 0.02; done ;;
esac
`;

test.runIf(findRedis())('a Docker engine is used before installed binaries, and its containers are kept', async () => {
  const dir = play('docker', ENGINE);
  const port = await freePort();
  const redisUrl = `redis://localhost:${port}`;
  const lines: string[] = [];
  const used = await provision({ ...others, redisUrl }, { dataDir: folder(), report: (line) => lines.push(line) });
  const client = new Redis(used.redisUrl, { retryStrategy: () => null });
  onTestFinished(async () => {
    await client.shutdown().catch(() => undefined);
  });
  client.on('error', () => undefined);

  expect(used).toMatchObject({ redisUrl, started: [] });
  expect(readFileSync(join(dir, 'calls'), 'utf8')).toContain('compose up -d --wait redis\n');
  expect(lines.join('\n')).toMatch(
    /Docker: docker compose up -d --wait redis …\nDocker: up in .* s; the containers are kept/,
  );
  await used.stop();
  expect(await client.ping()).toBe('PONG');
});

test.runIf(findRedis())('an engine that cannot start them is reported and the next way is taken', async () => {
  play('docker', 'case "$1" in info) echo 27.5.1 ;; *) echo "pull access denied" >&2; exit 1 ;; esac\n');
  const redisUrl = `redis://localhost:${await freePort()}`;
  const lines: string[] = [];
  const used = await provision(
    { ...others, redisUrl },
    { dataDir: folder(), report: (line) => lines.push(line), allow: ['docker', 'binaries'] },
  );
  onTestFinished(() => used.stop());
  expect(used.started).toEqual(['redis']);
  expect(lines.join('\n')).toContain('Docker: could not start them: pull access denied');
});

test('when every way fails the error says what each of them said', async () => {
  play('docker', 'case "$1" in info) echo 27.5.1 ;; *) echo "pull access denied" >&2; exit 1 ;; esac\n');
  const redisUrl = `redis://localhost:${await freePort()}`;
  const failed = provision({ ...others, redisUrl }, { dataDir: folder(), report: () => undefined, allow: ['docker'] });
  await expect(failed).rejects.toThrow(/docker compose up: pull access denied[\s\S]*apt-get install redis-server/);
});

test('apt updates, installs without a dialogue, and keeps packages from starting their services meanwhile', async () => {
  const dir = play(
    'apt-get',
    'echo "$DEBIAN_FRONTEND $*" >> $D/calls; test -x $D/policy && echo held >> $D/calls; exit 0\n',
  );
  const policy = join(dir, 'policy');
  expect(await installPackages(['redis-server', 'rabbitmq-server'], undefined, policy)).toMatchObject({ code: 0 });
  expect(readFileSync(join(dir, 'calls'), 'utf8').split('\n')).toEqual([
    'noninteractive update',
    'noninteractive install -y --no-install-recommends redis-server rabbitmq-server',
    'held',
    '',
  ]);
  expect(existsSync(policy)).toBe(false);

  writeFileSync(policy, 'the machine has its own');
  await installPackages(['redis-server'], undefined, policy);
  expect(readFileSync(policy, 'utf8')).toBe('the machine has its own');
});

test('a failing apt-get update ends the attempt with its words', async () => {
  const dir = play('apt-get', 'echo "$*" >> $D/calls; echo "Temporary failure resolving" >&2; exit 100\n');
  const outcome = await installPackages(['redis-server'], undefined, join(dir, 'policy'));
  expect(outcome).toMatchObject({ code: 100, tail: expect.stringContaining('Temporary failure resolving') });
  expect(readFileSync(join(dir, 'calls'), 'utf8')).toBe('update\n');
});

test('a server that says it is loading is waited for', async () => {
  let greetings = 0;
  const server = createServer((socket) => {
    greetings += 1;
    socket.on('error', () => undefined);
    socket.end(greetings < 3 ? '-LOADING Redis is loading the dataset in memory\r\n' : '+PONG\r\n');
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  onTestFinished(() => void server.close());
  const redisUrl = `redis://127.0.0.1:${(server.address() as { port: number }).port}`;
  const used = await provision({ ...others, redisUrl }, { dataDir: folder(), report: () => undefined, allow: [] });
  expect(used).toMatchObject({ redisUrl, started: [] });
  expect(greetings).toBe(3);
});

test('a command that outlives its deadline is killed with its children', async () => {
  // The child holds standard output open, so an answer within this test's time means that it was killed too.
  const outcome = await run('/bin/sh', ['-c', 'sleep 600 & wait'], { deadlineMs: 300 });
  expect(outcome).toMatchObject({ code: null, tail: expect.stringContaining('not done within 0.3 s') });
});
