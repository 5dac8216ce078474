import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { type Endpoint, endpointOf } from './endpoint.ts';

/**
 * What a server says when it is greeted in its own protocol.
 * - `ready`: it takes clients with these credentials (or its real client will find out about them)
 * - `starting`: it is the right server and asks for patience
 * - `refused`: it is the right server and turns these credentials away
 * - `absent`: nothing answered in time, or something that speaks another protocol
 */
export type Answer = { state: 'ready' } | { state: 'starting' | 'refused' | 'absent'; detail: string };

export const ready: Answer = { state: 'ready' };
export const starting = (detail: string): Answer => ({ state: 'starting', detail });
export const refused = (detail: string): Answer => ({ state: 'refused', detail });
export const absent = (detail: string): Answer => ({ state: 'absent', detail });

export const HANDSHAKE_DEADLINE_MS = 2000;

/** Reads all bytes received so far; returns an answer, or undefined to be called again with more. */
export type Listener = (received: Buffer, send: (bytes: Uint8Array) => void) => Answer | undefined;

function reasonOf(error: Error & { code?: string }): string {
  if (error.code === 'ECONNREFUSED') return 'nothing listens there';
  if (error.code === 'ENOTFOUND' || error.code === 'EAI_AGAIN') return 'its name does not resolve';
  return error.message || error.code || error.name;
}

/** Connects, sends `hello` and lets `listen` judge what comes back; never throws and never outlives its deadline. */
export function greet(
  endpoint: Endpoint,
  hello: Uint8Array,
  listen: Listener,
  deadlineMs = HANDSHAKE_DEADLINE_MS,
): Promise<Answer> {
  return new Promise((resolve) => {
    const target = { host: endpoint.host, port: endpoint.port };
    const socket: Socket = endpoint.path
      ? connect({ path: endpoint.path })
      : endpoint.tls
        ? connectTls({ ...target, servername: endpoint.host })
        : connect(target);
    const conclude = (answer: Answer) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => conclude(absent(`no answer within ${deadlineMs / 1000} s`)), deadlineMs);
    let received = Buffer.alloc(0);
    socket.once(endpoint.tls ? 'secureConnect' : 'connect', () => socket.write(hello));
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      const answer = listen(received, (bytes) => socket.write(bytes));
      if (answer) conclude(answer);
    });
    socket.on('error', (error) => conclude(absent(reasonOf(error))));
    socket.on('close', () => conclude(absent('the connection was closed without an answer')));
  });
}

const command = (...words: string[]) =>
  `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`;

/** AUTH with the URL's credentials, then PING (RESP, redis.io/docs/latest/develop/reference/protocol-spec). */
export function greetRedis(url: string): Promise<Answer> {
  const { username, password } = new URL(url);
  const credentials = [username, password].map(decodeURIComponent).filter((word) => word !== '');
  const hello = (password ? command('AUTH', ...credentials) : '') + command('PING');
  return greet(endpointOf(url, 6379), Buffer.from(hello), (received) => {
    const lines = received.toString('latin1').split('\r\n').slice(0, -1);
    for (const line of lines) {
      // A password sent to a server without one is ignored by the real client, so it is no refusal here.
      if (line === '+OK' || /^-ERR .*(without any password|no password is set)/.test(line)) continue;
      if (/^-(NOAUTH|WRONGPASS|DENIED|ERR invalid password)/.test(line)) return refused(line.slice(1));
      if (line.startsWith('-LOADING')) return starting('it is loading its data');
      return /^(\+PONG|-[A-Z]+ )/.test(line) ? ready : absent('what listens there does not speak the Redis protocol');
    }
    return undefined;
  });
}

const PROTOCOL_HEADER = Buffer.from('AMQP\0\0\x09\x01', 'latin1');
const METHOD_FRAME = 1;
const CONNECTION_START = Buffer.from([0, 10, 0, 10]);

/** Sends the AMQP 0-9-1 protocol header and expects Connection.Start (section 4.2.2); credentials are not tried. */
export function greetRabbit(url: string): Promise<Answer> {
  const endpoint = endpointOf(url, url.startsWith('amqps:') ? 5671 : 5672);
  return greet(endpoint, PROTOCOL_HEADER, (received) => {
    if (received[0] !== METHOD_FRAME) return absent('what listens there does not speak AMQP 0-9-1');
    if (received.length < 11) return undefined;
    return received.subarray(7, 11).equals(CONNECTION_START) ? ready : absent('it did not open with Connection.Start');
  });
}
