import type { Config } from '../config.ts';
import type { OperationIds } from '../domain/ids.ts';
import type { Transact } from '../domain/messages/emit.ts';
import type { Identity } from '../domain/sessions/identity.ts';
import type { CommandGateway } from '../queues/gateway.ts';
import type { Database } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';
import type { Logger } from '../services/logger.ts';

/** What every route is handed. Resources that only one route file needs are added by that file's own interface. */
export interface ApiDeps {
  config: Config;
  log: Logger;
  database: Database;
  keyring: Keyring;
  operationIds: OperationIds;
  transact: Transact;
  commands: CommandGateway;
}

/** What routes about sign-in and credentials need besides. */
export type AuthDeps = ApiDeps & { identity: Identity };
