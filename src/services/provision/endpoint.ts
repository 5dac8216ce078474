import { createServer } from 'node:net';

/** Where a service URL points. `path` is set for a PostgreSQL URL that names a Unix socket directory (`?host=/run/…`). */
export interface Endpoint {
  host: string;
  port: number;
  tls: boolean;
  path?: string;
}

const TLS_SCHEMES = new Set(['rediss:', 'amqps:']);
const NUMBERS = /^127(\.\d{1,3}){3}$/;

/** Host, port and transport of a service URL; `defaultPort` stands in when the URL names none. */
export function endpointOf(url: string, defaultPort: number): Endpoint {
  const parsed = new URL(url);
  const tls = TLS_SCHEMES.has(parsed.protocol);
  const socketDirectory = [parsed.searchParams.get('host'), decodeURIComponent(parsed.hostname)].find((it) =>
    it?.startsWith('/'),
  );
  const port = Number(parsed.port) || defaultPort;
  const host = parsed.hostname.replace(/^\[|\]$/g, '') || 'localhost';
  return socketDirectory ? { host, port, tls, path: `${socketDirectory}/.s.PGSQL.${port}` } : { host, port, tls };
}

/** True when only this machine can be meant, so that starting a server here gives what the URL asks for. */
export function isLoopback({ host, path }: Endpoint): boolean {
  return path === undefined && (host === 'localhost' || host === '::1' || NUMBERS.test(host));
}

/** The address as a person reads it: `host:port`, or the socket's path. */
export function addressOf({ host, port, path }: Endpoint): string {
  return path ?? `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** A service URL that may be shown: its password is replaced by `***`. */
export function maskPassword(url: string): string {
  const parsed = new URL(url);
  if (parsed.password) parsed.password = '***';
  if (parsed.searchParams.has('password')) parsed.searchParams.set('password', '***');
  return parsed.href;
}

function listenOnce(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : port));
    });
  });
}

/** A TCP port on 127.0.0.1 that nothing listens on: `preferred` when it is free, else one the kernel picks. */
export async function freePort(preferred = 0): Promise<number> {
  return listenOnce(preferred).catch(() => listenOnce(0));
}
