import { createRoute, z } from '@hono/zod-openapi';
import { uuid } from '../../domain/ids.ts';
import { refuse } from '../../domain/problem.ts';
import { KYC_STATUSES, ROLES } from '../../domain/users/entities.ts';
import { exportUser } from '../../domain/users/export.ts';
import { deleteUser, updateUser } from '../../domain/users/profile.ts';
import { findUser, userResource } from '../../domain/users/user.ts';
import type { ApiDeps } from '../deps.ts';
import { matchingVersions, okTagged } from '../entity-tag.ts';
import { forUsers, sessionOf } from '../middleware/authenticate.ts';
import { ok } from '../respond.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { errorResponses, jsonBody, success, text, timestamp } from '../schemas.ts';

export const userSchema = z
  .object({
    user_id: uuid,
    email: z.string(),
    full_name: z.string(),
    avatar_url: z.string().nullable(),
    role: z.enum(ROLES),
    is_verified: z.boolean(),
    is_active: z.boolean(),
    kyc_status: z.enum(KYC_STATUSES),
    created_at: timestamp,
    updated_at: timestamp,
  })
  .openapi('User');

export const USER_EXAMPLE = {
  user_id: '019a9f3e-6b00-7a11-8e22-3f4455667788',
  email: 'ada@example.com',
  full_name: 'Ada Lovelace',
  avatar_url: null,
  role: 'user',
  is_verified: true,
  is_active: true,
  kyc_status: 'unverified',
  created_at: '2026-11-20T10:15:30.000Z',
  updated_at: '2026-11-20T10:15:30.000Z',
};

export const fullName = text({ max: 200 })
  .refine((value) => !/\p{Cc}/u.test(value), 'must not hold control characters')
  .openapi({ example: 'Ada Lovelace' });

/** Shown by whoever displays the user: nothing but a plain web address. */
const avatarUrl = text({ max: 512, trim: false })
  .refine((value) => {
    const url = URL.parse(value);
    return url !== null && ['http:', 'https:'].includes(url.protocol) && !url.username && !url.password;
  }, 'must be an http or https URL without credentials')
  .nullable()
  .openapi({ example: 'https://cdn.example.com/ada.png' });

export const profileFields = { full_name: fullName.optional(), avatar_url: avatarUrl.optional() };

/** Refuses a change of nothing: it was most likely meant to change something. */
export function atLeastOne(change: object): void {
  if (Object.values(change).every((value) => value === undefined))
    refuse('VALIDATION_ERROR', 'the body must name at least one field to change');
}

export const deletedSchema = z.object({ user_id: uuid, deleted_at: timestamp });
export const DELETED_EXAMPLE = { user_id: USER_EXAMPLE.user_id, deleted_at: '2026-11-20T10:15:30.000Z' };

const records = z.array(z.record(z.string(), z.unknown()));
const exportSchema = z
  .object({
    exported_at: timestamp,
    profile: userSchema.loose(),
    sessions: records,
    links: records,
    emails: records,
    kyc: records,
    operations: records,
    audit: records,
    truncated: z.array(z.string()).openapi({ description: 'Which of these had more than is given.' }),
  })
  .openapi('UserExport');

const tags = ['Accounts'];
const security = [{ bearerAuth: [] }];

const routes = {
  get: createRoute({
    method: 'get',
    path: '/users/me',
    operationId: 'getMe',
    tags,
    summary: 'Your account',
    description:
      'Has an `ETag`; `If-None-Match` answers 304, and `If-Match` on the update 412 when it was changed meanwhile.',
    security,
    middleware: forUsers(),
    responses: { 200: success(userSchema, { example: USER_EXAMPLE }), ...errorResponses(401, 429, 503) },
  }),
  update: createRoute({
    method: 'put',
    path: '/users/me',
    operationId: 'updateMe',
    tags,
    summary: 'Change your name or picture',
    description: 'Fields that are left out stay as they are.',
    security,
    middleware: forUsers(),
    request: { body: jsonBody(z.strictObject(profileFields), { full_name: 'Ada King' }) },
    responses: {
      200: success(userSchema, { example: { ...USER_EXAMPLE, full_name: 'Ada King' } }),
      ...errorResponses(400, 401, 412, 413, 415, 429, 503),
    },
  }),
  export: createRoute({
    method: 'get',
    path: '/users/me/export',
    operationId: 'exportMe',
    tags,
    summary: 'Everything that is stored about you',
    description:
      'As a file: profile, sessions, mailed links, e-mails without their content, identity checks without what is kept encrypted, operations, and the audit log about you.',
    security,
    middleware: forUsers(),
    responses: {
      200: success(exportSchema, { description: 'The export.' }),
      ...errorResponses(401, 429, 503),
    },
  }),
  remove: createRoute({
    method: 'delete',
    path: '/users/me',
    operationId: 'deleteMe',
    tags,
    summary: 'Delete your account',
    description: 'Every session ends now and the address is free at once.',
    security,
    middleware: forUsers(),
    responses: { 200: success(deletedSchema, { example: DELETED_EXAMPLE }), ...errorResponses(401, 409, 429, 503) },
  }),
};

/** `/users/me`. Mount it before `adminUserRoutes`, whose `/users/{id}` takes any other id. */
export function userRoutes(deps: Pick<ApiDeps, 'database' | 'transact' | 'keyring'>): ApiRouter {
  const router = createRouter();

  router.openapi(routes.get, async (c) => {
    const found = await findUser(deps.database.em.fork(), sessionOf(c).userId);
    const user = found ?? refuse('UNAUTHORIZED', 'sign in to do this');
    return okTagged(c, userResource(user), user);
  });

  router.openapi(routes.update, async (c) => {
    const change = c.req.valid('json');
    atLeastOne(change);
    const { userId } = sessionOf(c);
    const versions = matchingVersions(c, userId);
    const user = await deps.transact(c.get('context'), (unit) => updateUser(unit, userId, change, { versions }));
    return okTagged(c, userResource(user), user);
  });

  router.openapi(routes.export, async (c) => {
    const { userId } = sessionOf(c);
    const data = await exportUser(deps.database.em.fork(), deps.keyring, userId);
    await deps.transact(c.get('context'), async (unit) => {
      unit.emit.audit({ action: 'user.exported', targets: [{ type: 'user', id: userId }], subject: userId });
    });
    const name = `waybill-export-${data.exported_at.slice(0, 10)}.json`;
    return ok(c, data, { headers: { 'Content-Disposition': `attachment; filename="${name}"` } });
  });

  router.openapi(routes.remove, async (c) =>
    ok(c, await deps.transact(c.get('context'), (unit) => deleteUser(unit, sessionOf(c).userId))),
  );

  return router;
}
