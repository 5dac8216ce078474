import { sql } from 'kysely';
import { createApp } from '../../../src/api/app.ts';
import type { ApiDeps } from '../../../src/api/deps.ts';
import { kycRoutes } from '../../../src/api/routes/kyc.ts';
import { kycCallbackRoutes } from '../../../src/api/routes/kyc-callbacks.ts';
import { newId, OperationIds } from '../../../src/domain/ids.ts';
import { PROVIDERS } from '../../../src/domain/kyc/providers.ts';
import { AccessTokens } from '../../../src/domain/sessions/access-token.ts';
import { createAuthenticate } from '../../../src/domain/sessions/authenticate.ts';
import { openSession } from '../../../src/domain/sessions/sessions.ts';
import { SigningKeys } from '../../../src/domain/sessions/signing-keys.ts';
import type { Role } from '../../../src/domain/users/entities.ts';
import type { AnyWorker } from '../../../src/queues/worker.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { applyKycCallbackWorker } from '../../../src/workers/apply-kyc-callback.ts';
import { cancelKycWorker } from '../../../src/workers/cancel-kyc.ts';
import { decideKycWorker } from '../../../src/workers/decide-kyc.ts';
import { submitKycWorker } from '../../../src/workers/submit-kyc.ts';
import { createHarness, type Harness } from '../../harness.ts';

export interface Person {
  id: string;
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answered>;
}

export interface Answered {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: answers are compared, not typed
  body: any;
}

export interface KycBench {
  harness: Harness;
  operationIds: OperationIds;
  /** Everything that was handed to the broker, as text. */
  published: string[];
  rows<T>(query: ReturnType<typeof sql<T>>): Promise<T[]>;
  /** A user with an open session. */
  person(role?: Role): Promise<Person>;
  request(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answered>;
}

/** The routes and the pool `kyc` at work on the real services. */
export async function openKycBench(env: Record<string, string> = {}): Promise<KycBench> {
  const workers = (keyring: Keyring, provider: keyof typeof PROVIDERS): AnyWorker[] => [
    submitKycWorker({ keyring, provider: PROVIDERS[provider] }),
    cancelKycWorker(),
    decideKycWorker({ keyring }),
    applyKycCallbackWorker({ keyring }),
  ];
  // Which commands there are must be known before there is a keyring: so the workers are made twice.
  const harness = await createHarness(env, workers(new Keyring(Buffer.alloc(32)), 'manual'));
  const { config, log, database, keyring, messaging } = harness;
  await harness.start(workers(keyring, config.kyc.provider), ['kyc', 'housekeeping']);
  const published: string[] = [];
  const operationIds = new OperationIds(keyring.for('operation-id').current().key);
  const deps: ApiDeps = {
    config,
    log,
    database,
    keyring,
    operationIds,
    transact: messaging.transact,
    commands: {
      send: (contract, data, context, options) => {
        published.push(JSON.stringify({ type: contract.type, data, context }));
        return messaging.commands.send(contract, data, context, options);
      },
      await: (operationId, waitMs) => messaging.commands.await(operationId, waitMs),
    },
  };
  const accessTokens = new AccessTokens(new SigningKeys(database, keyring), config.jwt);
  const app = createApp(
    { config, log, authenticate: createAuthenticate({ database, accessTokens }) },
    { api: [kycRoutes(deps), kycCallbackRoutes(deps)] },
  );

  const rows: KycBench['rows'] = async (query) => (await query.execute(database.em.fork().getKysely())).rows;
  const request: KycBench['request'] = async (method, path, body, headers = {}) => {
    const response = await app.request(`/api/v1${path}`, {
      method,
      headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    return { status: response.status, headers: response.headers, body: await response.json() };
  };
  const person: KycBench['person'] = async (role = 'user') => {
    const id = newId();
    await rows(sql`
      insert into users (id, email, full_name, role, is_verified)
      values (${id}, ${`${id}@example.test`}, 'Ana Martins', ${role}, true)`);
    const context = { requestId: newId(), correlationId: newId(), actor: { type: 'user' as const, id } };
    const { sessionId } = await messaging.transact(context, (unit) => openSession(unit, { id, version: 1 }));
    const authorization = `Bearer ${await accessTokens.issue({ userId: id, sessionId, role })}`;
    return {
      id,
      call: (method, path, body, headers) => request(method, path, body, { authorization, ...headers }),
    };
  };
  return { harness, operationIds, published, rows, person, request };
}
