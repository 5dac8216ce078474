import { randomBytes } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { type AppDeps, createApp } from '../../src/api/app.ts';
import { forRoles, forUsers, sessionOf } from '../../src/api/middleware/authenticate.ts';
import { rateLimit } from '../../src/api/middleware/rate-limit.ts';
import { allowBody } from '../../src/api/middleware/well-formed.ts';
import { ok, pagination } from '../../src/api/respond.ts';
import { type ApiRouter, createRouter, type Session } from '../../src/api/router.ts';
import { email, errorResponses, jsonBody, pageQuery, password, success, text } from '../../src/api/schemas.ts';
import { refuse } from '../../src/domain/problem.ts';
import { BrokerUnavailable } from '../../src/queues/gateway.ts';
import { createLogger } from '../../src/services/logger.ts';

export const namespace = () => `wb_shell_${randomBytes(4).toString('hex')}`;

/** A logger whose lines can be read. */
export function listening() {
  const lines: Record<string, unknown>[] = [];
  const log = createLogger({
    level: 'debug',
    destination: { write: (line: string) => void lines.push(JSON.parse(line)) },
  });
  return { log, lines };
}

const anything = z.unknown();
const parcel = z
  .strictObject({
    email,
    password: password.optional(),
    name: text({ min: 2, max: 10 }).optional(),
    document: z.strictObject({ expires_on: z.iso.date('must be a date') }).optional(),
    events: z
      .array(z.strictObject({ type: text({ max: 20 }) }))
      .max(2)
      .optional(),
    data: z.record(z.string(), z.unknown()).optional(),
    count: z.int().min(1).max(5).optional(),
    kind: z.enum(['passport', 'id_card']).optional(),
    to: z
      .union([z.strictObject({ box: z.int() }), z.strictObject({ street: z.strictObject({ name: z.string() }) })])
      .optional(),
  })
  .openapi('Parcel');

/** A small router that uses every part of the shell. */
export function parcelRouter(): ApiRouter {
  const router = createRouter();
  const responses = { 200: success(anything), ...errorResponses(400, 401, 403, 404, 413, 415) };
  router.openapi(
    createRoute({
      method: 'post',
      path: '/parcels',
      request: { body: jsonBody(parcel) },
      responses: { 201: success(parcel), ...errorResponses(400, 413, 415) },
    }),
    (c) => ok(c, c.req.valid('json'), { status: 201, message: 'sent' }),
  );
  router.openapi(
    createRoute({ method: 'get', path: '/parcels', request: { query: pageQuery(['created_at']) }, responses }),
    (c) => {
      const query = c.req.valid('query');
      return ok(c, [query], { pagination: pagination(query, 41) });
    },
  );
  router.openapi(
    createRoute({
      method: 'get',
      path: '/parcels/{id}',
      request: { params: z.object({ id: text({ max: 20 }) }) },
      responses,
    }),
    (c) => ok(c, { ...c.req.valid('param'), context: c.get('context') }),
  );
  router.openapi(
    createRoute({
      method: 'post',
      path: '/large',
      middleware: [allowBody(256 * 1024)],
      request: { body: jsonBody(z.strictObject({ blob: z.string() })) },
      responses,
    }),
    (c) => ok(c, c.req.valid('json').blob.length),
  );
  router.openapi(createRoute({ method: 'post', path: '/bodiless', responses }), (c) => ok(c, 'fine'));
  router.openapi(createRoute({ method: 'get', path: '/mine', middleware: forUsers(), responses }), (c) =>
    ok(c, { ...sessionOf(c), actor: c.get('context').actor }),
  );
  router.openapi(
    createRoute({ method: 'get', path: '/ours', middleware: forRoles('admin', 'operator'), responses }),
    (c) => ok(c, sessionOf(c).role),
  );
  router.openapi(
    createRoute({ method: 'get', path: '/limited', middleware: [rateLimit('register')], responses }),
    (c) => ok(c, 'in time'),
  );
  router.post('/raw', async (c) => ok(c, Buffer.from(await c.req.arrayBuffer()).toString('hex')));
  const faults: Record<string, () => never> = {
    refusal: () => refuse('CONFLICT', 'taken', { field: 'email', details: [1] }),
    broker: () => {
      throw new BrokerUnavailable('amqp://guest:guest@broker.internal went away');
    },
    database: () => {
      throw Object.assign(new Error('connect ECONNREFUSED 10.0.0.7:5432'), { code: 'ECONNREFUSED' });
    },
    bug: () => {
      throw new TypeError('select secret from somewhere');
    },
  };
  router.openapi(
    createRoute({
      method: 'get',
      path: '/fault/{kind}',
      request: { params: z.object({ kind: z.string() }) },
      responses,
    }),
    (c) => faults[c.req.valid('param').kind]?.() ?? ok(c, null),
  );
  return router;
}

export const SESSIONS: Record<string, Session> = {
  ada: {
    userId: '019a9f3e-0000-7000-8000-000000000001',
    sessionId: '019a9f3e-0000-7000-8000-000000000011',
    role: 'user',
  },
  root: {
    userId: '019a9f3e-0000-7000-8000-000000000002',
    sessionId: '019a9f3e-0000-7000-8000-000000000012',
    role: 'admin',
  },
};

/** The shell around `parcelRouter`, with tokens `ada` and `root`, and `broken` for a check that cannot tell. */
export function parcelApp(over: Partial<AppDeps> = {}, config: Partial<AppDeps['config']> = {}) {
  const { log, lines } = listening();
  const app = createApp(
    {
      config: {
        corsOrigins: [],
        trustedProxies: [],
        rateLimits: 'off',
        namespace: namespace(),
        publicUrl: 'http://localhost:3000',
        ...config,
      },
      log,
      authenticate: async (token) => {
        if (token === 'broken') throw Object.assign(new Error('the database is away'), { code: 'ECONNREFUSED' });
        return SESSIONS[token];
      },
      ...over,
    },
    { api: [parcelRouter()] },
  );
  return { app, lines };
}

/** A request with a JSON body. */
export const post = (body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json', ...headers },
  body: typeof body === 'string' ? body : JSON.stringify(body),
});

export interface Envelope {
  status: 'success' | 'error';
  data: never;
  message?: string;
  pagination?: unknown;
  error: { code: string; message: string; field?: string; details?: unknown; retry_after?: number };
  meta: { timestamp: string; request_id: string };
}

export const envelopeOf = async (response: Response): Promise<Envelope> => (await response.json()) as Envelope;
