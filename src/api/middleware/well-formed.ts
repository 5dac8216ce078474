import type { MiddlewareHandler } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { matchedRoutes } from 'hono/route';
import { Refusal, refuse } from '../../domain/problem.ts';
import { type ApiContext, type ApiEnv, type ApiRouter, fieldPath } from '../router.ts';

/** What a body may have unless its route says otherwise. */
export const DEFAULT_BODY_LIMIT = 64 * 1024;
/** Deeper nesting than any message has; recursive readers of a body stay far from the end of their stack. */
const MAX_DEPTH = 64;

const limits = new WeakMap<object, number>();

/** `middleware: [allowBody(256 * 1024)]`: this route takes bodies up to `bytes`. */
export function allowBody(bytes: number): MiddlewareHandler<ApiEnv> {
  const mark: MiddlewareHandler<ApiEnv> = (_c, next) => next();
  limits.set(mark, bytes);
  return mark;
}

/** Refuses percent-encodings that are no UTF-8 or hold U+0000: no text column could hold what they stand for. */
export function wellFormedUrl(): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const url = c.req.url;
    if (url.includes('%')) {
      const at = url.indexOf('?');
      if (!decodes(at < 0 ? url : url.slice(0, at)))
        refuse('VALIDATION_ERROR', 'the path is not valid percent-encoded UTF-8', { field: 'path' });
      for (const pair of at < 0 ? [] : url.slice(at + 1).split('&')) {
        if (!decodes(pair))
          refuse('VALIDATION_ERROR', 'the query is not valid percent-encoded UTF-8', {
            field: pair.split('=', 1)[0]?.slice(0, 100) || 'query',
          });
      }
    }
    return next();
  };
}

function decodes(encoded: string): boolean {
  try {
    return !decodeURIComponent(encoded).includes('\0');
  } catch {
    return false;
  }
}

/**
 * 413 by the route's limit, 415 for anything but JSON, 400 for JSON that cannot be stored or is nested too deep, and for
 * fields that are sent to a route of `app` without a body: they are unknown there.
 */
export function wellFormedBody(app: ApiRouter): MiddlewareHandler<ApiEnv> {
  const takesNone = bodiless(app);
  return async (c, next) => {
    if (!hasBody(c)) return next();
    const maxSize = matchedRoutes(c).reduce((size, { handler }) => limits.get(handler) ?? size, DEFAULT_BODY_LIMIT);
    const tooLarge = () => refuse('PAYLOAD_TOO_LARGE', `the body is larger than ${maxSize} bytes`);
    const examined = async () => {
      const mediaType = c.req.header('content-type')?.split(';', 1)[0]?.trim().toLowerCase();
      const encoding = c.req.header('content-encoding')?.trim().toLowerCase();
      if (mediaType !== 'application/json') refuse('UNSUPPORTED_MEDIA_TYPE', 'the body must be application/json');
      if (encoding && encoding !== 'identity') refuse('UNSUPPORTED_MEDIA_TYPE', 'the body must not be compressed');
      const raw = await textOf(c);
      examine(raw);
      if (takesNone(c)) refuseFields(raw);
      await next();
    };
    // A stated length is held to by node:http. Counting the stream instead makes a whole Request object of each
    // request, the dearest step of all of these, so only a body without a length is counted.
    const length = c.req.header('content-length');
    if (length === undefined || c.req.header('transfer-encoding') !== undefined)
      return bodyLimit({ maxSize, onError: tooLarge })(c, examined);
    if (Number(length) > maxSize) tooLarge();
    return examined();
  };
}

/** Whether a request goes to a documented route that takes no body. */
function bodiless(app: ApiRouter): (c: ApiContext) => boolean {
  let known: Set<string> | undefined;
  return (c) => {
    // Not before the first request: the routes are mounted after this.
    known ??= new Set(
      app.openAPIRegistry.definitions.flatMap((definition) => {
        if (definition.type !== 'route' || definition.route.request?.body) return [];
        return [`${definition.route.method.toUpperCase()} ${definition.route.path}`];
      }),
    );
    const routes = known;
    return matchedRoutes(c).some(({ method, path }) => routes.has(`${method} ${path.replace(/:(\w+)/g, '{$1}')}`));
  };
}

/** Takes `{}` for no body, as some clients send it. */
function refuseFields(raw: string): void {
  let body: unknown;
  try {
    body = JSON.parse(raw);
  } catch {
    refuse('VALIDATION_ERROR', 'the body is not valid JSON');
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    refuse('VALIDATION_ERROR', 'this takes no body');
  const [field] = Object.keys(body as object);
  if (field !== undefined)
    refuse('VALIDATION_ERROR', `${field.slice(0, 100)} is not a known field`, { field: field.slice(0, 100) });
}

/** By its headers where there is a socket (RFC 9112, section 6.3), by its stream in process. */
function hasBody(c: ApiContext): boolean {
  if (c.req.method === 'GET' || c.req.method === 'HEAD') return false;
  const length = c.req.header('content-length');
  if (length !== undefined) return Number(length) > 0;
  if (c.req.header('transfer-encoding') !== undefined) return true;
  return (c.env as { incoming?: unknown } | undefined)?.incoming ? false : c.req.raw.body !== null;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** The body as text, read by its bytes so that a route that checks a signature still finds exactly those. */
async function textOf(c: ApiContext): Promise<string> {
  const bytes = await c.req.arrayBuffer();
  let raw: string;
  try {
    raw = utf8.decode(bytes);
  } catch {
    return refuse('VALIDATION_ERROR', 'the body is not valid UTF-8');
  }
  (c.req.bodyCache as { text?: unknown }).text = Promise.resolve(raw); // a promise, though it is typed as what it gives
  return raw;
}

/** U+0000, halves of surrogate pairs, numbers beyond a double and a name that objects cannot have, as JSON writes them. */
const SUSPICIOUS = /\\u0000|\\u[dD][89a-fA-F]|[eE]\+?\d{3}|\d{309}|__proto__|\\u00[57][fF]/;

function examine(raw: string): void {
  if (depth(raw) > MAX_DEPTH) refuse('VALIDATION_ERROR', `the body is nested deeper than ${MAX_DEPTH} levels`);
  if (!SUSPICIOUS.test(raw)) return;
  let parsed: unknown;
  try {
    parsed = JSON.parse(raw);
  } catch {
    return; // The route's validator says so, when the route takes a body at all.
  }
  const found = unstorable(parsed, []);
  if (found)
    throw new Refusal({
      code: 'VALIDATION_ERROR',
      message: `${found.field || 'the body'} ${found.why}`,
      ...(found.field ? { field: found.field } : {}),
    });
}

function unstorable(value: unknown, path: PropertyKey[]): { field: string; why: string } | undefined {
  if (path.at(-1) === '__proto__') return { field: fieldPath(path), why: 'is a name that cannot be taken' };
  const field = () => fieldPath(path).toWellFormed().replaceAll('\0', '\uFFFD');
  if (typeof value === 'string' && (value.includes('\0') || !value.isWellFormed()))
    return { field: field(), why: 'holds a character that cannot be stored' };
  if (typeof value === 'number' && !Number.isFinite(value)) return { field: field(), why: 'is too large a number' };
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [key, inner] of Object.entries(value)) {
    const here = [...path, Array.isArray(value) ? Number(key) : key];
    const found = unstorable(key, here) ?? unstorable(inner, here);
    if (found) return found;
  }
  return undefined;
}

/** The deepest nesting of brackets outside strings. */
function depth(raw: string): number {
  let level = 0;
  let deepest = 0;
  for (let i = 0; i < raw.length; i++) {
    switch (raw.charCodeAt(i)) {
      case 0x22: // "
        for (i++; i < raw.length && raw.charCodeAt(i) !== 0x22; i++) if (raw.charCodeAt(i) === 0x5c) i++;
        break;
      case 0x5b: // [
      case 0x7b: // {
        if (++level > deepest) deepest = level;
        break;
      case 0x5d: // ]
      case 0x7d: // }
        level--;
    }
  }
  return deepest;
}
