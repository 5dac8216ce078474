import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP, isIPv6, type LookupFunction, type Socket } from 'node:net';
import { buildConnector, errors } from 'undici';
import { type AllowNetworks, ForbiddenAddressError, isForbiddenAddress } from './addresses.ts';

/*
 * Webhooks through an egress proxy: a tunnel per connection (CONNECT, RFC 9110 section 9.3.6), http and https alike, so
 * that the proxy sees neither signatures nor, with https, bodies.
 *
 *   address  the name is resolved and every answer checked; a literal address is checked
 *   tunnel   CONNECT with one of those addresses: what the proxy dials is what was checked
 *   TLS      with the subscriber, by its name
 *
 * With `resolves` the proxy gets the name instead. Then only literal addresses are checked here: where a name leads to is
 * the proxy's to decide, and the proxy has to refuse inner addresses itself.
 */

/** An http or https proxy that webhooks go out through. */
export interface EgressProxy {
  /** With credentials, where it asks for some: `http://user:password@proxy.internal:3128`. */
  readonly url: string;
  /** It gets names and resolves them itself. */
  readonly resolves: boolean;
}

/** The proxy cannot be used at all: not reached, broke off, or wants other credentials. Says nothing about subscribers. */
class ProxyUnusableError extends Error {
  override readonly name = 'ProxyUnusableError';
  readonly code = 'ERR_PROXY_UNUSABLE';
}

/** The proxy made no tunnel to this subscriber: its rules forbid it, or it could not reach it. */
class ProxyRefusedError extends Error {
  override readonly name = 'ProxyRefusedError';
  readonly code = 'ERR_PROXY_REFUSED';
}

export interface ProxyOptions {
  readonly proxy: EgressProxy;
  readonly allow: AllowNetworks;
  /** Guarded: it fails for a name that leads to a forbidden address. */
  readonly lookup: LookupFunction;
  /** Name, tunnel and TLS, each, in ms. */
  readonly connectTimeoutMs: number;
  /** PEM certificates to trust instead of the built-in ones. */
  readonly ca?: string | undefined;
}

/** Connects as `buildConnector` does, through the proxy. */
export function proxyConnector(options: ProxyOptions): buildConnector.connector {
  const { proxy, allow, connectTimeoutMs: timeout, ca } = options;
  const url = new URL(proxy.url);
  const secure = buildConnector({ timeout, allowH2: false, ...(ca === undefined ? {} : { ca }) });

  async function tunnel({ hostname, port, protocol }: buildConnector.Options): Promise<Socket> {
    if (isIP(hostname) !== 0 && isForbiddenAddress(hostname, allow))
      throw new ForbiddenAddressError(hostname, hostname);
    const host = isIP(hostname) !== 0 || proxy.resolves ? hostname : await addressOf(hostname, options.lookup);
    const authority = `${isIPv6(host) ? `[${host}]` : host}:${port || (protocol === 'https:' ? 443 : 80)}`;
    return connectThrough(url, authority, timeout, ca);
  }

  return (target, callback) => {
    tunnel(target).then(
      (socket) => {
        if (target.protocol === 'https:') secure({ ...target, httpSocket: socket }, callback);
        else callback(null, socket);
      },
      (error: Error) => callback(error, null),
    );
  };
}

/** One checked address of a name, IPv4 where there is one: fewer proxies have a way out for IPv6. */
function addressOf(hostname: string, lookup: LookupFunction): Promise<string> {
  return new Promise((resolve, reject) => {
    lookup(hostname, { all: true }, (error, found) => {
      const addresses = Array.isArray(found) ? found : [];
      const chosen = addresses.find(({ family }) => family === 4) ?? addresses[0];
      if (error || !chosen) reject(error ?? new Error(`${hostname} has no address`));
      else resolve(chosen.address);
    });
  });
}

/** A socket that ends at `authority`. Rejects with one of the errors above, or undici's ConnectTimeoutError. */
function connectThrough(proxy: URL, authority: string, timeoutMs: number, ca: string | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let reached = false;
    const request = (proxy.protocol === 'https:' ? httpsRequest : httpRequest)({
      method: 'CONNECT',
      host: proxy.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: proxy.port || (proxy.protocol === 'https:' ? 443 : 80),
      path: authority,
      headers: { host: authority, ...proxyAuthorization(proxy) },
      agent: false,
      ...(ca === undefined ? {} : { ca }),
    });
    const timer = setTimeout(() => {
      const why = `no tunnel to ${authority} within ${timeoutMs} ms`;
      request.destroy(reached ? new errors.ConnectTimeoutError(why) : new ProxyUnusableError(why));
    }, timeoutMs);
    const settle = (error: Error | null, socket?: Socket) => {
      clearTimeout(timer);
      if (socket && !error) return resolve(socket);
      reject(error);
    };
    const refused = (response: IncomingMessage) => {
      const why = `the proxy answered ${response.statusCode} to CONNECT ${authority}`;
      return response.statusCode === 407 ? new ProxyUnusableError(why) : new ProxyRefusedError(why);
    };
    request.on('socket', (socket) => {
      socket.once(proxy.protocol === 'https:' ? 'secureConnect' : 'connect', () => {
        reached = true;
      });
    });
    request.on('connect', (response, socket: Socket, head: Buffer) => {
      const { statusCode = 0 } = response;
      if (statusCode >= 200 && statusCode < 300) {
        if (head.length > 0) socket.unshift(head);
        return settle(null, socket);
      }
      socket.on('error', () => undefined).destroy();
      settle(refused(response));
    });
    request.on('error', (error: Error & { code?: string }) => {
      const ours = error instanceof ProxyUnusableError || error instanceof errors.ConnectTimeoutError;
      settle(ours ? error : new ProxyUnusableError(`the proxy cannot be used: ${error.message}`, { cause: error }));
    });
    request.end();
  });
}

/** Basic, of the credentials in the proxy's URL (RFC 9110, section 11.7.2); nothing without any. */
export function proxyAuthorization({ username, password }: URL): Record<string, string> {
  if (!username && !password) return {};
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` };
}
