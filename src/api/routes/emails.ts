import { createRoute, z } from '@hono/zod-openapi';
import { EMAIL_STATUSES, type EmailRecord, listEmails } from '../../domain/emails/list.ts';
import { resendEmail } from '../../domain/emails/resend.ts';
import { TEMPLATE_NAMES } from '../../domain/emails/templates.ts';
import { isUuid, uuid } from '../../domain/ids.ts';
import { refuse } from '../../domain/problem.ts';
import type { ApiDeps } from '../deps.ts';
import { forScope } from '../middleware/authenticate.ts';
import { ok } from '../respond.ts';
import { type ApiContext, type ApiRouter, createRouter } from '../router.ts';
import { cursorQuery, errorResponses, success, timestamp } from '../schemas.ts';

const emailSchema = z
  .object({
    id: uuid,
    user_id: uuid.nullable(),
    to: z.string().nullable().openapi({ description: 'For administrators alone; `null` for anyone else.' }),
    template: z.string(),
    subject: z.string(),
    status: z.enum(EMAIL_STATUSES),
    attempts: z.int(),
    last_error: z.string().nullable().openapi({ description: 'Why the last attempt failed, without addresses.' }),
    next_attempt_at: timestamp.nullable(),
    sent_at: timestamp.nullable(),
    created_at: timestamp,
  })
  .openapi('Email');

const EXAMPLE = {
  id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  user_id: '019a9f3e-6b00-7a11-8e22-3f4455667788',
  to: 'ada@example.com',
  template: 'verify-email',
  subject: 'Confirm your e-mail address',
  status: 'sent',
  attempts: 1,
  last_error: null,
  next_attempt_at: null,
  sent_at: '2026-11-20T10:15:31.000Z',
  created_at: '2026-11-20T10:15:30.000Z',
};

const routes = {
  list: createRoute({
    method: 'get',
    path: '/admin/emails',
    operationId: 'listEmails',
    tags: ['Operating'],
    summary: 'E-mails, the newest first',
    security: [{ bearerAuth: [] }],
    middleware: forScope('ops:read', 'admin', 'operator'),
    request: {
      query: cursorQuery.extend({
        status: z.enum(EMAIL_STATUSES).optional(),
        template: z.enum(TEMPLATE_NAMES).optional(),
        user_id: uuid.optional(),
        created_after: timestamp.optional(),
        created_before: timestamp.optional(),
      }),
    },
    responses: {
      200: success(z.array(emailSchema), { pagination: 'cursor', example: [EXAMPLE] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  retry: createRoute({
    method: 'post',
    path: '/admin/emails/{id}/retry',
    operationId: 'retryEmail',
    tags: ['Operating'],
    summary: 'Send a failed e-mail again',
    description:
      'Gives it a new round of attempts under the same Message-ID. 409 when it was sent, is still being tried, or its content is not kept any more.',
    security: [{ bearerAuth: [] }],
    middleware: forScope('ops:write', 'admin', 'operator'),
    request: { params: z.object({ id: uuid }) },
    responses: {
      200: success(emailSchema, {
        example: { ...EXAMPLE, status: 'pending', attempts: 0, next_attempt_at: EXAMPLE.sent_at, sent_at: null },
      }),
      ...errorResponses(400, 401, 403, 404, 409, 429, 503),
    },
  }),
};

/** What was, is being and could not be sent: `/admin/emails`, for admins, operators and API keys. */
export function emailRoutes(deps: Pick<ApiDeps, 'database' | 'transact'>): ApiRouter {
  const router = createRouter();

  router.openapi(routes.list, async (c) => {
    const { limit, cursor, status, template, user_id, created_after, created_before } = c.req.valid('query');
    const filter = { status, template, userId: user_id, createdAfter: created_after, createdBefore: created_before };
    const found = await listEmails(deps.database.em.fork(), filter, limit + 1, cursor && fromCursor(cursor));
    const page = found.slice(0, limit);
    const last = page.at(-1);
    const more = found.length > limit && last !== undefined;
    return ok(c, page.map(shownTo(c)), {
      pagination: { limit, has_more: more, next_cursor: more ? toCursor(last.id) : null },
    });
  });

  router.openapi(routes.retry, async (c) => {
    const { id } = c.req.valid('param');
    return ok(c, shownTo(c)(await deps.transact(c.get('context'), (unit) => resendEmail(unit, id))));
  });

  return router;
}

/** Whoever runs the platform needs no addresses. */
const shownTo =
  (c: ApiContext) =>
  (email: EmailRecord): Omit<EmailRecord, 'to'> & { to: string | null } =>
    c.get('session')?.role === 'admin' ? email : { ...email, to: null };

/** A cursor is the last id of its page, wrapped so that nobody builds one. */
const toCursor = (id: string): string => Buffer.from(id).toString('base64url');

function fromCursor(cursor: string): string {
  const id = Buffer.from(cursor, 'base64url').toString();
  return isUuid(id) ? id : refuse('VALIDATION_ERROR', 'cursor is not one of this list', { field: 'cursor' });
}
