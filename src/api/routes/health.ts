import { createRoute, z } from '@hono/zod-openapi';
import { Histogram, type Registry } from 'prom-client';
import { withDeadline } from '../../services/service.ts';
import type { Observe } from '../middleware/request.ts';
import { type ApiRouter, createRouter } from '../router.ts';

/** What a check of a service may take. */
const CHECK_DEADLINE_MS = 1000;

export interface HealthCheck {
  /** Resolves when the service answers. */
  check: () => Promise<unknown>;
  /** Without a needed one this process is not ready; without another it works on, less well. */
  needed: boolean;
}

export interface HealthDeps {
  checks: Record<string, HealthCheck>;
  /** Set when the process is stopping; `/readyz` is false from then on. */
  state: { stopping: boolean };
  registry: Registry;
}

const checksSchema = z
  .record(z.string(), z.enum(['up', 'down']))
  .openapi({ example: { database: 'up', redis: 'up', rabbitmq: 'up' } });
const readinessSchema = z
  .object({
    status: z.enum(['ok', 'degraded', 'down', 'stopping']),
    checks: checksSchema,
    down: z.array(z.string()).openapi({ description: 'The names of what does not answer.' }),
  })
  .openapi('Readiness');
const healthSchema = readinessSchema.extend({ uptime_s: z.number() }).openapi('Health');

const json = (description: string, schema: z.ZodType, example: unknown) => ({
  description,
  content: { 'application/json': { schema, example } },
});
const UP = { status: 'ok', checks: { database: 'up', redis: 'up', rabbitmq: 'up' }, down: [] };
const DOWN = { status: 'down', checks: { database: 'down', redis: 'up', rabbitmq: 'up' }, down: ['database'] };

const routes = {
  health: createRoute({
    method: 'get',
    path: '/health',
    operationId: 'getHealth',
    tags: ['Operating'],
    summary: 'How the API and the services behind it are',
    responses: {
      200: json('Everything that is needed answers.', healthSchema, { ...UP, uptime_s: 4711 }),
      503: json('Something that is needed does not answer.', healthSchema, { ...DOWN, uptime_s: 4711 }),
    },
  }),
  live: createRoute({
    method: 'get',
    path: '/livez',
    operationId: 'getLiveness',
    tags: ['Operating'],
    summary: 'Whether the process is alive',
    responses: { 200: json('It is.', z.object({ status: z.literal('ok') }), { status: 'ok' }) },
  }),
  ready: createRoute({
    method: 'get',
    path: '/readyz',
    operationId: 'getReadiness',
    tags: ['Operating'],
    summary: 'Whether the process takes work, and what is down when it does not',
    responses: { 200: json('It does.', readinessSchema, UP), 503: json('It does not.', readinessSchema, DOWN) },
  }),
  metrics: createRoute({
    method: 'get',
    path: '/metrics',
    operationId: 'getMetrics',
    tags: ['Operating'],
    summary: 'Prometheus metrics',
    responses: {
      200: { description: 'In the Prometheus text format.', content: { 'text/plain': { schema: z.string() } } },
    },
  }),
};

/** `/health`, `/livez`, `/readyz` and `/metrics`, as every process serves them; none has an envelope. */
export function healthRoutes(deps: HealthDeps): ApiRouter {
  const router = createRouter();
  const uncached = { 'Cache-Control': 'no-store' };
  router.openapi(routes.live, (c) => c.json({ status: 'ok' as const }, 200, uncached));
  router.openapi(routes.ready, async (c) => {
    const { ready, body } = await readiness(deps);
    return c.json(body, ready ? 200 : 503, uncached);
  });
  router.openapi(routes.health, async (c) => {
    const { ready, body } = await readiness(deps);
    return c.json({ ...body, uptime_s: Math.round(process.uptime()) }, ready ? 200 : 503, uncached);
  });
  router.openapi(routes.metrics, async (c) =>
    c.text(await deps.registry.metrics(), 200, { 'Content-Type': deps.registry.contentType, ...uncached }),
  );
  return router;
}

/** Runs all checks at once, each with a deadline of its own. */
export async function readiness(
  deps: Pick<HealthDeps, 'checks' | 'state'>,
): Promise<{ ready: boolean; body: z.infer<typeof readinessSchema> }> {
  const names = Object.keys(deps.checks);
  const answers = await Promise.all(Object.entries(deps.checks).map(([name, { check }]) => responds(name, check)));
  const down = names.filter((_, i) => !answers[i]);
  const missing = down.some((name) => deps.checks[name]?.needed);
  const status = deps.state.stopping ? 'stopping' : missing ? 'down' : down.length > 0 ? 'degraded' : 'ok';
  const checks = Object.fromEntries(names.map((name, i) => [name, answers[i] ? ('up' as const) : ('down' as const)]));
  return { ready: !deps.state.stopping && !missing, body: { status, checks, down } };
}

async function responds(name: string, check: () => Promise<unknown>): Promise<boolean> {
  try {
    await withDeadline((async () => check())(), CHECK_DEADLINE_MS, `the check of ${name}`);
    return true;
  } catch {
    return false;
  }
}

/** The duration of answered requests, by method, route pattern and status. */
export function requestMetrics(registry: Registry): Observe {
  const histogram = new Histogram({
    name: 'waybill_http_request_duration_seconds',
    help: 'Duration of answered HTTP requests.',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers: [registry],
  });
  return ({ method, route, status, seconds }) => histogram.observe({ method, route, status }, seconds);
}
