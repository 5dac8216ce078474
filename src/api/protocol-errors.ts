import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { RequestError } from '@hono/node-server';
import { newId } from '../domain/ids.ts';
import type { ProblemCode } from '../domain/problem.ts';
import type { Logger } from '../services/logger.ts';
import { plainAddress } from './middleware/client-address.ts';

/** What is answered to something that is no request, and so never comes to the application. */
interface ProtocolError {
  status: number;
  code: ProblemCode;
  message: string;
}

const MALFORMED: ProtocolError = {
  status: 400,
  code: 'VALIDATION_ERROR',
  message: 'this is not a well-formed HTTP request',
};
const NO_HOST: ProtocolError = { status: 400, code: 'VALIDATION_ERROR', message: 'the header Host is required' };
const EXPECTATION: ProtocolError = {
  status: 417,
  code: 'VALIDATION_ERROR',
  message: 'the header Expect can only be 100-continue',
};
const FAULT: ProtocolError = {
  status: 500,
  code: 'INTERNAL_ERROR',
  message: 'something went wrong on our side',
};

/** By the code of node:http's error; whatever is not here is malformed. */
const BY_ERROR: Record<string, ProtocolError> = {
  ERR_HTTP_REQUEST_TIMEOUT: {
    status: 408,
    code: 'VALIDATION_ERROR',
    message: 'the request did not arrive whole in time',
  },
  HPE_HEADER_OVERFLOW: { status: 431, code: 'PAYLOAD_TOO_LARGE', message: 'the headers are too large' },
  HPE_CHUNK_EXTENSIONS_OVERFLOW: {
    status: 413,
    code: 'PAYLOAD_TOO_LARGE',
    message: 'the extensions of a chunk are too large',
  },
};

/** The error envelope and the headers it is answered with; the connection closes after it. */
function answerOf({ code, message }: ProtocolError): { headers: Record<string, string>; body: string } {
  const requestId = newId();
  const meta = { timestamp: new Date().toISOString(), request_id: requestId };
  const body = JSON.stringify({ status: 'error', error: { code, message }, meta });
  const headers = {
    'Content-Type': 'application/json',
    'Content-Length': String(Buffer.byteLength(body)),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    'X-Request-Id': requestId,
    Connection: 'close',
  };
  return { headers, body };
}

function respond(response: ServerResponse, error: ProtocolError): void {
  const { headers, body } = answerOf(error);
  response.writeHead(error.status, headers).end(body);
}

/** Answers what the bridge to the application could make no request of (a Host or target that is none). */
export function answerUnreadable(error: unknown): Response {
  const problem = error instanceof RequestError ? MALFORMED : FAULT;
  const { headers, body } = answerOf(problem);
  return new Response(body, { status: problem.status, headers });
}

/** A listener that asks for Host (RFC 9112, section 3.2), for a server that was told not to. */
export const requireHost =
  <Request extends IncomingMessage>(next: (request: Request, response: ServerResponse) => void) =>
  (request: Request, response: ServerResponse): void => {
    if (request.headers.host === undefined) {
      if (request.httpVersion !== '1.0') {
        respond(response, NO_HOST);
        return;
      }
      // HTTP/1.0 knows no Host, as in a load balancer's probe; the bridge to the application needs one.
      request.headers.host = 'localhost';
    }
    next(request, response);
  };

/**
 * Gives node:http's own refusals the envelope of all errors: bytes that are no HTTP, headers beyond the limit, a request
 * that does not arrive in time. `answering`: whether an answer is on its way over the socket, which a second one would
 * garble.
 */
export function answerProtocolErrors(server: Server, log: Logger, answering: (socket: Socket) => boolean): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable || answering(socket)) {
      socket.destroy();
      return;
    }
    const problem = BY_ERROR[error.code ?? ''] ?? MALFORMED;
    const { headers, body } = answerOf(problem);
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    const ip = plainAddress(socket.remoteAddress);
    const { status } = problem;
    log.info(
      { request_id: headers['X-Request-Id'], status, reason: error.code, ...(ip ? { ip } : {}) },
      'not a request',
    );
    socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`, () => socket.destroy());
  });
  server.on('checkExpectation', (_request, response) => respond(response, EXPECTATION));
}
