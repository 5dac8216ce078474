import { loadConfig } from '../config.ts';
import { migrateDown, migrateUp, migrationStatus } from '../services/database.ts';
import { checkSecretsKey } from '../services/installation.ts';
import { CommandFailed } from './failure.ts';
import { ensureDatabase, openStore } from './runtime.ts';
import { say } from './say.ts';

/** `waybill migrate up|down|status`. */
export async function migrate(direction: string, options: { all?: boolean }): Promise<void> {
  if (!['up', 'down', 'status'].includes(direction))
    throw new CommandFailed(`"${direction}" is not up, down or status`);
  const config = loadConfig();
  if (direction === 'up' && (await ensureDatabase(config))) say('created the database');
  const { database, keyring } = await openStore(config, 'waybill migrate');
  try {
    if (direction === 'up') {
      const done = await migrateUp(database, (name) => say(`migrating ${name} …`));
      say(done.length > 0 ? `${done.length} migrations done` : 'nothing to do: the database is up to date');
      await checkSecretsKey(database, keyring);
    } else if (direction === 'down') {
      const done = await migrateDown(database, options.all === true);
      for (const name of done) say(`took back ${name}`);
      if (done.length === 0) say('nothing to take back');
    } else {
      for (const { name, executedAt } of await migrationStatus(database))
        say(`${executedAt ?? 'pending                 '}  ${name}`);
    }
  } finally {
    await database.close(true);
  }
}
