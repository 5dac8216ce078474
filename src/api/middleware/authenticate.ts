import type { MiddlewareHandler } from 'hono';
import type { MachineClient, Scope } from '../../domain/api-keys/scopes.ts';
import { Refusal, refuse } from '../../domain/problem.ts';
import type { ApiContext, ApiEnv, Session } from '../router.ts';
import { rateLimit } from './rate-limit.ts';

/** Whose token it is, or `undefined` when it is forged, expired or revoked. Throws when that cannot be told now. */
export type Authenticate = (token: string) => Promise<Session | undefined>;
/** The same for an API key. */
export type AuthenticateKey = (key: string) => Promise<MachineClient | undefined>;

const BEARER = /^Bearer +([A-Za-z0-9._~+/-]+=*) *$/i;
const KEY_PREFIX = 'wb_';

/**
 * Reads the bearer token (RFC 6750), an access token or an API key, when there is one and makes its owner the context's
 * actor. One that does not count leaves the request anonymous: public routes go on, the others refuse. So does the token
 * of somebody who has to turn a second factor on first, but on routes behind `admitEnrolment`.
 */
export function authenticate(
  check: Authenticate | undefined,
  checkKey?: AuthenticateKey | undefined,
): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const header = c.req.header('authorization');
    if (header === undefined) return next();
    const token = BEARER.exec(header)?.[1];
    const presented = token?.startsWith(KEY_PREFIX) ? 'key' : 'token';
    try {
      if (token !== undefined && presented === 'key') {
        const client = await checkKey?.(token);
        if (client) {
          c.set('client', client);
          c.set('context', { ...c.get('context'), actor: { type: 'api_key', id: client.keyId } });
        }
      } else if (token !== undefined) {
        const session = await check?.(token);
        if (session?.mustEnrol) {
          c.set('authentication', { presented, enrolling: session });
          return next();
        }
        if (session) setSession(c, session);
      }
      c.set('authentication', { presented });
    } catch (failure) {
      c.set('authentication', { presented, failure });
    }
    return next();
  };
}

function setSession(c: ApiContext, session: Session): void {
  c.set('session', session);
  c.set('context', { ...c.get('context'), actor: { type: 'user', id: session.userId, role: session.role } });
}

/** `middleware: [admitEnrolment(), ...forUsers()]`: also for those who have to turn a second factor on first. */
export function admitEnrolment(): MiddlewareHandler<ApiEnv> {
  return (c, next) => {
    const { enrolling } = c.get('authentication') ?? {};
    if (enrolling) setSession(c, enrolling);
    return next();
  };
}

/** Who may use a route, beside what it says itself: users by role (any of them: `'user'`), API keys by scope. */
export interface Audience {
  roles: readonly string[] | 'user';
  /** Keys with this scope, or `'any'` key; none when absent. */
  scope?: Scope | 'any' | undefined;
}

/** 401 for nobody, 403 for a user without the role or a key without the scope. */
export function requireOneOf({ roles, scope }: Audience): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    if (isAllowed(c, { roles, scope })) return next();
    if (c.get('client')) refuse('FORBIDDEN', scope ? `this needs the scope ${scope}` : 'this is not for API keys');
    signedIn(c);
    refuse('FORBIDDEN', `this needs the role ${typeof roles === 'string' ? roles : roles.join(' or ')}`);
  };
}

/** 401 unless a user is signed in. */
export const requireUser = (): MiddlewareHandler<ApiEnv> => requireOneOf({ roles: 'user' });

/** 401 unless a user is signed in, 403 unless the user has one of `roles`. */
export const requireRole = (...roles: string[]): MiddlewareHandler<ApiEnv> => requireOneOf({ roles });

/** The session of a route behind `requireUser` or `requireRole`. */
export const sessionOf = (c: ApiContext): Session => signedIn(c);

/** `middleware: forUsers()`: signed in, counted in the group `user` (an admin's requests in `admin`). */
export const forUsers = (): MiddlewareHandler<ApiEnv>[] => [requireUser(), rateLimit('user')];

/** `middleware: forUsersOr('users:read')`: signed in, or a key with the scope (any key: `'any'`). */
export const forUsersOr = (scope: Scope | 'any'): MiddlewareHandler<ApiEnv>[] => [
  requireOneOf({ roles: 'user', scope }),
  rateLimit('user'),
];

/** `middleware: forRoles('admin')`: signed in with one of the roles, counted in the group `admin`. */
export const forRoles = (...roles: string[]): MiddlewareHandler<ApiEnv>[] => [
  requireRole(...roles),
  rateLimit('admin'),
];

/** `middleware: forScope('webhooks:write')`: an admin (or one of `roles`), or a key with the scope. */
export const forScope = (scope: Scope, ...roles: string[]): MiddlewareHandler<ApiEnv>[] => [
  requireOneOf({ roles: roles.length > 0 ? roles : ['admin'], scope }),
  rateLimit('admin'),
];

/** Whether whoever asks belongs to the audience; nobody does who is not signed in. */
export const isAllowed = (c: ApiContext, { roles, scope }: Audience): boolean => {
  const client = c.get('client');
  if (client) return scope === 'any' || (scope !== undefined && client.scopes.includes(scope));
  const role = c.get('session')?.role;
  return role !== undefined && (roles === 'user' || roles.includes(role));
};

function signedIn(c: ApiContext): Session {
  const session = c.get('session');
  if (session) return session;
  const { presented, failure, enrolling } = c.get('authentication') ?? {};
  if (failure !== undefined) throw failure;
  if (enrolling)
    refuse('FORBIDDEN', `the role ${enrolling.role} needs a second factor: turn one on first (POST /auth/mfa/setup)`, {
      details: { mfa_enrolment_required: true },
    });
  throw new Refusal({ code: 'UNAUTHORIZED', message: UNAUTHORIZED[presented ?? 'none'] });
}

const UNAUTHORIZED = {
  token: 'the access token is not valid, has expired or was revoked',
  key: 'the API key is not valid, has expired or was revoked',
  none: 'sign in to do this',
};
