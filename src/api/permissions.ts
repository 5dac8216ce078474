import type { Scope } from '../domain/api-keys/scopes.ts';
import type { Role } from '../domain/users/entities.ts';
import { API_BASE } from './app.ts';
import { CONSOLE_PATHS } from './pages/console.ts';

/**
 * Who may call what, in one place. The routes enforce it themselves (`forRoles`, `forScope` and their kin); a test walks
 * every mounted route and fails for one that is not here, or that lets in or refuses anybody but those named here.
 *
 * - `anyone`: without credentials too. What such a route shows may still depend on who asks.
 * - `user`: whoever is signed in, in any role. Often for what is their own alone, which the route sees to.
 * - `caller`: a user or any API key.
 * - roles: users in one of them.
 * - `scope`: API keys that have it, besides. Scopes of events and webhooks reach the key's tenant alone; those of users,
 *   operations and the audit log reach the whole installation.
 */
export interface Permission {
  /** `GET /api/v1/users/{id}`. */
  route: string;
  who: 'anyone' | 'user' | 'caller' | readonly Role[];
  scope?: Scope;
}

const ADMIN: readonly Role[] = ['admin'];
const STAFF: readonly Role[] = ['admin', 'operator'];
const REVIEWERS: readonly Role[] = ['admin', 'reviewer'];

/** `Permission`s of routes under `/api/v1` that are for the same people. */
const api = (who: Permission['who'], routes: string[], scope?: Scope): Permission[] =>
  routes.map((route) => ({ route: route.replace(' ', ` ${API_BASE}`), who, ...(scope ? { scope } : {}) }));

export const PERMISSIONS: readonly Permission[] = [
  ...[
    'GET /',
    'GET /docs',
    'GET /docs/initializer.js',
    'GET /docs/page.css',
    'GET /docs/swagger-ui.css',
    'GET /docs/swagger-ui-bundle.js',
    'GET /docs/favicon-32x32.png',
    'GET /openapi.json',
    'GET /front.css',
    'GET /front.js',
    'GET /pools.json',
    ...CONSOLE_PATHS.map((path) => `GET ${path}`),
    'GET /verify-email',
    'GET /confirm-email',
    'GET /reset-password',
    'GET /verify.css',
    'GET /verify.js',
    'GET /.well-known/jwks.json',
    'GET /.well-known/webhook-keys.json',
    'GET /health',
    'GET /livez',
    'GET /readyz',
    'GET /metrics',
    'GET /dev/mail',
    'GET /dev/mail.json',
  ].map((route): Permission => ({ route, who: 'anyone' })),

  ...api('anyone', [
    'POST /auth/register',
    'POST /auth/verify-email',
    'POST /auth/resend-verification',
    'POST /auth/login',
    'POST /auth/refresh',
    'POST /auth/forgot-password',
    'POST /auth/reset-password',
    'POST /auth/confirm-email',
    'POST /kyc/providers/{provider}/callbacks',
    'GET /operations/{id}',
  ]),
  ...api('user', [
    'POST /auth/change-password',
    'POST /auth/change-email',
    'POST /auth/mfa/setup',
    'POST /auth/mfa/enable',
    'POST /auth/mfa/disable',
    'POST /auth/logout',
    'GET /auth/sessions',
    'DELETE /auth/sessions/{id}',
    'DELETE /auth/sessions',
    'GET /users/me',
    'PUT /users/me',
    'DELETE /users/me',
    'GET /users/me/export',
    'PATCH /users/me/kyc',
    'GET /users/me/kyc',
    'DELETE /users/me/kyc',
    'PUT /users/{id}',
    'DELETE /users/{id}',
  ]),
  ...api('user', ['GET /users/{id}'], 'users:read'),
  ...api('caller', ['GET /operations/{id}/trail']),

  ...api(ADMIN, ['GET /users'], 'users:read'),
  ...api(ADMIN, [
    'POST /users',
    'GET /admin/users',
    'POST /admin/users',
    'GET /admin/users/{id}',
    'PUT /admin/users/{id}',
    'DELETE /admin/users/{id}',
    'POST /users/{id}/unlock',
    'POST /admin/users/{id}/unlock',
    'POST /admin/users/{id}/force-reset',
    'POST /admin/users/{id}/mfa/disable',
    'POST /admin/users/{id}/restore',
    'DELETE /admin/users/{id}/sessions',
    'POST /api-keys',
    'GET /api-keys',
    'GET /api-keys/{id}',
    'DELETE /api-keys/{id}',
  ]),
  ...api(REVIEWERS, [
    'PUT /admin/users/{id}/kyc',
    'GET /admin/users/{id}/kyc',
    'GET /admin/kyc',
    'POST /admin/kyc/{id}/claim',
    'DELETE /admin/kyc/{id}/claim',
  ]),

  ...api(ADMIN, ['POST /events', 'POST /events/batch'], 'events:write'),
  ...api(ADMIN, ['GET /events', 'GET /events/{id}'], 'events:read'),
  ...api(STAFF, ['GET /events/{id}/trail'], 'events:read'),
  ...api(
    ADMIN,
    [
      'POST /webhooks/endpoints',
      'PATCH /webhooks/endpoints/{id}',
      'DELETE /webhooks/endpoints/{id}',
      'POST /webhooks/endpoints/{id}/rotate-secret',
      'POST /webhooks/endpoints/{id}/recover',
      'POST /webhooks/endpoints/{id}/test',
      'POST /webhooks/deliveries/retry',
      'POST /webhooks/deliveries/{id}/retry',
      'POST /webhooks/event-types',
      'PUT /webhooks/event-types/{name}',
    ],
    'webhooks:write',
  ),
  ...api(
    ADMIN,
    [
      'GET /webhooks/endpoints',
      'GET /webhooks/endpoints/{id}',
      'GET /webhooks/endpoints/{id}/deliveries',
      'GET /webhooks/endpoints/{id}/stats',
      'GET /webhooks/deliveries',
      'GET /webhooks/deliveries/{id}',
      'GET /webhooks/event-types',
      'GET /webhooks/event-types/{name}',
    ],
    'webhooks:read',
  ),

  ...api(
    STAFF,
    [
      'GET /operations',
      'GET /admin/emails',
      'GET /admin/pools',
      'GET /admin/dead-letters',
      'GET /admin/dead-letters/{id}',
    ],
    'ops:read',
  ),
  ...api(
    STAFF,
    [
      'POST /admin/emails/{id}/retry',
      'PATCH /admin/pools/{pool}',
      'POST /admin/dead-letters/replay',
      'POST /admin/dead-letters/discard',
      'POST /admin/dead-letters/{id}/replay',
      'POST /admin/dead-letters/{id}/discard',
    ],
    'ops:write',
  ),
  ...api(
    ADMIN,
    ['GET /admin/audit', 'GET /admin/audit/verify', 'GET /admin/audit/{id}/proof', 'GET /admin/audit/export'],
    'audit:read',
  ),
];
