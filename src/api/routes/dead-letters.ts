import { createRoute, z } from '@hono/zod-openapi';
import {
  DEAD_LETTER_STATUSES,
  getDeadLetter,
  listDeadLetters,
  matchDeadLetters,
} from '../../domain/dead-letters/list.ts';
import { discardDeadLetter, discardDeadLetters } from '../../domain/dead-letters/resolve.ts';
import { uuid } from '../../domain/ids.ts';
import type { Replay } from '../../queues/replay.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { cursorQuery, errorResponses, jsonBody, success, text, timestamp } from '../schemas.ts';

/** The most that one bulk request resolves; the rest waits for the next one. */
const MAX_BULK = 1000;

const filterFields = {
  queue: text({ max: 200 }).optional().openapi({ description: 'Where it died.' }),
  worker: text({ max: 100 }).optional(),
  type: text({ max: 200 }).optional().openapi({ description: 'Of the message, such as `user.register`.' }),
  reason: text({ max: 500 }).optional().openapi({ description: 'A part of the reason, whatever its case.' }),
  message_id: text({ max: 255 }).optional(),
  correlation_id: text({ max: 255 }).optional().openapi({ description: 'The operation that it belongs to.' }),
  created_after: timestamp.optional(),
  created_before: timestamp.optional(),
};

const deadLetterSchema = z
  .object({
    id: uuid,
    queue: z.string(),
    worker: z.string().nullable(),
    message_type: z.string().nullable(),
    message_id: z.string().nullable(),
    operation_id: z.string().nullable(),
    reason: z.string(),
    attempts: z.int(),
    first_error: z.string().nullable(),
    last_error: z.string().nullable(),
    status: z.enum(DEAD_LETTER_STATUSES),
    created_at: timestamp,
    resolved_at: timestamp.nullable().openapi({ description: 'When it was replayed or discarded.' }),
  })
  .openapi('DeadLetter');

const detailSchema = deadLetterSchema
  .extend({
    headers: z.record(z.string(), z.unknown()),
    body: z.unknown().openapi({
      description:
        'Parsed when it is JSON, else text. What is sealed stays sealed. For administrators alone; `null` for anyone else.',
    }),
    body_bytes: z.int(),
    body_truncated: z.boolean().openapi({ description: 'Only the first 256 KiB are shown, as text.' }),
  })
  .openapi('DeadLetterWithMessage');

const EXAMPLE = {
  id: '019a9f3e-7a00-7b22-8d33-4e5f60718293',
  queue: 'waybill.registration.v1',
  worker: 'register-user',
  message_type: 'user.register',
  message_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  operation_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  reason: 'gave up after 5 attempts: the disk is full',
  attempts: 5,
  first_error: 'the disk is full',
  last_error: 'the disk is full',
  status: 'dead',
  created_at: '2026-11-20T10:15:31.000Z',
  resolved_at: null,
};
const DETAIL = {
  ...EXAMPLE,
  headers: { 'x-waybill-attempt': 5 },
  body: { specversion: '1.0', type: 'user.register', data: { email: 'ada@example.com', password: 'eyJhbGciOi…' } },
  body_bytes: 412,
  body_truncated: false,
};
const RESOLVED = { ...EXAMPLE, resolved_at: '2026-11-20T10:20:00.000Z' };

const bulkSchema = z.strictObject({
  filter: z.strictObject(filterFields).openapi({ description: 'All that wait for a decision when empty.' }),
  dry_run: z.boolean().default(false).openapi({ description: 'Only counts what matches.' }),
  limit: z.int().min(1).max(MAX_BULK).default(MAX_BULK),
});
const BULK = { filter: { queue: 'waybill.registration.v1', reason: 'disk is full' }, dry_run: true };

const tags = ['Operating'];
const security = [{ bearerAuth: [] }];
const params = z.object({ id: uuid });
const reads = () => forScope('ops:read', 'admin', 'operator');
const writes = () => forScope('ops:write', 'admin', 'operator');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/admin/dead-letters',
    operationId: 'listDeadLetters',
    tags,
    summary: 'Messages that could not be handled, the newest first',
    security,
    middleware: reads(),
    request: {
      query: cursorQuery.extend({ ...filterFields, status: z.enum(DEAD_LETTER_STATUSES).default('dead') }),
    },
    responses: {
      200: success(z.array(deadLetterSchema), { pagination: 'cursor', example: [EXAMPLE] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  get: createRoute({
    method: 'get',
    path: '/admin/dead-letters/{id}',
    operationId: 'getDeadLetter',
    tags,
    summary: 'A dead letter with its message',
    security,
    middleware: reads(),
    request: { params },
    responses: { 200: success(detailSchema, { example: DETAIL }), ...errorResponses(400, 401, 403, 404, 429, 503) },
  }),
  replay: createRoute({
    method: 'post',
    path: '/admin/dead-letters/{id}/replay',
    operationId: 'replayDeadLetter',
    tags,
    summary: 'Hand a dead letter to its worker again',
    description:
      'Publishes the same message, under the same id, to the queue in which it died, with its attempts counted anew. The operation of a command is open again. 409 when it was replayed or discarded already, or its queue is gone.',
    security,
    middleware: writes(),
    request: { params },
    responses: {
      200: success(deadLetterSchema, { example: { ...RESOLVED, status: 'replayed' } }),
      ...errorResponses(400, 401, 403, 404, 409, 429, 503),
    },
  }),
  discard: createRoute({
    method: 'post',
    path: '/admin/dead-letters/{id}/discard',
    operationId: 'discardDeadLetter',
    tags,
    summary: 'Decide that a dead letter is not handled any more',
    description: 'The letter stays to be read until its retention is over. 409 when it was resolved already.',
    security,
    middleware: writes(),
    request: {
      params,
      body: {
        required: false,
        content: { 'application/json': { schema: z.strictObject({ reason: text({ max: 500 }).optional() }) } },
      },
    },
    responses: {
      200: success(deadLetterSchema, { example: { ...RESOLVED, status: 'discarded' } }),
      ...errorResponses(400, 401, 403, 404, 409, 413, 415, 429, 503),
    },
  }),
  replayMany: createRoute({
    method: 'post',
    path: '/admin/dead-letters/replay',
    operationId: 'replayDeadLetters',
    tags,
    summary: 'Replay what matches, the oldest first',
    description:
      'At most `limit`; `matched` counts all that match. Letters whose queue is gone are left as they are and are not counted as replayed. After a 503 the same request goes on where it ended.',
    security,
    middleware: writes(),
    request: { body: jsonBody(bulkSchema, BULK) },
    responses: {
      200: success(z.object({ matched: z.int(), replayed: z.int(), dry_run: z.boolean() }), {
        example: { matched: 12, replayed: 0, dry_run: true },
      }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
  discardMany: createRoute({
    method: 'post',
    path: '/admin/dead-letters/discard',
    operationId: 'discardDeadLetters',
    tags,
    summary: 'Discard what matches, the oldest first',
    description: 'At most `limit`; `matched` counts all that match.',
    security,
    middleware: writes(),
    request: { body: jsonBody(bulkSchema.extend({ reason: text({ max: 500 }).optional() }), BULK) },
    responses: {
      200: success(z.object({ matched: z.int(), discarded: z.int(), dry_run: z.boolean() }), {
        example: { matched: 12, discarded: 0, dry_run: true },
      }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
};

/** `/admin/dead-letters`: what could not be handled, and what becomes of it; for admins and operators. */
export function deadLetterRoutes(
  deps: Pick<ApiDeps, 'database' | 'transact'> & { replay: Pick<Replay, 'one' | 'many'> },
): ApiRouter {
  const router = createRouter();

  router.openapi(routes.list, async (c) => {
    const { limit, cursor, status, ...filter } = c.req.valid('query');
    const page = await listDeadLetters(deps.database.em.fork(), filter, { status, limit, cursor });
    return ok(c, page.rows, {
      pagination: { limit, has_more: page.nextCursor !== null, next_cursor: page.nextCursor },
    });
  });

  // Before the routes with an id, which would take their names for one.
  router.openapi(routes.replayMany, async (c) => {
    const { filter, dry_run, limit } = c.req.valid('json');
    const { ids, matched } = await matchDeadLetters(deps.database.em.fork(), filter, limit);
    const replayed = dry_run ? 0 : await deps.replay.many(c.get('context'), ids);
    return ok(c, { matched, replayed, dry_run });
  });

  router.openapi(routes.discardMany, async (c) => {
    const { filter, dry_run, limit, reason } = c.req.valid('json');
    const { ids, matched } = await matchDeadLetters(deps.database.em.fork(), filter, limit);
    const records = dry_run
      ? []
      : await deps.transact(c.get('context'), (unit) => discardDeadLetters(unit, ids, reason));
    return ok(c, { matched, discarded: records.length, dry_run });
  });

  router.openapi(routes.get, async (c) => {
    const { id } = c.req.valid('param');
    const letter = await getDeadLetter(deps.database.em.fork(), id);
    // What a message holds may be personal: whoever only runs the platform does without it.
    return ok(c, c.get('session')?.role === 'admin' ? letter : { ...letter, body: null });
  });

  router.openapi(routes.replay, async (c) => {
    const { id } = c.req.valid('param');
    return ok(c, await deps.replay.one(c.get('context'), id));
  });

  router.openapi(routes.discard, async (c) => {
    const { id } = c.req.valid('param');
    const { reason } = c.req.valid('json');
    return ok(c, await deps.transact(c.get('context'), (unit) => discardDeadLetter(unit, id, reason)));
  });

  return router;
}
