import { createRoute, z } from '@hono/zod-openapi';
import { isUuid, uuid } from '../../domain/ids.ts';
import { CLAIM_MINUTES, claimKyc, releaseKyc } from '../../domain/kyc/claims.ts';
import { cancelKycCommand, DECISIONS, decideKycCommand, submitKycCommand } from '../../domain/kyc/messages.ts';
import { findCase, findOwnKyc, findToDecide, type HeldBy, listByStatus } from '../../domain/kyc/queries.ts';
import { submissionSchema } from '../../domain/kyc/submission.ts';
import { ATTEMPT_STATUSES, findTransition, KYC_STATUSES } from '../../domain/kyc/transitions.ts';
import { refuse } from '../../domain/problem.ts';
import { answerCommand } from '../command.ts';
import type { ApiDeps } from '../deps.ts';
import { forRoles, forUsers, sessionOf } from '../middleware/authenticate.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import {
  commandHeaders,
  commandResponses,
  cursorQuery,
  errorResponses,
  jsonBody,
  success,
  text,
  timestamp,
} from '../schemas.ts';

/** How long a sealed submission can be opened, in seconds: by then it was handled, or is a dead letter for good. */
const SEALED_FOR_S = 86_400;

const attemptSchema = z
  .object({
    id: uuid,
    status: z.enum(ATTEMPT_STATUSES),
    kyc_status: z.enum(KYC_STATUSES),
    reason: z.string().nullable(),
    provider: z.string(),
    country: z.string().nullable(),
    document_type: z.string().nullable(),
    expires_on: z.iso.date().nullable(),
    submitted_at: timestamp.nullable(),
    decided_at: timestamp.nullable(),
    created_at: timestamp,
    updated_at: timestamp,
  })
  .openapi('KycAttempt');

const reviewSchema = attemptSchema
  .extend({
    user_id: uuid,
    previous_id: uuid.nullable(),
    comment: z.string().nullable().openapi({ description: 'Internal; never shown to the user.' }),
    version: z.int(),
    claimed_by: uuid.nullable().openapi({ description: 'The reviewer who holds it; null when nobody does.' }),
    claimed_until: timestamp.nullable(),
  })
  .openapi('KycReview');

const transitionSchema = z
  .object({
    at: timestamp,
    from: z.enum(ATTEMPT_STATUSES).nullable(),
    to: z.enum(ATTEMPT_STATUSES),
    actor: z.string().openapi({ description: '`user:<id>`, `provider:<name>`, `clock` or `system`.' }),
    reason: z.string().nullable(),
    comment: z.string().nullable(),
  })
  .openapi('KycTransition');

const caseSchema = z
  .object({
    user_id: uuid,
    kyc_status: z.enum(KYC_STATUSES),
    attempts: z.array(reviewSchema.extend({ transitions: z.array(transitionSchema) })),
  })
  .openapi('KycCase');

const decisionBody = z
  .strictObject({
    status: z.enum(DECISIONS),
    reason: text({ max: 500 }).optional().openapi({ description: 'Shown to the user.' }),
    comment: text({ max: 2000 }).optional().openapi({ description: 'Internal.' }),
    attempt_id: uuid.optional().openapi({ description: 'Another attempt than the one that stands.' }),
  })
  .refine(({ status, reason }) => reason !== undefined || findTransition('in_review', status)?.reason !== 'required', {
    path: ['reason'],
    message: 'is required for this decision',
  });

const claimBody = z.strictObject({
  minutes: z
    .int()
    .min(CLAIM_MINUTES.min)
    .max(CLAIM_MINUTES.max)
    .optional()
    .openapi({ description: `How long the claim holds; ${CLAIM_MINUTES.default} when absent.` }),
});

const heldBy = z
  .union([z.enum(['me', 'any', 'none']), uuid.toLowerCase()])
  .optional()
  .openapi({ description: 'Claimed by the caller (`me`), by anybody, by nobody, or by the reviewer with this id.' });

const ATTEMPT = {
  id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
  status: 'in_review',
  kyc_status: 'pending',
  reason: null,
  provider: 'manual',
  country: 'PT',
  document_type: 'passport',
  expires_on: '2031-05-04',
  submitted_at: '2026-11-20T10:15:30.000Z',
  decided_at: null,
  created_at: '2026-11-20T10:15:30.000Z',
  updated_at: '2026-11-20T10:15:30.000Z',
};
const APPROVED = { ...ATTEMPT, status: 'approved', kyc_status: 'verified', decided_at: '2026-11-20T11:00:00.000Z' };
const REVIEW = {
  ...ATTEMPT,
  user_id: '019a9f3e-6b00-7a11-8e22-3f4455667788',
  previous_id: null,
  comment: null,
  version: 3,
  claimed_by: null,
  claimed_until: null,
};
const CLAIMED = {
  ...REVIEW,
  claimed_by: '019a9f3e-6a00-7000-8000-000000000007',
  claimed_until: '2026-11-20T11:15:00.000Z',
};
const MOVE = { from: 'processing', to: 'in_review', actor: 'provider:manual', reason: null, comment: null };
const SUBMISSION = {
  date_of_birth: '1990-04-12',
  country: 'PT',
  document: { type: 'passport', number: 'XK447199', expires_on: '2031-05-04' },
};

const shared = { tags: ['KYC'], security: [{ bearerAuth: [] }] };
const ofUser = { params: z.object({ id: uuid }) };
const ofAttempt = { params: z.object({ id: uuid }) };

const routes = {
  submit: createRoute({
    ...shared,
    method: 'patch',
    path: '/users/me/kyc',
    operationId: 'submitKyc',
    summary: 'Hand in the data of an identity check',
    description:
      'Opens a check, or goes on with the one that awaits input. While an approval stands a renewal is opened beside it. 409 while a check is being processed or reviewed. Document number and birth date are encrypted at rest.',
    middleware: forUsers(),
    request: { headers: commandHeaders, body: jsonBody(submissionSchema, SUBMISSION) },
    responses: {
      200: success(attemptSchema, { description: 'Handed in.', example: ATTEMPT }),
      ...commandResponses('kyc.submit'),
      ...errorResponses(401, 404, 409),
    },
  }),
  own: createRoute({
    ...shared,
    method: 'get',
    path: '/users/me/kyc',
    operationId: 'getOwnKyc',
    summary: 'The identity check that stands for the caller',
    middleware: forUsers(),
    responses: { 200: success(attemptSchema, { example: ATTEMPT }), ...errorResponses(401, 404, 429, 503) },
  }),
  cancel: createRoute({
    ...shared,
    method: 'delete',
    path: '/users/me/kyc',
    operationId: 'cancelKyc',
    summary: 'Take the open identity check back',
    middleware: forUsers(),
    request: { headers: commandHeaders },
    responses: {
      200: success(attemptSchema, { example: { ...ATTEMPT, status: 'cancelled', kyc_status: 'unverified' } }),
      ...commandResponses('kyc.cancel'),
      ...errorResponses(401, 404, 409),
    },
  }),
  decide: createRoute({
    ...shared,
    method: 'put',
    path: '/admin/users/{id}/kyc',
    operationId: 'decideKyc',
    summary: 'Decide on an identity check',
    description:
      'Approve, refuse, ask for other input, or take the case up again. 403 for one’s own case; 409 for a move that the check’s state does not allow, and when somebody else decided meanwhile or holds the check.',
    middleware: forRoles('admin', 'reviewer'),
    request: {
      ...ofUser,
      headers: commandHeaders,
      body: jsonBody(decisionBody, { status: 'rejected', reason: 'The document is not legible.' }),
    },
    responses: {
      200: success(attemptSchema, { description: 'Decided.', example: APPROVED }),
      ...commandResponses('kyc.decide'),
      ...errorResponses(401, 403, 404, 409),
    },
  }),
  history: createRoute({
    ...shared,
    method: 'get',
    path: '/admin/users/{id}/kyc',
    operationId: 'getKycCase',
    summary: 'All identity checks of a user, with every move',
    middleware: forRoles('admin', 'reviewer'),
    request: ofUser,
    responses: {
      200: success(caseSchema, {
        example: {
          user_id: REVIEW.user_id,
          kyc_status: 'pending',
          attempts: [{ ...REVIEW, transitions: [{ at: ATTEMPT.updated_at, ...MOVE }] }],
        },
      }),
      ...errorResponses(400, 401, 403, 404, 429, 503),
    },
  }),
  queue: createRoute({
    ...shared,
    method: 'get',
    path: '/admin/kyc',
    operationId: 'listKycQueue',
    summary: 'The review queue, the oldest first',
    middleware: forRoles('admin', 'reviewer'),
    request: {
      query: cursorQuery.extend({ status: z.enum(ATTEMPT_STATUSES).default('in_review'), claimed_by: heldBy }),
    },
    responses: {
      200: success(z.array(reviewSchema), { pagination: 'cursor', example: [REVIEW] }),
      ...errorResponses(400, 401, 403, 429, 503),
    },
  }),
  claim: createRoute({
    ...shared,
    method: 'post',
    path: '/admin/kyc/{id}/claim',
    operationId: 'claimKyc',
    summary: 'Claim an identity check, or hold it for longer',
    description:
      'Until `claimed_until` nobody else’s decision on it is taken. Claimed again by its holder it is theirs for as long from now on. It ends by itself, when it is released, and with the decision; a check that nobody holds can be decided all the same. 403 for one’s own check; 409 when there is nothing to decide, and while another reviewer holds it: `details` has `claimed_by` and `claimed_until`.',
    middleware: forRoles('admin', 'reviewer'),
    request: { ...ofAttempt, body: { ...jsonBody(claimBody, { minutes: 15 }), required: false } },
    responses: {
      200: success(reviewSchema, { example: CLAIMED }),
      ...errorResponses(400, 401, 403, 404, 409, 429, 503),
    },
  }),
  release: createRoute({
    ...shared,
    method: 'delete',
    path: '/admin/kyc/{id}/claim',
    operationId: 'releaseKyc',
    summary: 'Give a claimed identity check back',
    description:
      'An admin ends anybody’s claim, a reviewer their own: 409 while another reviewer holds it. One that nobody holds is answered as it is.',
    middleware: forRoles('admin', 'reviewer'),
    request: ofAttempt,
    responses: {
      200: success(reviewSchema, { example: REVIEW }),
      ...errorResponses(400, 401, 403, 404, 409, 429, 503),
    },
  }),
};

/** Identity checks: the user's own, and those who decide on them. */
export function kycRoutes(deps: ApiDeps): ApiRouter {
  const router = createRouter();

  router.openapi(routes.submit, async (c) => {
    const body = c.req.valid('json');
    const sealed = await deps.keyring.seal('command', JSON.stringify(body), { expiresIn: SEALED_FOR_S });
    const command = { user_id: sessionOf(c).userId, sealed };
    return answerCommand(c, deps, submitKycCommand, command, { idempotent: { fingerprintOf: body } });
  });

  router.openapi(routes.own, async (c) => {
    const attempt = await findOwnKyc(deps.database.em.fork(), sessionOf(c).userId);
    return ok(c, attempt ?? refuse('NOT_FOUND', 'there is no identity check'));
  });

  router.openapi(routes.cancel, async (c) => {
    const command = { user_id: sessionOf(c).userId };
    return answerCommand(c, deps, cancelKycCommand, command, { idempotent: { fingerprintOf: null } });
  });

  router.openapi(routes.decide, async (c) => {
    const { id } = c.req.valid('param');
    const body = c.req.valid('json');
    const seen = await findToDecide(deps.database.em.fork(), id, body.attempt_id);
    const command = { user_id: id, ...body, ...(seen ? { attempt_id: seen.id, version: seen.version } : {}) };
    return answerCommand(c, deps, decideKycCommand, command, { idempotent: { fingerprintOf: body } });
  });

  router.openapi(routes.history, async (c) => {
    const found = await findCase(deps.database.em.fork(), c.req.valid('param').id);
    return ok(c, found ?? refuse('NOT_FOUND', 'there is no such user'));
  });

  router.openapi(routes.queue, async (c) => {
    const { limit, cursor, status, claimed_by } = c.req.valid('query');
    const held: HeldBy | undefined =
      claimed_by === undefined || claimed_by === 'any' || claimed_by === 'none'
        ? claimed_by
        : { reviewer: claimed_by === 'me' ? sessionOf(c).userId : claimed_by };
    const query = { status, limit, after: cursor && fromCursor(cursor), held };
    const found = await listByStatus(deps.database.em.fork(), query);
    const page = found.slice(0, limit);
    const last = page.at(-1);
    const more = found.length > limit && last !== undefined;
    return ok(c, page, { pagination: { limit, has_more: more, next_cursor: more ? toCursor(last.id) : null } });
  });

  router.openapi(routes.claim, async (c) => {
    const { minutes = CLAIM_MINUTES.default } = c.req.valid('json') ?? {};
    const attemptId = c.req.valid('param').id;
    return ok(c, await deps.transact(c.get('context'), (unit) => claimKyc(unit, { attemptId, minutes })));
  });

  router.openapi(routes.release, async (c) => {
    const claim = { attemptId: c.req.valid('param').id, anybodys: sessionOf(c).role === 'admin' };
    return ok(c, await deps.transact(c.get('context'), (unit) => releaseKyc(unit, claim)));
  });

  return router;
}

/** A cursor is the last id of its page, wrapped so that nobody builds one. */
const toCursor = (id: string): string => Buffer.from(id).toString('base64url');

function fromCursor(cursor: string): string {
  const id = Buffer.from(cursor, 'base64url').toString();
  return isUuid(id) ? id : refuse('VALIDATION_ERROR', 'cursor is not one of this list', { field: 'cursor' });
}
