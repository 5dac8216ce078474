import { timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Agent, request } from 'undici';
import { type SigningKey, sign } from '../webhooks/signature.ts';

/*
 * Takes webhooks on a loopback port, verifies them, and hands them on with their original headers and exact bytes.
 *
 *   starting ──start──► taking ──close──► closed: what is on its way is answered first
 */

/** What became of one webhook. */
export interface Forwarded {
  at: Date;
  id: string;
  /** `-` when the body does not say. */
  type: string;
  /** What the receiver answered; null when it got nothing, or never answered. */
  status: number | null;
  durationMs: number;
  /** Why there is no status. */
  fault?: string;
}

export interface ForwarderOptions {
  /** Where webhooks are handed on to. */
  target: URL;
  /** The end of the path that webhooks come to: only the platform knows it. */
  path: string;
  /** 0: any free one. */
  port: number;
  onForwarded: (forwarded: Forwarded) => void;
}

const MAX_BODY = 1024 * 1024;
const MAX_ANSWER = 64 * 1024;
/** Beyond what the platform itself waits for. */
const TIMEOUT_MS = 30_000;
const TOLERANCE_S = 300;
/** How long what is on its way has to end when it closes. */
const CLOSING_MS = 3000;
/** They belong to one connection (RFC 9110, section 7.6.1) or are made anew. */
const NOT_FORWARDED: ReadonlySet<string> = new Set([
  'host',
  'connection',
  'keep-alive',
  'content-length',
  'transfer-encoding',
  'te',
  'trailer',
  'upgrade',
  'expect',
]);

export class Forwarder {
  readonly #options: ForwarderOptions;
  readonly #server: Server;
  readonly #agent = new Agent({ headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS, connect: { timeout: 5000 } });
  #key: SigningKey | undefined;

  constructor(options: ForwarderOptions) {
    this.#options = options;
    this.#server = createServer((incoming, answer) => {
      this.#take(incoming, answer).catch(() => answer.destroy());
    });
  }

  /** Listens on 127.0.0.1 alone; resolves with the port. Rejects when it is taken. */
  async start(): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject).listen(this.#options.port, '127.0.0.1', resolve);
    });
    return (this.#server.address() as AddressInfo).port;
  }

  /** Nothing is handed on before the key is known. */
  verifyWith(key: SigningKey): void {
    this.#key = key;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    const cut = setTimeout(() => this.#server.closeAllConnections(), CLOSING_MS);
    await closed;
    clearTimeout(cut);
    await this.#agent.destroy();
  }

  async #take(incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
    const { path, onForwarded } = this.#options;
    if (incoming.method !== 'POST' || !new URL(incoming.url ?? '/', 'http://x').pathname.endsWith(path)) {
      answer.writeHead(404).end();
      return;
    }
    const body = await read(incoming, MAX_BODY);
    if (!body) {
      answer.writeHead(413, { connection: 'close' }).end();
      return;
    }
    const at = new Date();
    const id = header(incoming, 'webhook-id');
    const seen = { at, id: printable(id), type: printable(typeOf(body)) };
    const fault = this.#key ? faultOf(incoming, body, this.#key, at) : 'it came before the endpoint was made';
    if (fault) {
      answer.writeHead(401).end();
      onForwarded({ ...seen, status: null, durationMs: 0, fault: `not forwarded: ${fault}` });
      return;
    }
    const began = performance.now();
    try {
      const response = await request(this.#options.target, {
        method: 'POST',
        headers: forwardedHeaders(incoming),
        body,
        dispatcher: this.#agent,
      });
      const text = (await read(response.body, MAX_ANSWER)) ?? Buffer.alloc(0);
      answer.writeHead(response.statusCode, answeredHeaders(response.headers)).end(text);
      onForwarded({ ...seen, status: response.statusCode, durationMs: Math.round(performance.now() - began) });
    } catch (error) {
      answer.writeHead(502).end();
      const why = `${this.#options.target.href} gave no answer: ${reason(error as Error)}`;
      onForwarded({ ...seen, status: null, durationMs: Math.round(performance.now() - began), fault: why });
    }
  }
}

/** Whether it was signed with the endpoint's key, at about this time (Standard Webhooks 1.0.0); else why not. */
function faultOf(incoming: IncomingMessage, body: Buffer, key: SigningKey, at: Date): string | undefined {
  const id = header(incoming, 'webhook-id');
  const timestamp = Number(header(incoming, 'webhook-timestamp') || Number.NaN);
  if (id === '' || id.includes('.') || !Number.isSafeInteger(timestamp)) return 'it is not signed';
  const expected = Buffer.from(sign([key], { id, timestamp, body }));
  const given = header(incoming, 'webhook-signature')
    .split(' ')
    .map((one) => Buffer.from(one));
  if (!given.some((one) => one.length === expected.length && timingSafeEqual(one, expected)))
    return 'its signature does not hold';
  const offS = Math.abs(at.getTime() / 1000 - timestamp);
  return offS > TOLERANCE_S ? `its timestamp is ${Math.round(offS)} s off this machine's clock` : undefined;
}

const header = (incoming: IncomingMessage, name: string): string => {
  const value = incoming.headers[name];
  return typeof value === 'string' ? value : '';
};

/** In their order and spelling. */
function forwardedHeaders(incoming: IncomingMessage): string[] {
  const { rawHeaders } = incoming;
  const forwarded: string[] = [];
  for (let n = 0; n + 1 < rawHeaders.length; n += 2) {
    const [name = '', value = ''] = rawHeaders.slice(n, n + 2);
    if (!NOT_FORWARDED.has(name.toLowerCase())) forwarded.push(name, value);
  }
  return forwarded;
}

/** What the platform looks at, or keeps to be read. */
function answeredHeaders(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const kept = ['content-type', 'retry-after', 'location'].map((name) => [name, headers[name]] as const);
  return Object.fromEntries(kept.flatMap(([name, value]) => (typeof value === 'string' ? [[name, value]] : [])));
}

/** `undefined` when it is longer than `max`. */
async function read(stream: AsyncIterable<Buffer>, max: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > max) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function typeOf(body: Buffer): string {
  try {
    const { type } = JSON.parse(body.toString()) as { type?: unknown };
    return typeof type === 'string' ? type : '-';
  } catch {
    return '-';
  }
}

/** What comes from outside must not move the cursor of a terminal. */
const printable = (text: string): string => text.slice(0, 128).replace(/[^\x20-\x7e]/g, '?') || '-';

const reason = (error: Error & { code?: string }): string => error.code ?? error.message;
