import { z } from '@hono/zod-openapi';
import { PROBLEM_STATUS, type ProblemCode } from '../domain/problem.ts';

/** Neither PostgreSQL's text nor UTF-8 can hold these. */
const storable = (value: string) => !value.includes('\0') && value.isWellFormed();

/** A line or block of text, trimmed, without U+0000 and lone surrogates. Lengths are in UTF-16 code units. */
export function text(options: { min?: number; max: number; trim?: boolean }) {
  const base = options.trim === false ? z.string() : z.string().trim();
  return base
    .min(options.min ?? 1)
    .max(options.max, { abort: true })
    .refine(storable, 'holds a character that cannot be stored');
}

/** At most 255 characters; kept as given, compared without regard to case by whoever looks it up. */
export const email = z
  .string()
  .trim()
  .max(255, { abort: true })
  .regex(z.regexes.email, { error: 'must be an e-mail address', abort: true })
  .openapi({ type: 'string', format: 'email', maxLength: 255, example: 'ada@example.com' });

/** 8 to 128 characters, any of them; characters are Unicode code points, as people count them. */
export const password = z
  .string()
  .max(1024, { error: 'must have 8 to 128 characters', abort: true })
  .refine(
    (value) => storable(value) && [...value].length >= 8 && [...value].length <= 128,
    'must have 8 to 128 characters',
  )
  .openapi({
    type: 'string',
    format: 'password',
    minLength: 8,
    maxLength: 128,
    example: 'correct horse battery staple',
  });

/** A date and time of RFC 3339. */
export const timestamp = z.iso
  .datetime({ offset: true, error: 'must be an RFC 3339 time' })
  .openapi({ example: '2026-11-20T10:15:30.000Z' });

/** `true` or `false` in a query. */
export const queryFlag = z
  .enum(['true', 'false'])
  .transform((value) => value === 'true')
  .openapi({ type: 'boolean' });

const wholeNumber = (min: number, max: number, fallback: number) =>
  z
    .string()
    .regex(/^\d{1,9}$/, { error: `must be a whole number from ${min} to ${max}`, abort: true })
    .transform(Number)
    .refine((n) => n >= min && n <= max, `must be a whole number from ${min} to ${max}`)
    .default(fallback)
    .openapi({ type: 'integer', minimum: min, maximum: max, default: fallback });

/** `?page=&limit=&sort=&order=`; `.extend` it with the list's filters. */
export function pageQuery<const S extends readonly [string, ...string[]]>(sorts: S) {
  return z.object({
    page: wholeNumber(1, 1_000_000, 1),
    limit: wholeNumber(1, 100, 20),
    sort: z.enum(sorts).optional(),
    order: z.enum(['asc', 'desc']).default('desc'),
  });
}

/** `?limit=&cursor=` of the unbounded logs. */
export const cursorQuery = z.object({ limit: wholeNumber(1, 100, 20), cursor: text({ max: 1024 }).optional() });

/** A JSON body that must be there; `schema` should be a `z.strictObject`. */
export const jsonBody = <S extends z.ZodType>(schema: S, example?: unknown) => ({
  required: true as const,
  content: { 'application/json': { schema, ...(example === undefined ? {} : { example }) } },
});

const metaSchema = z.object({ timestamp, request_id: z.string() }).openapi('Meta', {
  example: { timestamp: '2026-11-20T10:15:30.000Z', request_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01' },
});

const pagePaginationSchema = z
  .object({
    page: z.int(),
    limit: z.int(),
    total_items: z.int(),
    total_pages: z.int(),
    has_next: z.boolean(),
    has_prev: z.boolean(),
  })
  .openapi('PagePagination');

const cursorPaginationSchema = z
  .object({ limit: z.int(), has_more: z.boolean(), next_cursor: z.string().nullable() })
  .openapi('CursorPagination');

const errorSchema = z
  .object({
    status: z.literal('error'),
    error: z.object({
      code: z.enum(Object.keys(PROBLEM_STATUS) as [ProblemCode, ...ProblemCode[]]),
      message: z.string(),
      field: z
        .string()
        .optional()
        .openapi({ description: 'The offending field, such as `document.expires_on` or `events[3].type`.' }),
      details: z.unknown().optional(),
      retry_after: z.number().optional().openapi({ description: 'Seconds.' }),
    }),
    meta: metaSchema,
  })
  .openapi('Error');

/** What `success` documents beside the data. */
export interface SuccessOptions {
  description?: string;
  /** An example of `data` alone; the envelope is put around it. */
  example?: unknown;
  pagination?: 'page' | 'cursor';
  headers?: z.ZodObject;
}

const META_EXAMPLE = { timestamp: '2026-11-20T10:15:30.000Z', request_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01' };
const PAGE_EXAMPLE = { page: 1, limit: 20, total_items: 1, total_pages: 1, has_next: false, has_prev: false };
const CURSOR_EXAMPLE = { limit: 20, has_more: false, next_cursor: null };

/** A documented success response: the envelope around `data`. */
export function success(data: z.ZodType, options: SuccessOptions = {}) {
  const { pagination } = options;
  const schema = z.object({
    status: z.literal('success'),
    data,
    message: z.string().optional(),
    ...(pagination ? { pagination: pagination === 'page' ? pagePaginationSchema : cursorPaginationSchema } : {}),
    meta: metaSchema,
  });
  const example = {
    status: 'success',
    data: options.example,
    ...(pagination ? { pagination: pagination === 'page' ? PAGE_EXAMPLE : CURSOR_EXAMPLE } : {}),
    meta: META_EXAMPLE,
  };
  return {
    description: options.description ?? 'Done.',
    ...(options.headers ? { headers: options.headers } : {}),
    content: { 'application/json': { schema, ...(options.example === undefined ? {} : { example }) } },
  };
}

const ERRORS = {
  400: {
    code: 'VALIDATION_ERROR',
    description: 'The request is not valid; `field` names what is wrong.',
    message: 'email is required',
    field: 'email',
  },
  401: {
    code: 'UNAUTHORIZED',
    description: 'Not signed in, or the token has expired or was revoked.',
    message: 'sign in to do this',
  },
  403: {
    code: 'FORBIDDEN',
    description: 'Signed in, but not allowed to do this.',
    message: 'this needs the role admin',
  },
  404: { code: 'NOT_FOUND', description: 'There is no such thing, or it is not yours to see.', message: 'not found' },
  409: {
    code: 'CONFLICT',
    description: 'It contradicts the present state.',
    message: 'this e-mail address is in use',
    field: 'email',
  },
  412: {
    code: 'PRECONDITION_FAILED',
    description: 'It was changed in the meantime.',
    message: 'the resource was changed in the meantime',
  },
  413: {
    code: 'PAYLOAD_TOO_LARGE',
    description: 'The body is larger than this route takes.',
    message: 'the body is larger than 65536 bytes',
  },
  415: {
    code: 'UNSUPPORTED_MEDIA_TYPE',
    description: 'The body is not application/json.',
    message: 'the body must be application/json',
  },
  422: {
    code: 'IDEMPOTENCY_KEY_REUSED',
    description: 'The idempotency key was used with another body.',
    message: 'this Idempotency-Key was used with another request',
  },
  429: {
    code: 'RATE_LIMIT_EXCEEDED',
    description: 'Too many requests; `Retry-After` says when to come back.',
    message: 'too many requests',
    retry_after: 42,
  },
  503: {
    code: 'SERVICE_UNAVAILABLE',
    description: 'A service that this needs is out of reach for the moment.',
    message: 'try again shortly',
    retry_after: 2,
  },
} as const;

export type DocumentedError = keyof typeof ERRORS;

/** `...errorResponses(400, 401, 404)` in a route's `responses`. */
export function errorResponses<const S extends DocumentedError[]>(...statuses: S) {
  const entries = statuses.map((status) => {
    const { description, ...error } = ERRORS[status];
    const example = { status: 'error', error, meta: META_EXAMPLE };
    return [status, { description, content: { 'application/json': { schema: errorSchema, example } } }] as const;
  });
  return Object.fromEntries(entries) as unknown as Record<
    S[number],
    { description: string; content: { 'application/json': { schema: typeof errorSchema } } }
  >;
}

/** The request headers of a command route (RFC 7240 and draft-ietf-httpapi-idempotency-key-header). */
export const commandHeaders = z.object({
  prefer: z.string().optional().openapi({
    description: '`respond-async` answers 202 at once; `wait=n` waits up to n seconds (0 to 30) for the result.',
    example: 'wait=10',
  }),
  'idempotency-key': z.string().optional().openapi({
    description:
      'At most 255 printable characters. An equal repeat within 24 hours gets the same answer and the work is done once.',
    example: 'signup-7f3a',
  }),
});

/** 202 of a route that hands its work to a worker. */
export function acceptedResponse(type: string) {
  const accepted = z
    .object({ operation_id: z.string(), type: z.string(), status: z.literal('accepted') })
    .openapi('AcceptedOperation');
  return {
    202: success(accepted, {
      description: 'Accepted and not finished yet; `Location` is where to follow it.',
      example: { operation_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01', type, status: 'accepted' },
    }),
  };
}

/** What every command route may answer besides its result: `...commandResponses('user.register')`. */
export const commandResponses = (type: string) => ({
  ...acceptedResponse(type),
  ...errorResponses(400, 413, 415, 422, 429, 503),
});
