import { StringDecoder } from 'node:string_decoder';
import type { Dispatcher } from 'undici';
import { currentTime } from '../services/clock.ts';

/*
 * One request and its answer, as an undici dispatch handler (an object costs less than closures per request).
 *
 * States:
 *   waiting    in the pool's queue, or its connection is being made (name, TCP, TLS)
 *   sent       on the wire, no status yet
 *   receiving  the status is there, the body is being kept
 *   draining   settled, 16 KiB are kept; a little more is read away so that the connection can be used again
 *   over       settled, and undici either has let go or will be turned away
 * `#settle` fills the promise and runs once; `#end` leads to `over`; both are called only from the handlers below and
 * `expire`.
 */
type State = 'waiting' | 'sent' | 'receiving' | 'draining' | 'over';

/** How much of a response body is kept, in bytes. */
export const KEPT_BYTES = 16_384;

/** A longer response costs its connection; reading up to this much is cheaper than a new connection. */
const DRAIN_BYTES = 131_072;

/** Why an attempt has no complete response. Short, stable words: they are stored and shown. */
export type FailureCode =
  | 'timeout_connect'
  | 'timeout_headers'
  | 'timeout_body'
  | 'connection_refused'
  | 'connection_reset'
  | 'unreachable'
  | 'dns'
  | 'tls'
  | 'forbidden_address'
  | 'proxy_unusable'
  | 'proxy_refused'
  | 'invalid_response'
  | 'invalid_request'
  | 'sender_closed'
  | 'no_usable_secret'
  | 'network_error';

/**
 * What became of one attempt. `statusCode` is set as soon as a status came, also when `error` says that the rest did
 * not. `responseBody`: at most the first 16 KiB as text that PostgreSQL takes (no U+0000), `''` for an empty body,
 * `null` without a response. `retryAfter`: the header as it came. `durationMs` counts from the call, waiting for a
 * connection included.
 */
export interface Attempted {
  readonly statusCode: number | null;
  readonly error: FailureCode | null;
  readonly responseBody: string | null;
  readonly retryAfter: string | null;
  readonly durationMs: number;
  readonly finishedAt: Date;
}

export class Exchange implements Dispatcher.DispatchHandler {
  /** On the clock of `performance.now()`, in ms. */
  readonly startedAt = performance.now();
  readonly timeoutMs: number;
  readonly #resolve: (attempted: Attempted) => void;
  readonly #onOver: (exchange: Exchange) => void;
  #state: State = 'waiting';
  #settled = false;
  #controller: Dispatcher.DispatchController | null = null;
  #statusCode: number | null = null;
  #retryAfter: string | null = null;
  #length = 0;
  #received = 0;
  #chunks: Buffer[] = [];

  constructor(timeoutMs: number, resolve: (attempted: Attempted) => void, onOver: (exchange: Exchange) => void) {
    this.timeoutMs = timeoutMs;
    this.#resolve = resolve;
    this.#onOver = onOver;
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    // Throwing drops a request that expired in the queue; aborting would cost the fresh connection as well.
    if (this.#state !== 'waiting') throw new Error('expired before it was sent');
    this.#controller = controller;
    this.#state = 'sent';
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    statusCode: number,
    headers: Record<string, string | string[] | undefined>,
  ): void {
    if (statusCode < 200) return;
    this.#state = 'receiving';
    this.#statusCode = statusCode;
    this.#retryAfter = first(headers['retry-after']);
    this.#length = Number(first(headers['content-length']) ?? 0);
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    const room = KEPT_BYTES - this.#received;
    if (room > 0) this.#chunks.push(room < chunk.length ? chunk.subarray(0, room) : chunk);
    this.#received += chunk.length;
    if (this.#received <= KEPT_BYTES) return;
    if (this.#state === 'receiving') {
      this.#settle(null);
      this.#state = 'draining';
    }
    if (Math.max(this.#received, this.#length) > DRAIN_BYTES) controller.abort(new Error('response is cut'));
  }

  onResponseEnd(): void {
    this.#settle(null);
    this.#end();
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    this.#settle(failureCode(error, this.#state === 'waiting'));
    this.#end();
  }

  /** The overall deadline has passed: settles with what is known and cuts the connection. */
  expire(): void {
    if (this.#state === 'waiting') this.#settle('timeout_connect');
    else this.#settle(this.#state === 'sent' ? 'timeout_headers' : 'timeout_body');
    this.#end();
    this.#controller?.abort(new Error('deadline'));
  }

  #settle(error: FailureCode | null): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#resolve({
      statusCode: this.#statusCode,
      error,
      responseBody: this.#statusCode === null ? null : text(this.#chunks, this.#received > KEPT_BYTES),
      retryAfter: this.#retryAfter,
      durationMs: Math.round(performance.now() - this.startedAt),
      finishedAt: new Date(currentTime()),
    });
    this.#chunks = [];
  }

  #end(): void {
    if (this.#state === 'over') return;
    this.#state = 'over';
    this.#onOver(this);
  }
}

/** An attempt that failed before anything was dispatched. */
export function notSent(error: FailureCode): Attempted {
  return {
    statusCode: null,
    error,
    responseBody: null,
    retryAfter: null,
    durationMs: 0,
    finishedAt: new Date(currentTime()),
  };
}

const CODES: Readonly<Record<string, FailureCode>> = {
  ERR_FORBIDDEN_ADDRESS: 'forbidden_address',
  ERR_PROXY_UNUSABLE: 'proxy_unusable',
  ERR_PROXY_REFUSED: 'proxy_refused',
  UND_ERR_CONNECT_TIMEOUT: 'timeout_connect',
  UND_ERR_HEADERS_TIMEOUT: 'timeout_headers',
  UND_ERR_BODY_TIMEOUT: 'timeout_body',
  ECONNREFUSED: 'connection_refused',
  ECONNRESET: 'connection_reset',
  ECONNABORTED: 'connection_reset',
  EPIPE: 'connection_reset',
  EHOSTUNREACH: 'unreachable',
  ENETUNREACH: 'unreachable',
  EHOSTDOWN: 'unreachable',
  ENETDOWN: 'unreachable',
  EADDRNOTAVAIL: 'unreachable',
  ENOTFOUND: 'dns',
  ENODATA: 'dns',
  UND_ERR_HEADERS_OVERFLOW: 'invalid_response',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'invalid_response',
  UND_ERR_INVALID_ARG: 'invalid_request',
  UND_ERR_NOT_SUPPORTED: 'invalid_request',
  UND_ERR_REQ_CONTENT_LENGTH_MISMATCH: 'invalid_request',
  UND_ERR_CLOSED: 'sender_closed',
  UND_ERR_DESTROYED: 'sender_closed',
  EPROTO: 'tls',
  // The verification codes of OpenSSL that do not begin like their family (RFC 5280 path validation).
  DEPTH_ZERO_SELF_SIGNED_CERT: 'tls',
  SELF_SIGNED_CERT_IN_CHAIN: 'tls',
  HOSTNAME_MISMATCH: 'tls',
  INVALID_CA: 'tls',
  INVALID_PURPOSE: 'tls',
  PATH_LENGTH_EXCEEDED: 'tls',
};

const FAMILIES: readonly (readonly [RegExp, FailureCode])[] = [
  [/^EAI_/, 'dns'],
  [/^(?:ERR_SSL_|ERR_TLS_|CERT_|CRL_|UNABLE_TO_)/, 'tls'],
];

/** Sorts an error of undici, Node or the lookup into one of the stored words. `connecting`: nothing had been sent. */
function failureCode(error: Error, connecting: boolean): FailureCode {
  const code = 'code' in error ? String(error.code) : '';
  if (code === 'ETIMEDOUT') return connecting ? 'timeout_connect' : 'connection_reset';
  // undici has one code for a closed socket and for an answer it will not take (100, 101, bytes nobody asked for).
  if (code === 'UND_ERR_SOCKET') return error.message.startsWith('bad ') ? 'invalid_response' : 'connection_reset';
  // Its code does not always say which rule was broken, its name always says that one was.
  if (error.name === 'HTTPParserError') return 'invalid_response';
  if (connecting && error.message.includes('secure TLS connection')) return 'tls';
  return CODES[code] ?? FAMILIES.find(([pattern]) => pattern.test(code))?.[1] ?? 'network_error';
}

function first(value: string | string[] | undefined): string | null {
  return (Array.isArray(value) ? value[0] : value) ?? null;
}

function text(chunks: readonly Buffer[], cut: boolean): string {
  const [only] = chunks;
  if (only === undefined) return '';
  const bytes = chunks.length === 1 ? only : Buffer.concat(chunks);
  // Where we cut, the decoder holds back half a character instead of making it U+FFFD.
  const decoded = cut ? new StringDecoder('utf8').write(bytes) : bytes.toString('utf8');
  return decoded.includes('\0') ? decoded.replaceAll('\0', '') : decoded;
}
