import { createInterface } from 'node:readline/promises';
import { loadConfig, maskUrl } from '../config.ts';
import {
  type DeadLetterFilter,
  type DeadLetterRecord,
  type DeadLetterStatus,
  getDeadLetter,
  listDeadLetters,
  matchDeadLetters,
} from '../domain/dead-letters/list.ts';
import { discardDeadLetter, discardDeadLetters } from '../domain/dead-letters/resolve.ts';
import { newId } from '../domain/ids.ts';
import { type RequestContext, SYSTEM } from '../domain/messages/envelope.ts';
import { Refusal } from '../domain/problem.ts';
import { BrokerUnavailable } from '../queues/gateway.ts';
import { createTransact } from '../queues/outbox.ts';
import { Replay } from '../queues/replay.ts';
import { createLogger } from '../services/logger.ts';
import { CommandFailed } from './failure.ts';
import { openMigratedStore, openRuntime, type Store } from './runtime.ts';
import { say } from './say.ts';

/** What `waybill dead-letters` takes on its command line. */
export interface DeadLetterOptions {
  queue?: string;
  worker?: string;
  type?: string;
  reason?: string;
  messageId?: string;
  correlationId?: string;
  createdAfter?: string;
  createdBefore?: string;
  status?: DeadLetterStatus;
  limit?: number;
  cursor?: string;
  all?: boolean;
  because?: string;
  dryRun?: boolean;
  yes?: boolean;
  json?: boolean;
}

const CONNECT_MS = 5000;
/** As in the API: more takes another call. */
const MAX_BULK = 1000;

/** `waybill dead-letters list`. */
export const list = (options: DeadLetterOptions): Promise<void> =>
  withStore(async ({ database }) => {
    const { status = 'dead', limit = 20, cursor } = options;
    const page = await listDeadLetters(database.em.fork(), filterOf(options), { status, limit, cursor });
    if (options.json) return say(JSON.stringify({ data: page.rows, next_cursor: page.nextCursor }));
    if (page.rows.length === 0) return say(`no ${status} letters match`);
    for (const letter of page.rows) say(line(letter));
    if (page.nextCursor) say(`more: --cursor ${page.nextCursor}`);
  });

/** `waybill dead-letters show <id>`. */
export const show = (id: string, options: DeadLetterOptions): Promise<void> =>
  withStore(async ({ database }) => {
    const letter = await getDeadLetter(database.em.fork(), id);
    if (options.json) return say(JSON.stringify(letter));
    const { headers, body, ...facts } = letter;
    for (const [name, value] of Object.entries(facts)) say(`${name.padEnd(15)} ${value ?? '-'}`);
    say(`headers         ${JSON.stringify(headers)}`);
    say(typeof body === 'string' ? body : JSON.stringify(body, null, 2));
  });

/** `waybill dead-letters replay [id]`, or by filter. Needs RabbitMQ. */
export async function replay(id: string | undefined, options: DeadLetterOptions): Promise<void> {
  if (options.dryRun) return bulk(id, options, 'replayed', () => Promise.resolve(0));
  const config = loadConfig();
  const runtime = await openRuntime(config, createLogger({ level: 'silent' }), 'dead-letters');
  const { database, messaging } = runtime;
  try {
    await messaging.start();
    await messaging.publisherBroker.ready(CONNECT_MS).catch(() => {
      throw new CommandFailed(`RabbitMQ at ${maskUrl(config.rabbitmqUrl)} cannot be used. See "waybill doctor".`);
    });
    const replays = new Replay({ database, messaging });
    await explained(async () => {
      if (id === undefined) return many(runtime, options, 'replayed', (ids) => replays.many(context(), ids));
      one(await replays.one(context(), id), options);
    });
  } finally {
    await messaging.stop(2000);
    await database.close(true);
  }
}

/** `waybill dead-letters discard [id]`, or by filter. */
export const discard = (id: string | undefined, options: DeadLetterOptions): Promise<void> =>
  bulk(id, options, 'discarded', async ({ database }, ids) => {
    const transact = createTransact(database, () => undefined);
    if (id === undefined) {
      return (await transact(context(), (unit) => discardDeadLetters(unit, ids, options.because))).length;
    }
    one(await transact(context(), (unit) => discardDeadLetter(unit, id, options.because)), options);
    return 1;
  });

/** What needs the database alone: one by its id, or many. */
const bulk = (
  id: string | undefined,
  options: DeadLetterOptions,
  done: 'replayed' | 'discarded',
  resolve: (store: Store, ids: string[]) => Promise<number>,
): Promise<void> =>
  withStore(async (store) => {
    if (id === undefined) return many(store, options, done, (ids) => resolve(store, ids));
    if (!options.dryRun) return void (await resolve(store, [id]));
    const { status } = await getDeadLetter(store.database.em.fork(), id);
    report(options, { matched: status === 'dead' ? 1 : 0, [done]: 0, dry_run: true });
  });

async function many(
  { database }: Pick<Store, 'database'>,
  options: DeadLetterOptions,
  done: 'replayed' | 'discarded',
  resolve: (ids: string[]) => Promise<number>,
): Promise<void> {
  const filter = filterOf(options);
  if (Object.values(filter).every((value) => value === undefined) && !options.all)
    throw new CommandFailed('give an id, a filter such as --queue, or --all');
  const { ids, matched } = await matchDeadLetters(database.em.fork(), filter, options.limit ?? MAX_BULK);
  if (options.dryRun || ids.length === 0)
    return report(options, { matched, [done]: 0, dry_run: options.dryRun ?? false });
  if (!options.yes) await confirm(`${ids.length} of ${matched} letters that match will be ${done}.`);
  report(options, { matched, [done]: await resolve(ids), dry_run: false });
}

async function confirm(what: string): Promise<void> {
  if (!process.stdin.isTTY) throw new CommandFailed(`${what} Add --yes to do it, or --dry-run to only count.`);
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await terminal.question(`${what} Go on? [y/N] `);
  terminal.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw new CommandFailed('nothing was done');
}

async function withStore(work: (store: Store) => Promise<void>): Promise<void> {
  const store = await openMigratedStore(loadConfig(), 'waybill dead-letters');
  try {
    await explained(() => work(store));
  } finally {
    await store.database.close(true);
  }
}

/** A refusal, and a broker that does not confirm, in one line. */
async function explained(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (error instanceof Refusal) throw new CommandFailed(error.message);
    if (error instanceof BrokerUnavailable)
      throw new CommandFailed(`${error.message}: what is not replayed stays dead, and can be replayed again`);
    throw error;
  }
}

const context = (): RequestContext => {
  const id = newId();
  return { requestId: id, correlationId: id, actor: SYSTEM };
};

const filterOf = (options: DeadLetterOptions): DeadLetterFilter => ({
  queue: options.queue,
  worker: options.worker,
  type: options.type,
  reason: options.reason,
  message_id: options.messageId,
  correlation_id: options.correlationId,
  created_after: options.createdAfter,
  created_before: options.createdBefore,
});

const line = (letter: DeadLetterRecord): string =>
  `${letter.id}  ${letter.created_at}  ${letter.queue}  ${letter.message_type ?? '-'}  ${letter.reason}`;

function one(letter: DeadLetterRecord, options: DeadLetterOptions): void {
  say(options.json ? JSON.stringify(letter) : `${letter.status} ${letter.id}`);
}

function report(options: DeadLetterOptions, counts: Record<string, number | boolean>): void {
  if (options.json) {
    say(JSON.stringify(counts));
    return;
  }
  const { matched, dry_run, ...done } = counts;
  const [name = '', n = 0] = Object.entries(done)[0] ?? [];
  say(dry_run ? `${matched} match; nothing was done (dry run)` : `${n} of ${matched} ${name}`);
}
