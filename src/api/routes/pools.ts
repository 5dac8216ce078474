import { createRoute, z } from '@hono/zod-openapi';
import { POOLS } from '../../config.ts';
import { changePool, MAX_CONCURRENCY } from '../../domain/pools/settings.ts';
import { refuse } from '../../domain/problem.ts';
import type { PoolState } from '../../queues/pool-view.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, success, text, timestamp } from '../schemas.ts';
import { atLeastOne } from './users.ts';

const poolSchema = z
  .object({
    pool: z.enum(POOLS),
    concurrency: z.int().openapi({ description: 'Work in flight per process.' }),
    paused: z.boolean(),
    backlog: z.int().openapi({ description: 'Messages and alarms that nobody has taken.' }),
    oldest_age_ms: z.int().openapi({
      description:
        'For how long the oldest of the backlog has waited at most. RabbitMQ does not tell the age of a message: it is counted from when a worker took the message before it or last saw the queue empty, about 2 s apart.',
    }),
    in_flight: z.int(),
    dead_letters: z.int().openapi({ description: 'Those of its queue that wait for a decision.' }),
    workers: z.array(
      z.object({
        id: z.string(),
        host: z.string(),
        pid: z.int(),
        version: z.string(),
        in_flight: z.int(),
        seen_at: timestamp,
      }),
    ),
  })
  .openapi('Pool');

const EXAMPLE = {
  pool: 'email',
  concurrency: 10,
  paused: false,
  backlog: 3,
  oldest_age_ms: 420,
  in_flight: 2,
  dead_letters: 0,
  workers: [
    {
      id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
      host: 'worker-1',
      pid: 4711,
      version: '1.0.0',
      in_flight: 2,
      seen_at: '2026-11-20T10:15:30.000Z',
    },
  ],
};

const tags = ['Operating'];
const security = [{ bearerAuth: [] }];

const routes = {
  list: createRoute({
    method: 'get',
    path: '/admin/pools',
    operationId: 'listPools',
    tags,
    summary: 'The worker pools: what is set, what waits, what runs and who works on it',
    security,
    middleware: forScope('ops:read', 'admin', 'operator'),
    responses: { 200: success(z.array(poolSchema), { example: [EXAMPLE] }), ...errorResponses(401, 403, 429, 503) },
  }),
  change: createRoute({
    method: 'patch',
    path: '/admin/pools/{pool}',
    operationId: 'changePool',
    tags,
    summary: 'Set the concurrency of a pool, pause it or let it go on',
    description:
      'Takes effect in every running worker within 2 s, survives restarts, and counts before the command line and the environment. What is in flight is finished. `concurrency: null` goes back to what each worker was started with. 409 for `housekeeping`, which must run as it is.',
    security,
    middleware: forScope('ops:write', 'admin', 'operator'),
    request: {
      params: z.object({ pool: text({ max: 40 }) }),
      body: jsonBody(
        z.strictObject({
          concurrency: z.int().min(1).max(MAX_CONCURRENCY).nullable().optional(),
          paused: z.boolean().optional(),
        }),
        { concurrency: 20 },
      ),
    },
    responses: {
      200: success(poolSchema, { example: { ...EXAMPLE, concurrency: 20 } }),
      ...errorResponses(400, 401, 403, 404, 409, 413, 415, 429, 503),
    },
  }),
};

/** What the routes need beside the database: every pool as it is, and a word to the workers after a change. */
export interface PoolDeps extends Pick<ApiDeps, 'transact'> {
  poolStates: () => Promise<PoolState[]>;
  /** Lets the workers look at once; without it they do within a second. */
  announce: () => Promise<unknown>;
}

/** `/admin/pools`, for admins and operators. */
export function poolRoutes(deps: PoolDeps): ApiRouter {
  const router = createRouter();

  router.openapi(routes.list, async (c) => ok(c, await deps.poolStates()));

  router.openapi(routes.change, async (c) => {
    const name = c.req.valid('param').pool;
    const pool = POOLS.find((known) => known === name) ?? refuse('NOT_FOUND', `there is no pool "${name}"`);
    const change = c.req.valid('json');
    atLeastOne(change);
    await deps.transact(c.get('context'), (unit) => changePool(unit, pool, change));
    await deps.announce();
    return ok(
      c,
      (await deps.poolStates()).find((state) => state.pool === pool),
    );
  });

  return router;
}
