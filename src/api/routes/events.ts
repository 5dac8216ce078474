import { createRoute, z } from '@hono/zod-openapi';
import { findEvent, InvalidEventCursor, listEvents } from '../../domain/events/events.ts';
import {
  CHANNEL,
  EVENT_ID,
  type EventInput,
  MAX_BATCH,
  MAX_CHANNELS,
  type Publication,
  preparePublication,
} from '../../domain/events/publication.ts';
import type { TypeLookup } from '../../domain/events/type-directory.ts';
import { isUuid, timeOfId } from '../../domain/ids.ts';
import type { Contract, EnvelopeOptions } from '../../domain/messages/contracts.ts';
import { actorText, type RequestContext } from '../../domain/messages/envelope.ts';
import { trail } from '../../domain/operations/trail.ts';
import { refuse } from '../../domain/problem.ts';
import { pause } from '../../services/service.ts';
import { acknowledge } from '../command.ts';
import type { ApiDeps } from '../deps.ts';
import { prepareBatch } from '../event-batch.ts';
import { HOP_EXAMPLES, hopSchema } from '../hops.ts';
import { forScope } from '../middleware/authenticate.ts';
import { allowBody } from '../middleware/well-formed.ts';
import { moment } from '../moment.ts';
import { preferencesOf } from '../preferences.ts';
import { ok } from '../respond.ts';
import { type ApiContext, type ApiRouter, createRouter, refusalOf } from '../router.ts';
import { cursorQuery, errorResponses, jsonBody, success, text, timestamp } from '../schemas.ts';
import { tenantOf, tenantQuery } from '../tenant.ts';

export interface EventDeps extends Pick<ApiDeps, 'database'> {
  eventTypes: {
    /** What a tenant's clients may publish. */
    find(tenant: string, names: readonly string[]): Promise<TypeLookup>;
  };
  messaging: {
    /** Resolves with the broker's confirm. Throws `BrokerUnavailable`. */
    publishEvent<T>(
      contract: Contract<T>,
      data: T,
      context: RequestContext,
      options: EnvelopeOptions & { id: string; tenant: string },
    ): Promise<void>;
  };
}

/** The data of one event may have 256 KiB; the rest is for its other members and for escapes that make JSON longer. */
const BODY_BYTES = 384 * 1024;
const BATCH_BYTES = 4 * 1024 * 1024;

/** How long an event that is not there yet is waited for, in ms: unasked, and at most. */
const WAIT_MS = 2000;
const LONGEST_WAIT_MS = 10_000;
/** Requests of one tenant that wait at once in a process, and of all; the others are answered at once. Each asks the database every 200 ms. */
const MAX_WAITING = 64;
const MOST_WAITING = 256;
/** An id of ours that is older than this was stored long ago, or is none. */
const YOUNG_MS = 60_000;

export const eventInput = z
  .strictObject({
    type: text({ max: 128 }).openapi({ example: 'payment.succeeded' }),
    data: z.record(z.string(), z.unknown()),
    id: z
      .string()
      .regex(EVENT_ID, 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -')
      .optional()
      .openapi({ description: 'The same id again is the same event: the first data wins.', example: 'pay_7f3a-1' }),
    ordering_key: text({ max: 128, trim: false }).optional().openapi({
      description: 'Events of one key reach `ordered` endpoints one at a time, in the order of acceptance.',
    }),
    channels: z
      .array(z.string().regex(CHANNEL, 'must be 1 to 64 of letters, digits, _, . and -'))
      .max(MAX_CHANNELS)
      .optional()
      .openapi({ description: 'Endpoints that name channels get only events that share one.', example: ['eu'] }),
  })
  .openapi('EventInput');

/** Its events are checked one by one (`prepareBatch`), so that a refusal tells of all of them. */
const batchInput = z.strictObject({
  events: z
    .array(z.unknown(), { error: 'must be a list' })
    .min(1, { error: `must have 1 to ${MAX_BATCH}` })
    .max(MAX_BATCH, { error: `must have 1 to ${MAX_BATCH}`, abort: true })
    .openapi({ items: { $ref: '#/components/schemas/EventInput' } }),
});

const eventSchema = z
  .object({
    id: z.string(),
    type: z.string(),
    tenant: z.string(),
    time: timestamp,
    data: z.record(z.string(), z.unknown()),
    source: z.string().openapi({
      description:
        '`client`: published through the API; `waybill`: the platform’s own; `test`: sent to one endpoint by hand.',
    }),
    subject: z.string().nullable(),
    sequence: z.int().nullable(),
    ordering_key: z.string().nullable(),
    channels: z.array(z.string()),
    created_at: timestamp,
  })
  .openapi('Event');

const storedSchema = eventSchema
  .extend({
    deliveries: z
      .object({ pending: z.int(), delivered: z.int(), failed: z.int(), held: z.int() })
      .openapi({ description: 'By state; a delivery on its first attempt is not counted yet.' }),
  })
  .openapi('EventWithDeliveries');

const followedSchema = storedSchema
  .extend({ data: storedSchema.shape.data.nullable().openapi({ description: '`null` for operators.' }) })
  .openapi('FollowedEvent');

const EXAMPLE = {
  id: 'pay_7f3a-1',
  type: 'payment.succeeded',
  tenant: 'default',
  time: '2026-11-20T10:15:30.000Z',
  data: { payment_id: 'pay_7f3a', amount: 19.9, currency: 'EUR' },
  source: 'client',
  subject: null,
  sequence: null,
  ordering_key: null,
  channels: [],
  created_at: '2026-11-20T10:15:30.014Z',
};
const INPUT = { type: EXAMPLE.type, data: EXAMPLE.data, id: EXAMPLE.id };

const shared = { tags: ['Webhooks'], security: [{ bearerAuth: [] }] };
const byId = {
  params: z.object({ id: text({ max: 128, trim: false }) }),
  query: tenantQuery,
  headers: z.object({
    prefer: z.string().optional().openapi({
      description: '`wait=n` waits up to n seconds (0 to 10) for an event that is not stored yet.',
      example: 'wait=5',
    }),
  }),
};
const NOT_YET =
  'The fan-out stores an event a moment after it was accepted. One that is not there yet is waited for, up to 2 s or what `Prefer: wait=n` says; an id that the platform made more than a minute ago is not. 404: there is no such event in this tenant, or it is on its way still and a repeat will find it.';
const keyHeader = z.object({
  'idempotency-key': z.string().optional().openapi({
    description: 'Stands for the `id` of each event that has none, so that a repeat is the same event.',
    example: 'checkout-7f3a',
  }),
});

const routes = {
  publish: createRoute({
    ...shared,
    method: 'post',
    path: '/events',
    operationId: 'publishEvent',
    summary: 'Publish an event',
    description:
      'Checked against the schema of its type in the catalogue, then handed to the broker; 202 means that the broker has confirmed it. The platform’s own types cannot be published. `data` may have 256 KiB.',
    middleware: [...forScope('events:write'), allowBody(BODY_BYTES)],
    request: { query: tenantQuery, headers: keyHeader, body: jsonBody(eventInput, INPUT) },
    responses: {
      202: success(z.object({ event_id: z.string() }), { description: 'Accepted.', example: { event_id: EXAMPLE.id } }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
  publishBatch: createRoute({
    ...shared,
    method: 'post',
    path: '/events/batch',
    operationId: 'publishEvents',
    summary: 'Publish up to 100 events',
    description:
      'All are checked before any is published: one bad event and none is accepted. `error.details` names every bad one, `{index,field,message}` by index, at most 5 faults of each; `PAYLOAD_TOO_LARGE` when the only fault is too much `data`. An `id` that comes twice is one event, the first. After a 503 some may have been published: events with an `id`, and those under an `Idempotency-Key`, can be sent again safely.',
    middleware: [...forScope('events:write'), allowBody(BATCH_BYTES)],
    request: {
      query: tenantQuery,
      headers: keyHeader,
      body: jsonBody(batchInput, { events: [INPUT] }),
    },
    responses: {
      202: success(z.object({ event_ids: z.array(z.string()) }), {
        description: 'Accepted; the ids in the order of the events.',
        example: { event_ids: [EXAMPLE.id] },
      }),
      ...errorResponses(400, 401, 403, 413, 415, 429, 503),
    },
  }),
  list: createRoute({
    ...shared,
    method: 'get',
    path: '/events',
    operationId: 'listEvents',
    summary: 'Events, the newest first',
    middleware: forScope('events:read'),
    request: {
      query: cursorQuery.extend({
        ...tenantQuery.shape,
        type: text({ max: 128 }).optional(),
        created_after: moment.optional(),
        created_before: moment.optional(),
      }),
    },
    responses: {
      200: success(z.array(eventSchema), { pagination: 'cursor', example: [EXAMPLE] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  get: createRoute({
    ...shared,
    method: 'get',
    path: '/events/{id}',
    operationId: 'getEvent',
    summary: 'An event and how its deliveries stand',
    description: NOT_YET,
    middleware: forScope('events:read'),
    request: byId,
    responses: {
      200: success(storedSchema, {
        example: { ...EXAMPLE, deliveries: { pending: 0, delivered: 2, failed: 0, held: 0 } },
      }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
  trail: createRoute({
    ...shared,
    method: 'get',
    path: '/events/{id}/trail',
    operationId: 'getEventTrail',
    summary: 'Every hop of an event',
    description:
      'From its publication to the last attempt of each delivery. `event` is `null` for one that is known only by a hop so far: it waits for the broker, or lies in the dead letters.',
    middleware: forScope('events:read', 'admin', 'operator'),
    request: byId,
    responses: {
      200: success(z.object({ event: followedSchema.nullable(), hops: z.array(hopSchema), truncated: z.boolean() }), {
        example: {
          event: { ...EXAMPLE, deliveries: { pending: 0, delivered: 1, failed: 0, held: 0 } },
          hops: HOP_EXAMPLES.slice(2),
          truncated: false,
        },
      }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
};

/** `/events`: what clients publish to subscribers, and what became of each. */
export function eventRoutes(deps: EventDeps): ApiRouter {
  const router = createRouter();
  const publish = (c: ApiContext, { contract, data, options }: Publication) =>
    deps.messaging.publishEvent(contract, data, c.get('context'), options);

  /** How many wait, by tenant. */
  const waiting = new Map<string, number>();
  let allWaiting = 0;

  /** The event, waited for when it may have been accepted just now. `undefined` when it is not there by then. */
  async function lookUp(c: ApiContext, tenant: string, id: string) {
    const find = () => findEvent(deps.database.em.fork(), tenant, id);
    const preferences = preferencesOf(c.req.header('prefer'));
    const asked = preferences.waitMs === undefined ? undefined : Math.min(preferences.waitMs, LONGEST_WAIT_MS);
    if (asked !== undefined) acknowledge(c, { ...preferences, applied: [`wait=${asked / 1000}`] });
    const found = await find();
    const waitMs = asked ?? (mayBeYoung(id) ? WAIT_MS : 0);
    const others = waiting.get(tenant) ?? 0;
    if (found || waitMs === 0 || others >= MAX_WAITING || allWaiting >= MOST_WAITING) return found;
    waiting.set(tenant, others + 1);
    allWaiting += 1;
    try {
      return await poll(find, waitMs, c.req.raw.signal);
    } finally {
      allWaiting -= 1;
      const left = (waiting.get(tenant) ?? 1) - 1;
      if (left > 0) waiting.set(tenant, left);
      else waiting.delete(tenant);
    }
  }

  router.openapi(routes.publish, async (c) => {
    const who = publisherOf(c, tenantOf(c, c.req.valid('query').tenant));
    const input: EventInput = c.req.valid('json');
    const types = await deps.eventTypes.find(who.tenant, [input.type]);
    const publication = checked(() => preparePublication(input, who, types));
    await publish(c, publication);
    return ok(c, { event_id: publication.options.id }, { status: 202, ...warning([publication]) });
  });

  router.openapi(routes.publishBatch, async (c) => {
    const { events } = c.req.valid('json');
    const who = publisherOf(c, tenantOf(c, c.req.valid('query').tenant));
    const publications = await prepareBatch(events, who, eventInput, (names) =>
      deps.eventTypes.find(who.tenant, names),
    );
    // Of two with one id the first counts, so the second need not travel.
    const once = new Map<string, Publication>();
    for (const publication of publications) {
      const { id } = publication.options;
      if (!once.has(id)) once.set(id, publication);
    }
    await Promise.all([...once.values()].map((publication) => publish(c, publication)));
    const event_ids = publications.map(({ options }) => options.id);
    return ok(c, { event_ids }, { status: 202, ...warning(publications) });
  });

  router.openapi(routes.list, async (c) => {
    const { tenant, limit, cursor, type, created_after, created_before } = c.req.valid('query');
    const filter = { tenant: tenantOf(c, tenant), type, createdAfter: created_after, createdBefore: created_before };
    const { events, nextCursor } = await listEvents(deps.database.em.fork(), filter, limit, cursor).catch(
      (error: unknown) => {
        if (error instanceof InvalidEventCursor)
          refuse('VALIDATION_ERROR', 'cursor is not one of this list', { field: 'cursor' });
        throw error;
      },
    );
    return ok(c, events, { pagination: { limit, has_more: nextCursor !== null, next_cursor: nextCursor } });
  });

  router.openapi(routes.get, async (c) => {
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    return ok(c, (await lookUp(c, tenant, c.req.valid('param').id)) ?? unknownEvent());
  });

  router.openapi(routes.trail, async (c) => {
    const id = c.req.valid('param').id;
    const tenant = tenantOf(c, c.req.valid('query').tenant);
    // Where endpoints are is no business of a key that may only read events.
    const full = c.get('client') === undefined;
    const follow = () => trail(() => deps.database.em.fork(), { event: { tenant, id }, full });
    let event = await findEvent(deps.database.em.fork(), tenant, id);
    let found = await follow();
    if (!event && found.hops.length === 0) {
      event = (await lookUp(c, tenant, id)) ?? unknownEvent();
      found = await follow();
    }
    // Operators follow what happens; what it is about may be personal.
    const hidden = c.get('session')?.role === 'operator' ? { data: null } : {};
    return ok(c, { event: event ? { ...event, ...hidden } : null, ...found });
  });

  return router;
}

const unknownEvent = (): never => refuse('NOT_FOUND', 'there is no such event, or it is still on its way');

/** An id that a client gave says nothing of its age. */
const mayBeYoung = (id: string): boolean =>
  EVENT_ID.test(id) && (!isUuid(id) || id[14] !== '7' || timeOfId(id) > Date.now() - YOUNG_MS);

/** Asks again, after 25 ms first and each 200 ms in the end, until there is something, `ms` are over or nobody listens. */
async function poll<T>(find: () => Promise<T | undefined>, ms: number, gone: AbortSignal): Promise<T | undefined> {
  const end = performance.now() + ms;
  for (let step = 25; ; step = Math.min(step * 2, 200)) {
    const left = end - performance.now();
    if (left <= 0 || gone.aborted) return undefined;
    await pause(Math.min(step, left), gone);
    const found = await find();
    if (found) return found;
  }
}

/** Says that types are deprecated, in an answer that is a success all the same. */
function warning(publications: Publication[]): { message?: string } {
  const names = new Set(publications.filter(({ deprecated }) => deprecated).map(({ contract }) => contract.type));
  return names.size > 0 ? { message: `deprecated: ${[...names].join(', ')}` } : {};
}

const KEY = /^[\x20-\x7e]{1,255}$/;

function publisherOf(c: ApiContext, tenant: string): { tenant: string; caller: string; key?: string } {
  const key = c.req.header('idempotency-key');
  if (key !== undefined && !KEY.test(key))
    refuse('VALIDATION_ERROR', 'Idempotency-Key must be 1 to 255 printable ASCII characters', {
      field: 'Idempotency-Key',
    });
  return {
    tenant,
    caller: actorText(c.get('context').actor),
    ...(key === undefined ? {} : { key }),
  };
}

function checked<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw error instanceof z.ZodError ? refusalOf(error) : error;
  }
}
