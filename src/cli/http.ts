import { sql } from 'kysely';
import { createApp } from '../api/app.ts';
import type { Listener } from '../api/express.ts';
import type { Observe } from '../api/middleware/request.ts';
import { documentRoutes } from '../api/openapi.ts';
import { consoleRoutes } from '../api/pages/console.ts';
import { frontRoutes } from '../api/pages/front.ts';
import type { ApiRouter } from '../api/router.ts';
import { adminUserRoutes } from '../api/routes/admin-users.ts';
import { apiKeyRoutes } from '../api/routes/api-keys.ts';
import { auditRoutes } from '../api/routes/audit.ts';
import { authRoutes, keySetRoutes } from '../api/routes/auth.ts';
import { deadLetterRoutes } from '../api/routes/dead-letters.ts';
import { devMailRoutes } from '../api/routes/dev-mail.ts';
import { emailRoutes } from '../api/routes/emails.ts';
import { eventTypeRoutes } from '../api/routes/event-types.ts';
import { eventRoutes } from '../api/routes/events.ts';
import { type HealthCheck, healthRoutes, requestMetrics } from '../api/routes/health.ts';
import { kycRoutes } from '../api/routes/kyc.ts';
import { kycCallbackRoutes } from '../api/routes/kyc-callbacks.ts';
import { operationRoutes } from '../api/routes/operations.ts';
import { poolRoutes } from '../api/routes/pools.ts';
import { userRoutes } from '../api/routes/users.ts';
import { webhookActionRoutes } from '../api/routes/webhook-actions.ts';
import { webhookDeliveryRoutes } from '../api/routes/webhook-deliveries.ts';
import { webhookEndpointRoutes } from '../api/routes/webhook-endpoints.ts';
import { webhookKeyRoutes } from '../api/routes/webhook-keys.ts';
import { createHttpServer, type HttpServer } from '../api/server.ts';
import { EVENT_TYPES, jsonSchemaOf } from '../domain/events/catalogue.ts';
import { POOLS_NOTICE } from '../queues/pool-settings.ts';
import { PoolView } from '../queues/pool-view.ts';
import type { RunningPool } from '../queues/pools.ts';
import { Replay } from '../queues/replay.ts';
import { createAnchorKeeper } from '../services/anchor.ts';
import { createInbox, hasInbox } from '../services/inbox.ts';
import { together } from '../services/service.ts';
import { composeExpressLane } from './express.ts';
import { createMemory, type Memory } from './memory.ts';
import type { Runtime } from './runtime.ts';
import { VERSION } from './version.ts';

/** Whether this process is on its way out; `/readyz` is false from then on. */
export interface ProcessState {
  stopping: boolean;
}

/** PostgreSQL and RabbitMQ are needed; without Redis everything still works, more slowly. */
function checks({ database, messaging }: Runtime, pools: RunningPool[]): Record<string, HealthCheck> {
  const consuming = Object.fromEntries(
    pools.map((pool): [string, HealthCheck] => [
      `pool ${pool.pool}`,
      { needed: true, check: async () => pool.ready() || Promise.reject(new Error('not consuming')) },
    ]),
  );
  return {
    database: { needed: true, check: () => sql`select 1`.execute(database.em.fork().getKysely()) },
    rabbitmq: {
      needed: true,
      check: async () => messaging.publisher.ready || Promise.reject(new Error('not connected')),
    },
    redis: { needed: false, check: () => messaging.redis.ping() },
    ...consuming,
  };
}

/** The whole API, its pages and its documents. */
export function composeApi(
  runtime: Runtime,
  state: ProcessState,
  pools: RunningPool[] = [],
  memory: Memory = createMemory(runtime),
  observe: Observe = requestMetrics(runtime.metrics),
): ApiRouter {
  const { config, log, database, keyring, identity, operationIds, metrics, messaging } = runtime;
  const deps = {
    config,
    log,
    database,
    keyring,
    operationIds,
    identity,
    transact: messaging.transact,
    commands: messaging.commands,
    apiKeys: memory.apiKeys,
    eventTypes: memory.eventTypes,
  };
  const view = new PoolView({ messaging, database, concurrency: config.concurrency });
  const poolStates = () => view.states();
  const inbox = hasInbox(config);
  const app = createApp(
    {
      config,
      log,
      authenticate: memory.authenticate,
      authenticateKey: memory.apiKeys.authenticate,
      redis: messaging.redis,
      observe,
      announceSessions: () => memory.notices.announce('sessions'),
      reserved: (id) => operationIds.issuedAt(id) !== undefined,
    },
    {
      api: [
        authRoutes(deps),
        userRoutes(deps),
        adminUserRoutes(deps),
        apiKeyRoutes(deps),
        kycRoutes(deps),
        kycCallbackRoutes(deps),
        operationRoutes(deps),
        eventRoutes({ ...deps, messaging }),
        eventTypeRoutes(deps),
        webhookEndpointRoutes(deps),
        webhookDeliveryRoutes(deps),
        webhookActionRoutes(deps),
        auditRoutes({ ...deps, anchor: createAnchorKeeper(messaging.redis, config.namespace).read }),
        emailRoutes(deps),
        deadLetterRoutes({ ...deps, replay: new Replay({ database, messaging }) }),
        poolRoutes({ ...deps, poolStates, announce: () => memory.notices.announce(POOLS_NOTICE) }),
      ],
      root: [
        healthRoutes({ checks: checks(runtime, pools), state, registry: metrics }),
        keySetRoutes(deps),
        webhookKeyRoutes(deps),
        consoleRoutes({ version: VERSION }),
        frontRoutes({
          version: VERSION,
          publicUrl: config.publicUrl,
          inbox,
          poolSummary: async () =>
            (await poolStates()).map((pool) => ({
              pool: pool.pool,
              backlog: pool.backlog,
              in_flight: pool.in_flight,
              workers: pool.workers.length,
              paused: pool.paused,
            })),
        }),
        ...(inbox ? [devMailRoutes({ config, inbox: createInbox(messaging.patientRedis, config.namespace) })] : []),
      ],
    },
  );
  const events = EVENT_TYPES.map((type) => ({
    type: type.name,
    description: type.description,
    schema: jsonSchemaOf(type),
    example: type.example,
  }));
  documentRoutes(app, { version: VERSION, publicUrl: config.publicUrl, events });
  return app;
}

/** The API as a service of this process. */
export async function apiServer(
  runtime: Runtime,
  state: ProcessState,
  port: number,
  pools: RunningPool[] = [],
): Promise<HttpServer> {
  const memory = createMemory(runtime);
  const observe = requestMetrics(runtime.metrics);
  const lane = await composeExpressLane(runtime, memory, memory.authenticate, observe);
  const http = server(composeApi(runtime, state, pools, memory, observe), runtime, state, port, lane);
  const { start, stop } = together('memory', [memory.notices, memory.apiKeys]);
  return {
    name: http.name,
    start: () => start().then(() => http.start()),
    stop: (deadlineMs) => http.stop(deadlineMs).finally(() => stop(deadlineMs)),
    address: () => http.address(),
  };
}

/** What a worker process serves: health and metrics, nothing else. */
export function workerServer(runtime: Runtime, state: ProcessState, port: number, pools: RunningPool[]): HttpServer {
  const app = createApp(
    { config: runtime.config, log: runtime.log },
    { api: [], root: [healthRoutes({ checks: checks(runtime, pools), state, registry: runtime.metrics })] },
  );
  return server(app, runtime, state, port);
}

function server(
  app: ApiRouter,
  { log }: Runtime,
  state: ProcessState,
  port: number,
  before?: (application: Listener) => Listener,
): HttpServer {
  const onStopping = () => {
    state.stopping = true;
  };
  return createHttpServer({ fetch: app.fetch as never, port, log, onStopping, ...(before ? { before } : {}) });
}
