import { isIP } from 'node:net';
import { buildConnector, Pool } from 'undici';
import {
  type AllowNetworks,
  ForbiddenAddressError,
  guardedLookup,
  isForbiddenAddress,
  type Resolve,
} from './addresses.ts';
import { type EgressProxy, proxyConnector } from './proxy.ts';
import { createResolve } from './resolve.ts';
import { type Attempted, Exchange, notSent } from './response.ts';

/*
 * Posts webhooks. One keep-alive pool per origin, redirects never followed, no answer and no failure of the other side
 * ever throws.
 *
 * States of an origin: open (in `origins`, least recently used first) → retiring (takes nothing new, finishes what it
 * has) → gone. Only `retire` moves it. The sender itself is open until `close` is first called.
 *
 * A request whose bytes may have left is never sent again here, not even when a kept connection breaks under it: nobody
 * can know whether it was handled. That is a failed attempt, and the retry carries the same webhook-id.
 */

/** How exact the overall deadline is, in ms. */
const TICK_MS = 50;
/** How often unused origins are looked for, in ms. */
const SWEEP_MS = 10_000;
/** URLs kept parsed; beyond, all are forgotten. */
const MAX_TARGETS = 5_000;

export interface SenderOptions {
  /** Forbidden networks that are opened; see `parseAllowNetworks`. */
  readonly allow: AllowNetworks;
  readonly userAgent?: string;
  /** Connections to one origin at once; further requests wait for one. Default 64. */
  readonly maxConnectionsPerOrigin?: number;
  /** Origins whose connections are kept; beyond, the least recently used is closed. Default 1,000. */
  readonly maxOrigins?: number;
  /** An origin unused for so long is closed, in ms. Default 60,000. */
  readonly idleOriginMs?: number;
  /** Name, TCP and TLS together, in ms; never beyond a request's own timeout. Default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Instead of `createResolve`. */
  readonly resolve?: Resolve;
  /** PEM certificates to trust instead of the built-in ones. */
  readonly ca?: string;
  /** Every connection goes through it. */
  readonly proxy?: EgressProxy | undefined;
}

export interface SendRequest {
  /** An http or https URL that has passed `checkEndpointUrl`. */
  readonly url: string;
  /** Lower-case names. `user-agent` replaces the sender's own; `content-length` is added. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | string;
  /** For everything from the call to the last byte of the answer, in ms. */
  readonly timeoutMs: number;
}

export interface Sender {
  /** One POST. Rejects only for a `timeoutMs` that is not above 0 (`RangeError`). */
  send(request: SendRequest): Promise<Attempted>;
  /** Lets what is in flight end within `graceMs` (default 20,000), then cuts it. Later sends are `sender_closed`. */
  close(graceMs?: number): Promise<void>;
}

/** What of a URL a request is made from; parsed once, as each endpoint's URL comes again with every delivery. */
interface Target {
  readonly origin: string;
  readonly path: string;
}

interface Origin {
  readonly pool: Pool;
  usedAt: number;
}

export function createSender(options: SenderOptions): Sender {
  const { userAgent = 'Waybill', maxOrigins = 1_000, idleOriginMs = 60_000 } = options;
  const connect = guardedConnector(options);
  const deadlines = new Deadlines();
  const origins = new Map<string, Origin>();
  const targets = new Map<string, Target>();
  const retiring = new Map<Pool, Promise<void>>();
  const sweeper = setInterval(sweep, Math.min(SWEEP_MS, idleOriginMs)).unref();
  let closing: Promise<void> | null = null;

  function send({ url, headers, body, timeoutMs }: SendRequest): Promise<Attempted> {
    if (!(timeoutMs > 0)) return Promise.reject(new RangeError(`timeoutMs must be above 0, not ${timeoutMs}`));
    if (closing !== null) return Promise.resolve(notSent('sender_closed'));
    const target = targetOf(url);
    if (target === null) return Promise.resolve(notSent('invalid_request'));
    const origin = use(target.origin);
    return new Promise((resolve) => {
      const settle = (attempted: Attempted): void => {
        // A request that undici refuses to build leaves its pool believing that a client is busy for good.
        if (attempted.error === 'invalid_request') retire(target.origin, origin);
        resolve(attempted);
      };
      const exchange = new Exchange(timeoutMs, settle, (ended) => deadlines.delete(ended));
      deadlines.add(exchange);
      origin.pool.dispatch(
        {
          method: 'POST',
          path: target.path,
          headers: { 'user-agent': userAgent, ...headers },
          body,
          // The overall deadline covers both, and without them undici arms no timer of its own.
          headersTimeout: 0,
          bodyTimeout: 0,
        },
        exchange,
      );
    });
  }

  function targetOf(url: string): Target | null {
    const known = targets.get(url);
    if (known !== undefined) return known;
    const parsed = URL.parse(url);
    if (parsed === null || !/^https?:$/.test(parsed.protocol)) return null;
    const target = { origin: parsed.origin, path: parsed.pathname + parsed.search };
    if (targets.size >= MAX_TARGETS) targets.clear();
    targets.set(url, target);
    return target;
  }

  function use(name: string): Origin {
    let origin = origins.get(name);
    if (origin === undefined) {
      const connections = options.maxConnectionsPerOrigin ?? 64;
      // HTTP/2 would put every delivery to an origin on one connection. undici keeps idle ones 4 s, servers often 5 s.
      origin = { pool: new Pool(name, { connect, connections, allowH2: false }), usedAt: 0 };
    } else {
      origins.delete(name);
    }
    origin.usedAt = Date.now();
    origins.set(name, origin);
    if (origins.size > maxOrigins) {
      for (const [oldest, unused] of origins) {
        retire(oldest, unused);
        break;
      }
    }
    return origin;
  }

  function retire(name: string, origin: Origin): void {
    if (origins.get(name) === origin) origins.delete(name);
    const { pool } = origin;
    if (pool.closed || pool.destroyed) return;
    const closed = pool.close().finally(() => retiring.delete(pool));
    retiring.set(pool, closed);
  }

  function sweep(): void {
    const before = Date.now() - idleOriginMs;
    for (const [name, origin] of origins) {
      if (origin.usedAt > before) return;
      retire(name, origin);
    }
  }

  async function shut(graceMs: number): Promise<void> {
    clearInterval(sweeper);
    for (const [name, origin] of origins) retire(name, origin);
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, graceMs);
    });
    await Promise.race([Promise.all(retiring.values()), grace]);
    clearTimeout(timer);
    await Promise.all([...retiring.keys()].map((pool) => pool.destroy()));
  }

  function close(graceMs = 20_000): Promise<void> {
    closing ??= shut(graceMs);
    return closing;
  }

  return { send, close };
}

/** Checks literal addresses, for which Node calls no lookup, and every address of a name as it is dialled. */
function guardedConnector(options: SenderOptions): buildConnector.connector {
  const { allow, resolve, ca, proxy, connectTimeoutMs = 10_000 } = options;
  const lookup = guardedLookup(allow, resolve ?? createResolve({ timeoutMs: connectTimeoutMs }));
  if (proxy) return proxyConnector({ proxy, allow, lookup, connectTimeoutMs, ca });
  const connect = buildConnector({
    lookup,
    timeout: connectTimeoutMs,
    allowH2: false,
    ...(ca === undefined ? {} : { ca }),
  });
  return (target, callback) => {
    if (isIP(target.hostname) !== 0 && isForbiddenAddress(target.hostname, allow)) {
      // undici is in the middle of opening this client and must not be called back from within.
      setImmediate(callback, new ForbiddenAddressError(target.hostname, target.hostname), null);
    } else {
      connect(target, callback);
    }
  };
}

/**
 * The overall deadlines, one set per timeout: a set keeps insertion order, so its first members expire first, and one
 * coarse timer looks at them alone. Expiry waits for the poll phase after the tick: answers that came while this
 * process was busy count as come.
 */
class Deadlines {
  readonly #byTimeout = new Map<number, Set<Exchange>>();
  #timer: NodeJS.Timeout | null = null;

  add(exchange: Exchange): void {
    const set = this.#byTimeout.get(exchange.timeoutMs);
    if (set === undefined) this.#byTimeout.set(exchange.timeoutMs, new Set([exchange]));
    else set.add(exchange);
    this.#timer ??= setInterval(() => setImmediate(() => this.#expire()), TICK_MS);
  }

  delete(exchange: Exchange): void {
    this.#byTimeout.get(exchange.timeoutMs)?.delete(exchange);
  }

  #expire(): void {
    const now = performance.now();
    for (const [timeoutMs, set] of this.#byTimeout) {
      for (const exchange of set) {
        if (now - exchange.startedAt < timeoutMs) break;
        exchange.expire();
      }
      if (set.size === 0) this.#byTimeout.delete(timeoutMs);
    }
    if (this.#byTimeout.size > 0 || this.#timer === null) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }
}
