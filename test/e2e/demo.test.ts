import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Writable } from 'node:stream';
import { sql } from 'kysely';
import { Webhook } from 'standardwebhooks';
import { afterEach, expect, inject, onTestFinished, test, vi } from 'vitest';
import { Narrator, StepFailed } from '../../src/cli/demo/narrator.ts';
import { Platform } from '../../src/cli/demo/platform.ts';
import { tellStory } from '../../src/cli/demo/story.ts';
import { Subscriber } from '../../src/cli/demo/subscriber.ts';
import { demo } from '../../src/cli/demo.ts';
import { Broker } from '../../src/queues/broker.ts';
import { Topology } from '../../src/queues/topology.ts';
import { openDatabase } from '../../src/services/database.ts';
import { createLogger } from '../../src/services/logger.ts';
import { closeRedis, createRedis } from '../../src/services/redis.ts';
import { endAll, RABBITMQ_URL, REDIS_URL, waybill } from '../cli/waybill.ts';

// npx vitest run test/e2e/demo.test.ts

const STORY_MS = 120_000;
const STARTED = /waybill start, database (waybill_demo_\w+), namespace (demo-\w+)/;
const log = createLogger({ level: 'silent' });

afterEach(endAll);

/** What is left of a demo, by name: nothing, when it cleaned up. */
async function leftovers([, databaseName = '?', namespace = '?']: string[]): Promise<string[]> {
  const server = new URL(inject('databaseUrl'));
  server.pathname = '/postgres';
  const orm = await openDatabase(server.toString(), { entities: [], poolSize: 1 });
  const { rows } = await sql<{
    name: string;
  }>`select datname as name from pg_database where datname = ${databaseName}`.execute(orm.em.fork().getKysely());
  await orm.close(true);
  const redis = createRedis(REDIS_URL, 'patient', log, 'test');
  const keys = await redis.keys(`${namespace}:*`);
  await closeRedis(redis);
  const broker = new Broker(RABBITMQ_URL, 'test', log);
  await broker.start();
  await broker.ready(10_000);
  const queues: string[] = [];
  for (const queue of new Topology(namespace).everyQueue) {
    const channel = await broker.model?.createChannel();
    channel?.on('error', () => undefined);
    await channel?.checkQueue(queue).then(
      () => queues.push(queue),
      () => undefined,
    );
  }
  await broker.stop(2000);
  return [...rows.map(({ name }) => name), ...keys, ...queues];
}

/** A stream that keeps what is written to it and tells `onText` of all of it so far. */
function recorder(onText: (text: string) => void = () => undefined): NodeJS.WriteStream & { text: () => string } {
  let text = '';
  const stream = new Writable({
    write(chunk, _encoding, done) {
      text += String(chunk);
      onText(text);
      done();
    },
  });
  return Object.assign(stream, { text: () => text }) as unknown as NodeJS.WriteStream & { text: () => string };
}

const PROMISED = [
  'waybill start',
  'POST /auth/register answers 201',
  'the verification mail arrives',
  'POST /auth/verify-email',
  'the same token a second time is refused',
  'POST /auth/login answers 200',
  'GET /users/me is the verified user',
  'POST /webhooks/endpoints answers 201',
  'POST /auth/register with Prefer: respond-async answers 202',
  'user.created arrives, its signature verified by standardwebhooks',
  'the same library rejects a tampered copy',
  'POST /events publishes payment.succeeded',
  'payment.succeeded arrives, verified',
  'the subscriber answers 500: the event comes again under the same webhook-id',
  'PATCH /users/me/kyc',
  'the check is in_review',
  'the administrator approves',
  'kyc_status verified',
  'kyc.approved arrives',
  'GET /admin/audit/verify: the log is intact',
  'waybill audit verify exits with code 0',
  'GET /operations/{id}/trail has every hop',
  'SIGTERM: the platform drains and exits with code 0',
  'its database, queues and Redis keys are removed',
];

test('every step of the story holds, is printed in order with its time, and nothing is left', {
  timeout: STORY_MS,
}, async () => {
  let out = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    out += String(chunk);
    return true;
  });
  onTestFinished(() => void write.mockRestore());
  const code = await demo();
  write.mockRestore();
  const lines = out.split('\n');
  expect({ code, failed: lines.filter((line) => line.includes('✖')) }).toEqual({ code: 0, failed: [] });
  let at = -1;
  for (const step of PROMISED) {
    const next = lines.findIndex((line, index) => index > at && /✔ +\d+ ms {2}/.test(line) && line.includes(step));
    expect({ step, found: next > at }).toEqual({ step, found: true });
    at = next;
  }
  for (const kind of [
    'request.accepted',
    'command.handled',
    'event.published',
    'email.sent',
    'webhook.attempted',
    'audit.recorded',
  ])
    expect(lines.some((line) => new RegExp(`^ +\\+\\d+ ms {2}${kind} `).test(line))).toBe(true);
  expect(lines.at(-2)).toMatch(/^\d+ steps held, in \d+\.\d s\.$/);
  expect(await leftovers(STARTED.exec(out) ?? [])).toEqual([]);
});

test('Ctrl-C breaks it off, and it still cleans up', { timeout: STORY_MS }, async () => {
  const run = waybill(['demo'], { REDIS_URL, RABBITMQ_URL, DATABASE_URL: inject('databaseUrl') });
  const started = await run.prints(new RegExp(`✔ +\\d+ ms {2}${STARTED.source}`), 60_000);
  run.child.kill('SIGINT');
  const { code, stdout } = await run.exit;
  expect(code).toBe(1);
  expect(stdout).toContain('Stopped by SIGINT.');
  expect(stdout).toContain('Its database, queues and Redis keys are removed.');
  expect(stdout).not.toContain('steps held');
  expect(await leftovers(started)).toEqual([]);
});

test('a step that does not hold is named, with what was expected and what came', { timeout: STORY_MS }, async () => {
  const platform = new Platform({ databaseUrl: inject('databaseUrl'), redisUrl: REDIS_URL, rabbitmqUrl: RABBITMQ_URL });
  const subscriber = new Subscriber();
  onTestFinished(async () => {
    subscriber.close();
    await platform.remove();
  });
  // The platform dies as soon as the first account is there.
  const out = recorder((text) => {
    if (text.includes('POST /auth/register answers 201')) platform.kill();
  });
  const story = tellStory({ narrator: new Narrator(out), platform, subscriber, Verifier: Webhook });
  await expect(story).rejects.toThrow();
  expect(out.text()).toMatch(
    /✖ +\d+ ms {2}the verification mail arrives in \/dev\/mail\.json\n {15}(expected|got) {2}/,
  );
  expect(await platform.endedWithin(2000)).toBe('killed by SIGKILL');
  await platform.remove();
  expect(await leftovers(['', platform.databaseName, platform.namespace])).toEqual([]);
});

test('in a terminal a step is shown as under way and then in its place as done', async () => {
  const out = Object.assign(recorder(), { isTTY: true });
  const narrator = new Narrator(out);
  await narrator.step('something holds', async () => 'and how');
  expect(out.text()).toMatch(/… +something holds\r.*✔.* \d+ ms {2}something holds.* and how/);
  const failing = narrator.step('something else does not', async () => {
    throw new StepFailed('a thing', 'another\nthing');
  });
  await expect(failing).rejects.toThrow('expected a thing, got another');
  expect(out.text()).toContain(
    `\n${' '.repeat(15)}expected  a thing\n${' '.repeat(15)}got       another\n${' '.repeat(15)}thing\n`,
  );
  expect(narrator.told).toBe(1);
  narrator.hush();
  const said = out.text();
  narrator.chapter('Nobody hears of this');
  await narrator.step('nor of this', async () => undefined);
  expect(out.text()).toBe(said);
});

test('a platform that cannot start fails its step with how it ended', { timeout: STORY_MS }, async () => {
  const databaseUrl = 'postgresql://ada:sesame@127.0.0.1:1/waybill';
  const platform = new Platform({ databaseUrl, redisUrl: REDIS_URL, rabbitmqUrl: RABBITMQ_URL });
  const failure = await platform.start().catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(StepFailed);
  expect((failure as StepFailed).got).toBe('exit code 1');
  // It lost its database for good, and says what it could not remove.
  await expect(platform.remove()).rejects.toThrow(`left behind: database ${platform.databaseName}`);
  expect(await leftovers(['', platform.databaseName, platform.namespace])).toEqual([]);
});

test('an installation without the development packages says where the demo belongs', async () => {
  const source = `
    import { registerHooks } from 'node:module';
    registerHooks({ resolve: (name, context, next) => {
      if (name === 'standardwebhooks') throw new Error('not installed');
      return next(name, context);
    } });`;
  const hooks = `data:text/javascript,${encodeURIComponent(source)}`;
  const child = spawn(process.execPath, ['--import', hooks, 'bin/waybill.js', 'demo'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += String(chunk);
  });
  const [code] = await once(child, 'close');
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: 'waybill: the demo belongs to a checkout: run "npm ci && npm run demo" there\n',
  });
});
