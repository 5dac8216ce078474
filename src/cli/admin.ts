import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';
import { loadConfig } from '../config.ts';
import { Refusal } from '../domain/problem.ts';
import { createIdentity } from '../domain/sessions/identity.ts';
import { ensureAdmin } from '../domain/users/administration.ts';
import { acceptPassword, refuseSimilar } from '../domain/users/password.ts';
import { createTransact } from '../queues/outbox.ts';
import { CommandFailed } from './failure.ts';
import { openMigratedStore } from './runtime.ts';
import { say } from './say.ts';

/** `waybill admin create [email]`. Needs the database alone: what it emits waits in the outbox. */
export async function createAdmin(given: string | undefined): Promise<void> {
  const config = loadConfig();
  const email = given ?? config.admin?.email;
  if (!email || !/^[^\s@]+@[^\s@]+$/.test(email))
    throw new CommandFailed('give an e-mail address: waybill admin create you@example.com');
  const password = accepted(process.env.ADMIN_PASSWORD ? (config.admin?.password ?? '') : await askPassword(), email);
  const { database, keyring } = await openMigratedStore(config, 'waybill admin');
  try {
    const { passwords } = createIdentity({ database, keyring, config });
    const transact = createTransact(database, () => undefined);
    const { created } = await ensureAdmin({ em: database.em.fork(), transact, passwords }, { email, password });
    if (!created) throw new CommandFailed(`${email} has an account already; it was left as it is`);
    say(`created the administrator ${email}`);
  } finally {
    await database.close(true);
  }
}

/** Holds an administrator's password to what everybody's is held to. */
function accepted(password: string, email: string): string {
  try {
    const normal = acceptPassword(password);
    refuseSimilar(normal, email);
    return normal;
  } catch (error) {
    throw error instanceof Refusal ? new CommandFailed(error.problem.message) : error;
  }
}

async function askPassword(): Promise<string> {
  if (!process.stdin.isTTY) throw new CommandFailed('set ADMIN_PASSWORD, or run this in a terminal to be asked for it');
  process.stdout.write('Password (8 characters or more): ');
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: silent, terminal: true });
  const password = await terminal.question('');
  terminal.close();
  process.stdout.write('\n');
  return password;
}
