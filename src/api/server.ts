import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import type { Logger } from '../services/logger.ts';
import type { Service } from '../services/service.ts';
import type { Listener } from './express.ts';
import { answerProtocolErrors, answerUnreadable, requireHost } from './protocol-errors.ts';

/** Longest that a route holds a request: `Prefer: wait=30`. */
const LONGEST_WAIT_MS = 30_000;

export interface ServerOptions {
  /** `app.fetch` of a Hono application. */
  fetch: (request: Request, env: never) => Response | Promise<Response>;
  /** 0 takes any free port. */
  port: number;
  hostname?: string;
  log: Logger;
  /** Stands before the application and may answer what it likes itself. */
  before?: (application: Listener) => Listener;
  /** Called first when stopping: `/readyz` turns false before the door closes. */
  onStopping?: () => void;
  /** In ms, all of them within which a client must have said what it wants (node:http, `server.headersTimeout` and following). */
  timeouts?: { headers?: number; request?: number; keepAlive?: number; check?: number };
}

/** The HTTP server of a process. `address()` is known once it is started. */
export interface HttpServer extends Service {
  address(): { port: number; url: string };
}

/**
 * States: *idle* → `start` → *listening* → `stop` → *draining* (no new connection, requests in flight go on, each
 * connection closes with its answer) → *closed*, at the latest at the deadline, when what is left is cut off.
 */
export function createHttpServer(options: ServerOptions): HttpServer {
  const { timeouts = {}, log } = options;
  let draining = false;
  let stopped: Promise<void> | undefined;
  const application = getRequestListener(options.fetch as Parameters<typeof getRequestListener>[0], {
    errorHandler: answerUnreadable,
  }) as Listener;
  const settings = {
    headersTimeout: timeouts.headers ?? 15_000,
    requestTimeout: timeouts.request ?? 30_000 + LONGEST_WAIT_MS,
    keepAliveTimeout: timeouts.keepAlive ?? 65_000,
    connectionsCheckingInterval: timeouts.check ?? 5000,
    maxHeaderSize: 16_384,
    requireHostHeader: false,
  };
  const server = createServer(settings, requireHost(options.before?.(application) ?? application));
  const open = new Set<ServerResponse>();
  answerProtocolErrors(server, log, (socket) =>
    [...open].some((response) => response.socket === socket && response.headersSent),
  );
  const closing = (response: ServerResponse) => {
    if (!response.headersSent) response.setHeader('Connection', 'close');
  };
  server.prependListener('request', (_request, response) => {
    open.add(response);
    response.once('close', () => open.delete(response));
    if (draining) closing(response);
  });

  return {
    name: 'http server',
    start: () =>
      new Promise((resolve, reject) => {
        server.once('error', reject);
        server.listen(options.port, options.hostname, () => {
          server.off('error', reject);
          server.on('error', (error) => log.error({ err: error }, 'the HTTP server reported an error'));
          resolve();
        });
      }),
    stop(deadlineMs) {
      stopped ??= (async () => {
        draining = true;
        options.onStopping?.();
        for (const response of open) closing(response);
        if (server.listening) await drain(server, deadlineMs);
      })();
      return stopped;
    },
    address() {
      const { port } = server.address() as AddressInfo;
      const host =
        options.hostname === undefined || ['0.0.0.0', '::'].includes(options.hostname) ? 'localhost' : options.hostname;
      return { port, url: `http://${host.includes(':') ? `[${host}]` : host}:${port}` };
    },
  };
}

/** Keep-alive connections fall idle one by one as their answers leave, so they are looked for until none is left. */
async function drain(server: Server, deadlineMs: number): Promise<void> {
  const sweep = setInterval(() => server.closeIdleConnections(), 50);
  const cut = setTimeout(() => server.closeAllConnections(), deadlineMs);
  try {
    await new Promise<void>((resolve) => server.close(() => resolve()));
  } finally {
    clearInterval(sweep);
    clearTimeout(cut);
  }
}
