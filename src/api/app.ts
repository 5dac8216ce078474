import type { MiddlewareHandler } from 'hono';
import { cors } from 'hono/cors';
import { secureHeaders } from 'hono/secure-headers';
import type { Redis } from 'ioredis';
import type { Config } from '../config.ts';
import type { Logger } from '../services/logger.ts';
import { answerError } from './errors.ts';
import { announceSessions } from './middleware/announce.ts';
import { type Authenticate, type AuthenticateKey, authenticate } from './middleware/authenticate.ts';
import { clientAddress } from './middleware/client-address.ts';
import { type Observe, request } from './middleware/request.ts';
import { routing } from './middleware/routing.ts';
import { wellFormedBody, wellFormedUrl } from './middleware/well-formed.ts';
import { RateLimiter } from './rate-limiter.ts';
import { problemResponse } from './respond.ts';
import { type ApiEnv, type ApiRouter, createRouter } from './router.ts';

export const API_BASE = '/api/v1';

/** What the shell around the routes needs. */
export interface AppDeps {
  config: Pick<Config, 'corsOrigins' | 'trustedProxies' | 'rateLimits' | 'namespace' | 'publicUrl'>;
  log: Logger;
  /** Says whose token it is; without it nobody is ever signed in. */
  authenticate?: Authenticate;
  /** Says whose API key it is; without it no key is known. */
  authenticateKey?: AuthenticateKey;
  /** A `fast` client for the rate limits; without it, or with `RATE_LIMITS=off`, nothing is limited. */
  redis?: Redis;
  /** Hears of every answered request, for the metrics. */
  observe?: Observe;
  /** Tells all processes that sessions may have ended. */
  announceSessions?: () => Promise<unknown>;
  /** Ids that a client may not choose for its request: those of operations. */
  reserved?: (id: string) => boolean;
}

/** Routers under `/api/v1`, and those at the root whose answers have no envelope. */
export interface Routers {
  api: ApiRouter[];
  root?: ApiRouter[];
}

const EXPOSED = [
  'X-Request-Id',
  'Location',
  'Retry-After',
  'Preference-Applied',
  'X-RateLimit-Limit',
  'X-RateLimit-Remaining',
  'X-RateLimit-Reset',
  'ETag',
];

/**
 * The HTTP application: every request passes request id and log line, security headers, CORS, address and method
 * check, body check and authentication, in this order, before its route; every error becomes an answer in one place.
 */
export function createApp(deps: AppDeps, routers: Routers): ApiRouter {
  const { config } = deps;
  const app = createRouter();
  app.onError(answerError);
  app.notFound((c) => problemResponse(c, { code: 'NOT_FOUND', message: 'there is nothing at this address' }));

  app.use(request(deps.log, clientAddress(config.trustedProxies), deps.observe, deps.reserved));
  app.use(securityHeaders(config.publicUrl.startsWith('https:')));
  if (config.corsOrigins.length > 0) {
    app.use(
      cors({
        origin: config.corsOrigins.includes('*') ? '*' : config.corsOrigins,
        exposeHeaders: EXPOSED,
        maxAge: 600,
      }),
    );
  }
  app.use(wellFormedUrl(), routing(app), wellFormedBody(app));
  app.use(`${API_BASE}/*`, uncached(), limiting(deps), authenticate(deps.authenticate, deps.authenticateKey));

  if (deps.announceSessions) {
    const announce = announceSessions(deps.announceSessions);
    for (const path of ['/auth/*', '/users/*', '/admin/users/*']) app.use(`${API_BASE}${path}`, announce);
  }
  for (const router of routers.api) app.route(API_BASE, router);
  for (const router of routers.root ?? []) app.route('/', router);
  return app;
}

/** Pages may load what this server serves and nothing else; a page that needs more says so in its own header. */
function securityHeaders(https: boolean): MiddlewareHandler<ApiEnv> {
  return secureHeaders({
    overwrite: false,
    strictTransportSecurity: https ? 'max-age=31536000; includeSubDomains' : false,
    xFrameOptions: 'DENY',
    contentSecurityPolicy: {
      defaultSrc: ["'self'"],
      imgSrc: ["'self'", 'data:'],
      objectSrc: ["'none'"],
      baseUri: ["'none'"],
      formAction: ["'self'"],
      frameAncestors: ["'none'"],
    },
  });
}

/** What every answer carries whatever was asked: for an answer that is written without the application. */
export async function standingHeaders(config: Pick<Config, 'publicUrl'>): Promise<Record<string, string>> {
  const bare = createRouter();
  bare.use(securityHeaders(config.publicUrl.startsWith('https:')), uncached());
  bare.get('/', (c) => c.body(null));
  return Object.fromEntries((await bare.request('/')).headers);
}

/** Answers hold tokens and personal data: no cache keeps them (RFC 9111, section 5.2.2.5). */
function uncached(): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    await next();
    if (!c.res.headers.has('Cache-Control')) c.res.headers.set('Cache-Control', 'no-store');
  };
}

function limiting({ config, redis, log }: AppDeps): MiddlewareHandler<ApiEnv> {
  const limits = config.rateLimits;
  const limiter =
    limits === 'off' || !redis ? undefined : new RateLimiter({ redis, namespace: config.namespace, limits, log });
  return (c, next) => {
    if (limiter) c.set('limiter', limiter);
    return next();
  };
}
