import { Command, InvalidArgumentError, Option } from 'commander';
import { ConfigError, POOLS, type Pool } from '../config.ts';
import { isUuid } from '../domain/ids.ts';
import type { DeadLetterOptions } from './dead-letters.ts';
import type { ListenOptions } from './listen.ts';
import { VERSION } from './version.ts';

/** A failure that is explained in one line; anything else comes with its stack. */
function explain(error: unknown): string {
  if (error instanceof ConfigError) return error.message;
  const known = ['ServicesUnavailable', 'SecretsMismatch', 'CommandFailed'];
  if (error instanceof Error && known.includes(error.name)) return error.message;
  const { code, port } = error as { code?: string; port?: number };
  if (code === 'EADDRINUSE') return `port ${port} is taken: end what listens there, or set PORT (0 takes any free one)`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/** Runs a command's body; an error ends the process with code 1 and its reason on stderr. */
const run =
  <A extends unknown[]>(body: (...args: A) => Promise<unknown>) =>
  async (...args: A): Promise<void> => {
    try {
      const code = await body(...args);
      process.exitCode = typeof code === 'number' ? code : 0;
    } catch (error) {
      console.error(`waybill: ${explain(error)}`);
      process.exitCode = 1;
    }
    // Whatever a command opened it has closed; a stray handle must not keep a finished command up.
    setTimeout(() => process.exit(), 2000).unref();
  };

function pool(text: string, before: Pool[] = []): Pool[] {
  if (!(POOLS as readonly string[]).includes(text))
    throw new InvalidArgumentError(`There is no pool "${text}". The pools are ${POOLS.join(', ')}.`);
  return [...before, text as Pool];
}

function concurrency(text: string, before: Record<string, string> = {}): Record<string, string> {
  const [, name, n] = /^(\w+)=([1-9]\d{0,4})$/.exec(text) ?? [];
  if (!name || !n) throw new InvalidArgumentError('Write <pool>=<number>, as in email=10.');
  pool(name);
  return { ...before, [`${name.toUpperCase()}_CONCURRENCY`]: n };
}

function uuidText(text: string): string {
  if (!isUuid(text)) throw new InvalidArgumentError('It must be a UUID.');
  return text;
}

function moment(text: string): string {
  if (!/^\d{4}-\d\d-\d\d(T|$)/.test(text) || Number.isNaN(Date.parse(text)))
    throw new InvalidArgumentError('Write a time of RFC 3339, as in 2026-11-20T10:00:00Z.');
  return new Date(text).toISOString();
}

const upTo =
  (max: number) =>
  (text: string): number => {
    const n = Number(text);
    if (!/^\d+$/.test(text) || n < 1 || n > max)
      throw new InvalidArgumentError(`It must be a whole number from 1 to ${max}.`);
    return n;
  };

export const program = new Command('waybill')
  .description('A message-driven worker platform: accounts, e-mail, KYC, signed webhooks and a sealed audit trail.')
  .version(VERSION)
  .enablePositionalOptions()
  .showHelpAfterError('(see "waybill --help")')
  .addHelpText(
    'after',
    '\nEverything is set by environment variables: see "waybill config" and docs/reference/configuration.md.',
  );

program
  .command('start')
  .description(
    'bring up what is missing of PostgreSQL, Redis and RabbitMQ, migrate, and run the API and every pool in one process',
  )
  .action(run(async () => (await import('./start.ts')).start()));

program
  .command('api')
  .description('run the API alone; the database must be migrated')
  .action(run(async () => (await import('./start.ts')).api()));

program
  .command('worker')
  .description('run one or more worker pools')
  .argument('<pool...>', `which pools: ${POOLS.join(', ')}`, pool)
  .option(
    '--concurrency <pool=n>',
    'work in flight of a pool in this process, as in email=10 (repeatable)',
    concurrency,
  )
  .addHelpText(
    'after',
    '\nExamples:\n  $ waybill worker email webhooks\n  $ waybill worker email --concurrency email=10',
  )
  .action(
    run(async (pools: Pool[], options: { concurrency?: Record<string, string> }) =>
      (await import('./start.ts')).worker(pools, options.concurrency ?? {}),
    ),
  );

program
  .command('migrate')
  .description('bring the database to the current schema, back by one step, or say where it is')
  .argument('<up|down|status>', 'what to do')
  .option('--all', 'with down: take every migration back (all data is lost)')
  .action(
    run(async (direction: string, options: { all?: boolean }) =>
      (await import('./migrate.ts')).migrate(direction, options),
    ),
  );

program
  .command('admin')
  .description('administrators')
  .command('create')
  .description('make an administrator; the password is read from ADMIN_PASSWORD or asked for')
  .argument('[email]', 'the address (default: ADMIN_EMAIL)')
  .action(run(async (email: string | undefined) => (await import('./admin.ts')).createAdmin(email)));

const deadLetters = program
  .command('dead-letters')
  .description('messages that could not be handled: look at them, hand them to their workers again, or discard them');

const byFilter = (command: Command): Command =>
  command
    .option('--queue <name>', 'where it died')
    .option('--worker <name>', 'the worker that could not handle it')
    .option('--type <type>', 'of the message, as in user.register')
    .option('--reason <text>', 'a part of the reason')
    .option('--message-id <id>', 'of the message')
    .option('--correlation-id <id>', 'the operation that it belongs to')
    .option('--created-after <time>', 'RFC 3339, as in 2026-11-20T10:00:00Z', moment)
    .option('--created-before <time>', 'RFC 3339', moment)
    .option('--json', 'print JSON');

const resolving = (command: Command): Command =>
  byFilter(command)
    .option('--all', 'without a filter: everything that is dead')
    .option('--limit <n>', 'at most so many, 1 to 1000 (default: 1000)', upTo(1000))
    .option('--dry-run', 'only count what matches')
    .option('--yes', 'do not ask before changing many');

byFilter(deadLetters.command('list').description('the newest first'))
  .addOption(new Option('--status <status>', 'which').choices(['dead', 'replayed', 'discarded']).default('dead'))
  .option('--limit <n>', 'how many, 1 to 100', upTo(100), 20)
  .option('--cursor <cursor>', 'go on after a page')
  .action(run(async (options: DeadLetterOptions) => (await import('./dead-letters.ts')).list(options)));

deadLetters
  .command('show')
  .description('one with its headers and its message')
  .argument('<id>', 'the id of the dead letter', uuidText)
  .option('--json', 'print JSON')
  .action(run(async (id: string, options: DeadLetterOptions) => (await import('./dead-letters.ts')).show(id, options)));

resolving(deadLetters.command('replay').description('hand one, or all that match, to their workers again'))
  .argument('[id]', 'the id of the dead letter', uuidText)
  .action(
    run(async (id: string | undefined, options: DeadLetterOptions) =>
      (await import('./dead-letters.ts')).replay(id, options),
    ),
  );

resolving(deadLetters.command('discard').description('decide that one, or all that match, are not handled any more'))
  .argument('[id]', 'the id of the dead letter', uuidText)
  .option('--because <text>', 'why, for the audit log')
  .action(
    run(async (id: string | undefined, options: DeadLetterOptions) =>
      (await import('./dead-letters.ts')).discard(id, options),
    ),
  );

program
  .command('audit')
  .description('the audit log')
  .command('verify')
  .description(
    'recompute every leaf, root, link and signature; exit 1 and name the first broken row if it is not intact',
  )
  .option('--json', 'print the result as JSON')
  .option('--anchor <n:hash>', 'a checkpoint from the log stream, which shows whether the end of the log was cut off')
  .action(
    run(async (options: { json?: boolean; anchor?: string }) => (await import('./audit.ts')).verifyAudit(options)),
  );

const listed = (text: string, before: string[] = []): string[] => [
  ...before,
  ...text.split(',').map((one) => one.trim()),
];

program
  .command('listen')
  .description('make a webhook endpoint for as long as this runs, print what comes and forward it to your own server')
  .requiredOption('--forward <url>', 'where to, as in http://localhost:4000/hooks')
  .option('--events <types>', 'only these, as in payment.* (a list, or repeatable)', listed)
  .option('--api <url>', 'where Waybill is', 'http://localhost:3000')
  .option('--key <key>', 'an API key with webhooks:write (default: WAYBILL_KEY; else ADMIN_EMAIL, ADMIN_PASSWORD)')
  .option('--tenant <name>', 'for an administrator: whose events')
  .option('--public-url <url>', 'where Waybill reaches this machine, when it runs elsewhere')
  .option('--port <n>', 'the port to take webhooks on (default: any free one)', upTo(65_535))
  .option('--show-secret', 'print the secret that the webhooks are signed with, for a server that verifies')
  .addHelpText(
    'after',
    '\nExample:\n  $ waybill listen --forward http://localhost:4000/hooks --events "payment.*"\nWaybill on this machine must be started with WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8,::1/128.',
  )
  .action(run(async (options: ListenOptions) => (await import('./listen.ts')).listen(options)));

program
  .command('doctor')
  .description('check everything that Waybill needs and say what to do about what is missing')
  .action(run(async () => (await import('./doctor.ts')).doctor()));

program
  .command('config')
  .description('print the configuration as it is understood, secrets masked')
  .option('--json', 'print it as JSON')
  .action(run(async (options: { json?: boolean }) => (await import('./config.ts')).printConfig(options)));

program
  .command('services')
  .description('bring up what is missing of PostgreSQL, Redis and RabbitMQ and run a command against them')
  .argument('<command...>', 'the command, after --')
  .allowUnknownOption()
  .passThroughOptions()
  .addHelpText('after', '\nExample:\n  $ waybill services -- npx vitest run')
  .action(run(async (command: string[]) => (await import('./services.ts')).withServices(command)));

program
  .command('demo')
  .description('tell the whole story against real services, on a platform that it starts for itself and drops after')
  .action(run(async () => (await import('./demo.ts')).demo()));
