import { randomFillSync } from 'node:crypto';
import type { MiddlewareHandler } from 'hono';
import { matchedRoutes } from 'hono/route';
import { newId } from '../../domain/ids.ts';
import { ANONYMOUS } from '../../domain/messages/envelope.ts';
import type { Logger } from '../../services/logger.ts';
import type { ApiEnv } from '../router.ts';
import type { ClientAddress } from './client-address.ts';

/** A request id that is taken from a client. */
export const REQUEST_ID = /^[A-Za-z0-9][A-Za-z0-9._:=+/-]{0,127}$/;

/** W3C Trace Context, section 3.2: version 00, or a later one read as if it were 00 (section 4.3 there). */
const TRACEPARENT = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

export function traceparentOf(header: string | undefined): string {
  const [, version, trace, parent, flags, rest] = TRACEPARENT.exec(header ?? '') ?? [];
  if (trace && parent && !(version === '00' && rest)) return `00-${trace}-${parent}-${flags}`;
  const made = randomHex();
  return `00-${made.slice(0, 32)}-${made.slice(32)}-01`;
}

/** Random bytes in store, as a call for each few costs more than what is done with them. */
const store = Buffer.alloc(24 * 256);
let used = store.length;

/** 48 digits; not all zero but by a chance of 2⁻⁶⁴ in either part. */
function randomHex(): string {
  if (used === store.length) {
    randomFillSync(store);
    used = 0;
  }
  used += 24;
  return store.toString('hex', used - 24, used);
}

/** Tells of a finished request: seconds, and the route's pattern rather than its path. */
export type Observe = (request: { method: string; route: string; status: number; seconds: number }) => void;

/**
 * Gives the request its id, trace, client address and log child, and writes one line when it is answered. The line
 * has the path without the query, which may hold tokens. A `reserved` id is not taken from a client: what a request
 * causes is found by its id, and an operation's id would put it into somebody else's trail.
 */
export function request(
  log: Logger,
  clientAddress: ClientAddress,
  observe?: Observe,
  reserved: (id: string) => boolean = () => false,
): MiddlewareHandler<ApiEnv> {
  // None of the line's keys can hold a secret, and looking for them costs more than the line; values are scrubbed as ever.
  const access = log.child({}, { redact: [] });
  return async (c, next) => {
    const started = performance.now();
    const given = c.req.header('x-request-id');
    const requestId = given && REQUEST_ID.test(given) && !reserved(given) ? given : newId();
    const ip = clientAddress(c);
    const userAgent = c.req.header('user-agent')?.slice(0, 512);
    c.set('requestId', requestId);
    c.set('log', log.child({ request_id: requestId }));
    c.set('context', {
      requestId,
      correlationId: requestId,
      traceparent: traceparentOf(c.req.header('traceparent')),
      actor: ANONYMOUS,
      ...(ip ? { ip } : {}),
      ...(userAgent ? { userAgent } : {}),
    });
    await next();
    c.res.headers.set('X-Request-Id', requestId);
    const ms = performance.now() - started;
    const status = c.res.status;
    access[status >= 500 ? 'error' : 'info'](
      {
        request_id: requestId,
        method: c.req.method,
        path: c.req.path,
        status,
        ms: Math.round(ms * 10) / 10,
        ...(ip ? { ip } : {}),
      },
      'request',
    );
    const route = matchedRoutes(c).findLast(({ method }) => method !== 'ALL');
    observe?.({ method: c.req.method, route: route?.path ?? 'none', status, seconds: ms / 1000 });
  };
}
