import { sql } from 'kysely';
import { Registry } from 'prom-client';
import { type Config, maskUrl } from '../config.ts';
import { entities } from '../domain/entities.ts';
import { OperationIds } from '../domain/ids.ts';
import { createIdentity, type Identity } from '../domain/sessions/identity.ts';
import { Messaging } from '../queues/messaging.ts';
import { createDatabaseIfMissing, type Database, isTransient, openDatabase } from '../services/database.ts';
import { checkSecretsKey } from '../services/installation.ts';
import { Keyring } from '../services/keyring.ts';
import type { Logger } from '../services/logger.ts';
import { COMMANDS } from '../workers/commands.ts';
import { CommandFailed } from './failure.ts';

/** What every process has, whatever it runs. */
export interface Runtime {
  config: Config;
  log: Logger;
  database: Database;
  keyring: Keyring;
  identity: Identity;
  operationIds: OperationIds;
  metrics: Registry;
  messaging: Messaging;
}

export interface Store {
  database: Database;
  keyring: Keyring;
}

/** Creates the database when the server does not have it yet. Returns whether it did; throws `CommandFailed`. */
export const ensureDatabase = ({ databaseUrl }: Config): Promise<boolean> =>
  reaching(databaseUrl, () => createDatabaseIfMissing(databaseUrl));

/** Above any statement of a process at work, which may take 15 s. Migrations may take longer. */
const SILENCE_MS = 18_000;

/**
 * The database, which must answer but need not be migrated; a connection silent for `silenceMs` is given up.
 * Throws `CommandFailed`.
 */
export async function openStore(config: Config, applicationName: string, silenceMs = 0): Promise<Store> {
  const database = await openDatabase(config.databaseUrl, { entities, applicationName, poolSize: 30, silenceMs });
  try {
    await reaching(config.databaseUrl, () => sql`select 1`.execute(database.em.fork().getKysely()));
  } catch (error) {
    await database.close(true);
    throw error;
  }
  return { database, keyring: new Keyring(config.secretsKey, config.secretsKeyPrevious) };
}

/**
 * A migrated database that SECRETS_KEY fits, without brokers: enough for `admin create` and `audit verify`.
 * Throws `CommandFailed` or `SecretsMismatch`.
 */
export async function openMigratedStore(config: Config, applicationName: string): Promise<Store> {
  const store = await openStore(config, applicationName, SILENCE_MS);
  try {
    if ((await store.database.migrator.getPending()).length > 0) {
      throw new CommandFailed('the database is not migrated: run "waybill migrate up" first');
    }
    await checkSecretsKey(store.database, store.keyring);
    return store;
  } catch (error) {
    await store.database.close(true);
    throw error;
  }
}

/** Says in one line that PostgreSQL is away, refuses the credentials (class 28) or lacks the database (3D000). */
async function reaching<T>(url: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { code = '', message } = error as { code?: string; message?: string };
    if (code === '3D000') throw new CommandFailed(`${message}: "waybill migrate up" creates it`);
    if (!isTransient(error) && !code.startsWith('28')) throw error;
    const reason = message || code;
    throw new CommandFailed(`PostgreSQL at ${maskUrl(url)} cannot be used: ${reason}. See "waybill doctor".`);
  }
}

/** Opens the store of a migrated database and builds the messaging; nothing is connected before its services start. */
export async function openRuntime(config: Config, log: Logger, name: string): Promise<Runtime> {
  await ensureDatabase(config);
  const { database, keyring } = await openMigratedStore(config, `waybill ${name}`);
  const metrics = new Registry();
  const ids = keyring.for('operation-id');
  return {
    config,
    log,
    database,
    keyring,
    metrics,
    identity: createIdentity({ database, keyring, config }),
    operationIds: new OperationIds(ids.current().key, ...ids.previous().map(({ key }) => key)),
    messaging: new Messaging({ config, database, log, commandTypes: COMMANDS, metrics, name: `waybill ${name}` }),
  };
}
