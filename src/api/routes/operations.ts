import { createRoute, z } from '@hono/zod-openapi';
import { isUuid, timeOfId, uuid } from '../../domain/ids.ts';
import { actorText } from '../../domain/messages/envelope.ts';
import {
  acceptedRecord,
  discreetRecord,
  listOperations,
  OPERATION_STATUSES,
  type OperationRecord,
  operationRecord,
} from '../../domain/operations/list.ts';
import type { OperationRow } from '../../domain/operations/operations.ts';
import { trail } from '../../domain/operations/trail.ts';
import { refuse } from '../../domain/problem.ts';
import { currentTime } from '../../services/clock.ts';
import { pause } from '../../services/service.ts';
import { acknowledge } from '../command.ts';
import type { ApiDeps } from '../deps.ts';
import { HOP_EXAMPLES, hopSchema } from '../hops.ts';
import { forScope, forUsersOr, isAllowed } from '../middleware/authenticate.ts';
import { rateLimit } from '../middleware/rate-limit.ts';
import { preferencesOf } from '../preferences.ts';
import { ok } from '../respond.ts';
import { type ApiContext, type ApiRouter, createRouter } from '../router.ts';
import { cursorQuery, errorResponses, success, text, timestamp } from '../schemas.ts';

/** The age before which nothing is told of an operation that was asked for without credentials. */
const DISCREET_MS = 300;

export type OperationDeps = Pick<ApiDeps, 'config' | 'commands' | 'operationIds' | 'database'>;

const problem = z
  .object({
    code: z.string(),
    message: z.string(),
    field: z.string().optional(),
    details: z.unknown().optional(),
    retry_after: z.number().optional(),
  })
  .openapi('Problem');

const operationSchema = z
  .object({
    operation_id: uuid,
    type: z.string().nullable().openapi({
      description:
        '`null` only where the id does not tell: one that an earlier version issued, until a worker takes it up.',
    }),
    status: z.enum(OPERATION_STATUSES).openapi({
      description: '`running`: at least one attempt failed and a retry is pending. `failed`: see `error`.',
    }),
    result: z.unknown().optional().openapi({ description: 'What the waiting caller would have got as `data`.' }),
    error: problem.optional(),
    created_at: timestamp,
    started_at: timestamp.optional(),
    finished_at: timestamp.optional(),
  })
  .openapi('Operation');

const summarySchema = z
  .object({
    operation_id: uuid,
    type: z.string(),
    status: z.enum(['running', 'succeeded', 'failed']),
    caller: z.string().openapi({ description: '`user:<id>`, `api_key:<id>` or `anonymous`.' }),
    request_id: z.string().nullable(),
    attempts: z.int(),
    error: problem.nullable(),
    created_at: timestamp,
    started_at: timestamp.nullable(),
    finished_at: timestamp.nullable(),
  })
  .openapi('OperationSummary');

const ID = '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01';
const EXAMPLE = {
  operation_id: ID,
  type: 'user.register',
  status: 'succeeded',
  result: { user_id: '019a9f3e-6b00-7a11-8e22-3f4455667788', email: 'ada@example.com', is_verified: false },
  created_at: '2026-11-20T10:15:30.000Z',
  started_at: '2026-11-20T10:15:30.012Z',
  finished_at: '2026-11-20T10:15:30.120Z',
};
const SUMMARY = {
  operation_id: ID,
  type: 'user.register',
  status: 'succeeded',
  caller: 'anonymous',
  request_id: '019a9f3e-6c00-7000-8000-000000000001',
  attempts: 1,
  error: null,
  created_at: EXAMPLE.created_at,
  started_at: EXAMPLE.started_at,
  finished_at: EXAMPLE.finished_at,
};

const byId = { params: z.object({ id: uuid.toLowerCase() }) };
const prefer = z.object({
  prefer: z.string().optional().openapi({
    description: '`wait=n` holds the answer until the operation is finished, n seconds (0 to 30) at most.',
    example: 'wait=10',
  }),
});

const routes = {
  list: createRoute({
    method: 'get',
    path: '/operations',
    operationId: 'listOperations',
    tags: ['Operations'],
    summary: 'Operations that a worker has taken up, the newest first',
    security: [{ bearerAuth: [] }],
    middleware: forScope('ops:read', 'admin', 'operator'),
    request: {
      query: cursorQuery.extend({
        type: text({ max: 128 }).optional(),
        status: z.enum(['running', 'succeeded', 'failed']).optional(),
        caller: text({ max: 128 }).optional(),
      }),
    },
    responses: {
      200: success(z.array(summarySchema), { pagination: 'cursor', example: [SUMMARY] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  get: createRoute({
    method: 'get',
    path: '/operations/{id}',
    operationId: 'getOperation',
    tags: ['Operations'],
    summary: 'What became of a request',
    description:
      'For its caller, admins and operators; one that was made without credentials, for whoever holds its id. Operators see no `result` but their own. Anyone else gets 404, as for an id that was never issued. How long a worker took over a request that was made without credentials is shown to admins and operators only: others get no `started_at`, a `finished_at` in whole seconds after `created_at`, and their answer when the operation is 300 ms old at the earliest.',
    security: [{ bearerAuth: [] }, {}],
    middleware: [rateLimit('user')],
    request: { ...byId, headers: prefer },
    responses: {
      200: success(operationSchema, { description: 'How far it is.', example: EXAMPLE }),
      ...errorResponses(400, 404, 429, 503),
    },
  }),
  trail: createRoute({
    method: 'get',
    path: '/operations/{id}/trail',
    operationId: 'getOperationTrail',
    tags: ['Operations'],
    summary: 'Every hop that a request caused',
    description:
      'For its caller, admins and operators. Endpoints, addresses and the content of audit rows are shown to admins and operators only.',
    security: [{ bearerAuth: [] }],
    middleware: forUsersOr('any'),
    request: byId,
    responses: {
      200: success(z.object({ operation: operationSchema, hops: z.array(hopSchema), truncated: z.boolean() }), {
        example: { operation: EXAMPLE, hops: HOP_EXAMPLES, truncated: false },
      }),
      ...errorResponses(400, 401, 404, 429, 503),
    },
  }),
};

/** `/operations`: requests that were accepted, what became of them, and every hop they caused. */
export function operationRoutes(deps: OperationDeps): ApiRouter {
  const router = createRouter();

  router.openapi(routes.list, async (c) => {
    const { limit, cursor, ...filter } = c.req.valid('query');
    const before = cursor === undefined ? undefined : fromCursor(cursor);
    const found = await listOperations(deps.database.em.fork(), filter, limit + 1, before);
    const page = found.slice(0, limit);
    const last = page.at(-1);
    const more = found.length > limit && last !== undefined;
    const next_cursor = more ? toCursor(last.operation_id) : null;
    return ok(c, page, { pagination: { limit, has_more: more, next_cursor } });
  });

  router.openapi(routes.get, async (c) => {
    const { id } = c.req.valid('param');
    const preferences = preferencesOf(c.req.header('prefer'));
    const wait = preferences.waitMs ?? 0;
    const began = performance.now();
    let seen = await look(c, deps, id, mayRead, { withinMs: wait });
    if (wait === 0 && isDiscreet(c, seen.row) && (await grown(id))) seen = await look(c, deps, id, mayRead);
    const left = wait - (performance.now() - began);
    if (!isFinished(seen.record) && left > 0)
      seen = await look(c, deps, id, mayRead, { waitMs: left, before: seen.row });
    if (isDiscreet(c, seen.row)) await grown(id);
    acknowledge(c, { ...preferences, applied: preferences.applied.filter((name) => name.startsWith('wait=')) });
    return ok(c, seen.record, isFinished(seen.record) ? {} : { headers: { 'Retry-After': '1' } });
  });

  router.openapi(routes.trail, async (c) => {
    const { id } = c.req.valid('param');
    const { row, record } = await look(c, deps, id, mayFollow);
    const full = isStaff(c) && c.get('client') === undefined;
    const found = await trail(() => deps.database.em.fork(), { correlationId: id, operation: { id, row }, full });
    return ok(c, { operation: record, ...found });
  });

  return router;
}

const isFinished = (record: OperationRecord) => record.status === 'succeeded' || record.status === 'failed';

const isStaff = (c: ApiContext): boolean => isAllowed(c, { roles: ['admin', 'operator'], scope: 'ops:read' });

const isCaller = (c: ApiContext, row: OperationRow): boolean => {
  const { actor } = c.get('context');
  return actor.type !== 'anonymous' && row.caller === actorText(actor);
};

/** Nobody knows whose an operation without a row is: its id, which cannot be guessed, is all there is. */
const mayRead = (c: ApiContext, row: OperationRow | undefined): boolean =>
  row === undefined || row.caller === 'anonymous' || isStaff(c) || isCaller(c, row);

const mayFollow = (c: ApiContext, row: OperationRow | undefined): boolean =>
  isStaff(c) || (row !== undefined && isCaller(c, row));

/**
 * How long a worker took may tell whether an address has an account, so of what was asked for without credentials only
 * those who run the platform see it. Without a row nobody knows yet who asked.
 */
const isDiscreet = (c: ApiContext, row: OperationRow | undefined): boolean =>
  !isStaff(c) && (row === undefined || row.caller === 'anonymous');

/** Waits until an operation is old enough for its answer to say nothing about its worker; whether there was any waiting. */
async function grown(id: string): Promise<boolean> {
  const left = Math.min(DISCREET_MS, timeOfId(id) + DISCREET_MS - currentTime());
  if (left > 0) await pause(left);
  return left > 0;
}

/** A result may be personal (a new account's address): whoever only runs the platform does without it. */
function shownTo(c: ApiContext, row: OperationRow): OperationRecord {
  const { result, ...rest } = isDiscreet(c, row) ? discreetRecord(row) : operationRecord(row);
  const whole = !isStaff(c) || c.get('session')?.role === 'admin' || isCaller(c, row);
  return whole && result !== undefined ? { ...rest, result } : rest;
}

/**
 * The operation as it is, or as it is once finished or `waitMs` are over; as it was `before`, or as if no worker had
 * written of it, when PostgreSQL does not tell in time. 404 for whoever may not see it.
 */
async function look(
  c: ApiContext,
  deps: OperationDeps,
  id: string,
  may: (c: ApiContext, row: OperationRow | undefined) => boolean,
  {
    waitMs = 0,
    withinMs = waitMs,
    before,
  }: { waitMs?: number; withinMs?: number; before?: OperationRow | undefined } = {},
): Promise<{ row: OperationRow | undefined; record: OperationRecord }> {
  const row = (await deps.commands.await(id, waitMs, withinMs)) ?? before;
  const issued = row ? undefined : deps.operationIds.read(id);
  const known =
    row !== undefined || (issued !== undefined && issued.at > currentTime() - deps.config.retention.operations);
  if (!known || !may(c, row)) refuse('NOT_FOUND', 'there is no such operation');
  return { row, record: row ? shownTo(c, row) : acceptedRecord(id, issued) };
}

/** A cursor is the last id of its page, wrapped so that nobody builds one. */
const toCursor = (id: string): string => Buffer.from(id).toString('base64url');

function fromCursor(cursor: string): string {
  const id = Buffer.from(cursor, 'base64url').toString();
  return isUuid(id) ? id : refuse('VALIDATION_ERROR', 'cursor is not one of this list', { field: 'cursor' });
}
