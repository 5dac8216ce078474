import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { type DeadLetterOptions, discard, list, replay, show } from '../../src/cli/dead-letters.ts';
import { newId } from '../../src/domain/ids.ts';
import { Broker } from '../../src/queues/broker.ts';
import { Topology } from '../../src/queues/topology.ts';
import { type Database, openDatabase } from '../../src/services/database.ts';
import { createLogger } from '../../src/services/logger.ts';
import { call, createInstallation, endAll, type Installation, RABBITMQ_URL, waybill } from './waybill.ts';

let installation: Installation;
let database: Database;
let queue: string;
const db = () => database.em.fork().getKysely();

// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000 });

beforeAll(async () => {
  installation = await createInstallation('migrated');
  database = await openDatabase(installation.databaseUrl, { entities: [], poolSize: 2 });
  queue = new Topology(installation.env.NAMESPACE ?? '').queue('audit');
});
afterEach(endAll);
afterAll(async () => {
  await database.close(true);
  await installation.remove();
});

async function bury(letter: { worker?: string; queue?: string } = {}): Promise<string> {
  const id = newId();
  await sql`
    insert into dead_letters (id, queue, worker, message_type, message_id, correlation_id, reason, body, headers)
    values (${id}, ${letter.queue ?? queue}, ${letter.worker ?? 'w'}, 't', ${id}, 'op', 'it broke', ${Buffer.from('{"a":1}')}, '{"x":1}')`.execute(
    db(),
  );
  return id;
}

const statusOf = async (id: string) =>
  (await sql<{ status: string }>`select status from dead_letters where id = ${id}`.execute(db())).rows[0]?.status;

/** How many messages wait in the queue, which nobody consumes here. */
async function waiting(): Promise<number> {
  const broker = new Broker(RABBITMQ_URL, 'test', createLogger({ level: 'silent' }));
  await broker.start();
  await broker.ready(10_000);
  const channel = await broker.model?.createChannel();
  const { messageCount = 0 } = (await channel?.checkQueue(queue)) ?? {};
  await broker.stop(2000);
  return messageCount;
}

const run = (body: (options: DeadLetterOptions) => Promise<void>, options: DeadLetterOptions = {}) =>
  call(installation.env, () => body(options));

test('list shows what is dead, page by page, and as JSON', async () => {
  const ids = [await bury({ worker: 'listed' }), await bury({ worker: 'listed' }), await bury({ worker: 'listed' })];
  const { out } = await run(list, { worker: 'listed', limit: 2 });
  expect(out.split('\n')[0]).toMatch(new RegExp(`^${ids[2]} {2}\\d{4}-\\S+Z {2}${queue} {2}t {2}it broke$`));
  const cursor = /more: --cursor (\S+)/.exec(out)?.[1] ?? '';
  const rest = JSON.parse((await run(list, { worker: 'listed', cursor, json: true })).out);
  expect(rest).toMatchObject({ data: [{ id: ids[0], operation_id: 'op', status: 'dead' }], next_cursor: null });
  expect((await run(list, { reason: 'nothing like it' })).out).toBe('no dead letters match\n');
  expect((await run(list, { cursor: 'bm9wZQ' })).error).toBe('cursor is not one of this list');
});

test('show prints the message', async () => {
  const id = await bury();
  const { out } = await run((options) => show(id, options));
  expect(out).toContain('reason          it broke\n');
  expect(out).toContain('headers         {"x":1}\n{\n  "a": 1\n}\n');
  expect(JSON.parse((await run((options) => show(id, options), { json: true })).out)).toMatchObject({ body: { a: 1 } });
  expect((await run((options) => show(newId(), options))).error).toBe('there is no such dead letter');
});

test('replay brings one back by its id, once', async () => {
  const id = await bury();
  const one = (options: DeadLetterOptions) => replay(id, options);
  expect((await run(one, { dryRun: true })).out).toBe('1 match; nothing was done (dry run)\n');
  expect(await run(one)).toMatchObject({ out: `replayed ${id}\n` });
  expect(await waiting()).toBe(1);
  expect((await run(one)).error).toBe('the dead letter was replayed already');
  expect(await waiting()).toBe(1);
  const gone = await bury({ queue: 'q.gone' });
  expect((await run((options) => replay(gone, options))).error).toBe('there is no queue "q.gone" any more');
  expect((await run((options) => replay(newId(), options))).error).toBe('there is no such dead letter');
});

test('replay and discard take many by the same filters, and only when told to', async () => {
  const ids = [await bury({ worker: 'many' }), await bury({ worker: 'many' }), await bury({ worker: 'many' })];
  const before = await waiting();
  const many = (options: DeadLetterOptions) => replay(undefined, options);
  expect((await run(many)).error).toContain('give an id, a filter such as --queue, or --all');
  expect((await run(many, { worker: 'many' })).error).toContain('Add --yes to do it');
  expect(await waiting()).toBe(before);
  expect((await run(many, { worker: 'many', dryRun: true, json: true })).out).toBe(
    '{"matched":3,"replayed":0,"dry_run":true}\n',
  );
  expect((await run(many, { worker: 'many', yes: true, limit: 1 })).out).toBe('1 of 3 replayed\n');
  expect(await waiting()).toBe(before + 1);
  const some = (options: DeadLetterOptions) => discard(undefined, options);
  expect((await run(some, { worker: 'many', dryRun: true })).out).toBe('2 match; nothing was done (dry run)\n');
  expect((await run(some, { worker: 'many', yes: true, because: 'a test', json: true })).out).toBe(
    '{"matched":2,"discarded":2,"dry_run":false}\n',
  );
  expect(await Promise.all(ids.map(statusOf))).toEqual(['replayed', 'discarded', 'discarded']);
  const { rows } = await sql<{
    body: string;
  }>`select body from outbox where target = 'audit' order by id desc limit 1`.execute(db());
  expect(JSON.parse(rows[0]?.body ?? '').data).toMatchObject({
    action: 'dead_letter.discarded',
    actor: { type: 'system' },
    metadata: { reason: 'a test' },
  });
  const one = await bury();
  expect((await run((options) => discard(one, options))).out).toBe(`discarded ${one}\n`);
});

test('without RabbitMQ a replay says so in one line and changes nothing', async () => {
  const id = await bury();
  const { code, stdout, stderr, ms } = await waybill(
    ['dead-letters', 'replay', id],
    { ...installation.env, RABBITMQ_URL: 'amqp://guest:hush@127.0.0.1:1' },
    { cwd: installation.directory },
  ).exit;
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toMatch(/^waybill: RabbitMQ at amqp:\/\/\S+ cannot be used\. See "waybill doctor"\.\n$/);
  expect(stderr).not.toContain('hush');
  expect(ms).toBeLessThan(30_000);
  expect(await statusOf(id)).toBe('dead');
});

test('the command line is checked before anything is opened', async () => {
  for (const [args, why] of [
    [['show', '7'], 'It must be a UUID.'],
    [['list', '--limit', '101'], 'a whole number from 1 to 100'],
    [['replay', '--created-after', 'yesterday'], 'Write a time of RFC 3339'],
    [['list', '--status', 'gone'], 'Allowed choices are dead, replayed, discarded'],
    [['list', '--because', 'x'], "unknown option '--because'"],
  ] as const) {
    const { code, stderr } = await waybill(['dead-letters', ...args], { DATABASE_URL: 'nonsense' }).exit;
    expect(code).toBe(1);
    expect(stderr).toContain(why);
  }
});
