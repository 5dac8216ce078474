import { isUtf8 } from 'node:buffer';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { newId } from '../domain/ids.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import { BrokerUnavailable } from '../queues/gateway.ts';
import type { Logger } from '../services/logger.ts';
import { BROKER_AWAY, RETRY_AFTER } from './errors.ts';
import { plainAddress } from './middleware/client-address.ts';
import { type Observe, REQUEST_ID, traceparentOf } from './middleware/request.ts';

/** Who asks, as far as `POST /events` needs to know. */
export interface Publisher {
  actor: RequestContext['actor'];
  tenant: string;
}

export interface ExpressDeps {
  /** Whose token or key it is and for which tenant; `undefined` for anyone who may not publish. */
  publisher: (token: string) => Promise<Publisher | undefined>;
  /** Counts the request; the headers to answer with, or `undefined` when there were too many. */
  count: (actor: RequestContext['actor']) => Promise<Record<string, string> | undefined>;
  /** Checks and publishes one event and resolves with its id after the broker's confirm. Rejects when it is refused. */
  publish: (body: Record<string, unknown>, who: Publisher, context: RequestContext) => Promise<string>;
  reserved: (id: string) => boolean;
  /** What every answer of the API carries. */
  headers: Record<string, string>;
  observe: Observe;
  log: Logger;
}

/** Thrown by `publish` for what the application has to look at; nothing was published. */
export class Unplain extends Error {}

const PATH = '/api/v1/events';
const MAX_BYTES = 64 * 1024;
const BEARER = /^Bearer +([A-Za-z0-9._~+/-]+=*)$/;
/** What a closer look at a body could find begins with one of these: an escape, or a number beyond a double. */
const NEEDS_A_LOOK = /\\u|[eE][+-]?\d{3}|\d{300}|__proto__/;
/** A body with no more brackets than this nests no deeper than the application allows. */
const MAX_BRACKETS = 64;

/** node:http's listener, with the body that was read already where there is one. */
export type Listener = (request: IncomingMessage & { rawBody?: Buffer }, response: ServerResponse) => void;

/**
 * The express lane: `POST /events` in its plainest form, answered without the application around it. The whole of
 * Hono, its middleware and the route's validator cost five times what checking and publishing an event costs (measured;
 * docs/performance.md), and this is the one route that clients call thousands of times a second.
 *
 * It answers the 202, and the 503 of a broker that is away. A request that is anything but plain (another header that matters, a body that
 * needs a closer look, a token it does not know, an event that is refused) goes to the application with the bytes that were read, and gets the application's answer. So nothing is decided here that is not
 * decided there too, and test/api/express.test.ts compares the two.
 */
export function expressLane(deps: ExpressDeps, application: Listener): Listener {
  const access = deps.log.child({}, { redact: [] });

  const answer = async (
    request: IncomingMessage & { rawBody?: Buffer },
    response: ServerResponse,
    started: number,
  ): Promise<boolean> => {
    const { headers } = request;
    const token = BEARER.exec(headers.authorization ?? '')?.[1];
    if (!token) return false;
    const body = bodyOf(request.rawBody);
    if (!body) return false;
    const who = await deps.publisher(token);
    if (!who) return false;
    const limits = await deps.count(who.actor);
    if (!limits) return false;
    const given = headers['x-request-id'];
    const requestId = typeof given === 'string' && REQUEST_ID.test(given) && !deps.reserved(given) ? given : newId();
    const ip = plainAddress(request.socket.remoteAddress);
    const userAgent = headers['user-agent']?.slice(0, 512);
    const context: RequestContext = {
      requestId,
      correlationId: requestId,
      traceparent: traceparentOf(typeof headers.traceparent === 'string' ? headers.traceparent : undefined),
      actor: who.actor,
      ...(ip ? { ip } : {}),
      ...(userAgent ? { userAgent } : {}),
    };
    const reply = (status: 202 | 503, member: string, more: Record<string, string> = {}) => {
      const text = `{"status":"${status === 202 ? 'success' : 'error'}",${member},"meta":{"timestamp":"${new Date().toISOString()}","request_id":"${requestId}"}}`;
      const own = {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(text),
        'x-request-id': requestId,
      };
      response.writeHead(status, { ...deps.headers, ...limits, ...own, ...more }).end(text);
      const ms = performance.now() - started;
      const line = {
        request_id: requestId,
        method: 'POST',
        path: PATH,
        status,
        ms: Math.round(ms * 10) / 10,
        ...(ip ? { ip } : {}),
      };
      access[status === 202 ? 'info' : 'error'](line, 'request');
      deps.observe({ method: 'POST', route: PATH, status, seconds: ms / 1000 });
    };
    try {
      reply(202, `"data":{"event_id":"${await deps.publish(body, who, context)}"}`);
    } catch (error) {
      // Not handed on: the application would wait for the broker once more, and publish under another id.
      if (!(error instanceof BrokerUnavailable)) throw error;
      deps.log.warn({ request_id: requestId, err: error }, 'a service is out of reach');
      reply(
        503,
        `"error":${JSON.stringify({ code: 'SERVICE_UNAVAILABLE', message: BROKER_AWAY, retry_after: RETRY_AFTER })}`,
        { 'retry-after': String(RETRY_AFTER) },
      );
    }
    return true;
  };

  return (request, response) => {
    if (request.method !== 'POST' || request.url !== PATH || !isPlain(request)) return application(request, response);
    const started = performance.now();
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      request.rawBody = parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts);
      answer(request, response, started).then(
        (answered) => {
          if (!answered) application(request, response);
        },
        () => {
          if (!response.headersSent) application(request, response);
          else response.destroy();
        },
      );
    });
  };
}

/** Nothing in the headers that the application would treat in a way of its own. */
function isPlain({ headers }: IncomingMessage): boolean {
  const length = Number(headers['content-length']);
  return (
    headers['content-type'] === 'application/json' &&
    length > 0 &&
    length <= MAX_BYTES &&
    headers['transfer-encoding'] === undefined &&
    headers['idempotency-key'] === undefined &&
    headers.origin === undefined &&
    headers['x-forwarded-for'] === undefined &&
    headers.expect === undefined
  );
}

function brackets(raw: Buffer): number {
  let count = 0;
  for (const byte of raw) if (byte === 0x5b || byte === 0x7b) count += 1;
  return count;
}

/** The body as an object, when it is one and nothing about it needs a closer look. */
function bodyOf(raw: Buffer | undefined): Record<string, unknown> | undefined {
  if (!raw || !isUtf8(raw)) return undefined;
  const text = raw.toString('utf8');
  if (NEEDS_A_LOOK.test(text) || brackets(raw) > MAX_BRACKETS) return undefined;
  try {
    const body: unknown = JSON.parse(text);
    return typeof body === 'object' && body !== null && !Array.isArray(body)
      ? (body as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
