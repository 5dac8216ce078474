import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import { endpointOf } from './endpoint.ts';
import { type Answer, absent, greet, ready, refused, starting } from './handshake.ts';

const PROTOCOL_3_0 = 196_608;
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
const HEADER = 5;

const md5 = (...parts: (string | Uint8Array)[]) => {
  const hash = createHash('md5');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
};
const hmac = (key: Uint8Array, text: string) => createHmac('sha256', key).update(text).digest();

const int32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};

function passwordMessage(body: Buffer): Buffer {
  return Buffer.concat([Buffer.from('p'), int32(body.length + 4), body]);
}

/** One SCRAM-SHA-256 exchange (RFC 5802, RFC 7677) without channel binding. */
function scram(password: string) {
  const nonce = randomBytes(18).toString('base64');
  const first = `n=,r=${nonce}`;
  return {
    begin(): Buffer {
      const initial = Buffer.from(`n,,${first}`);
      return passwordMessage(Buffer.concat([Buffer.from('SCRAM-SHA-256\0'), int32(initial.length), initial]));
    },
    answer(challenge: string): Buffer {
      const field = (name: string) =>
        challenge
          .split(',')
          .find((it) => it.startsWith(`${name}=`))
          ?.slice(2) ?? '';
      const salted = pbkdf2Sync(password, Buffer.from(field('s'), 'base64'), Number(field('i')), 32, 'sha256');
      const key = hmac(salted, 'Client Key');
      const final = `c=biws,r=${field('r')}`;
      const signature = hmac(createHash('sha256').update(key).digest(), `${first},${challenge},${final}`);
      const proof = Buffer.from(key.map((byte, at) => byte ^ (signature[at] ?? 0))).toString('base64');
      return passwordMessage(Buffer.from(`${final},p=${proof}`));
    },
  };
}

function judgeError(body: Buffer): Answer {
  const fields = body.toString('utf8').split('\0');
  const field = (name: string) => fields.find((it) => it.startsWith(name))?.slice(1) ?? '';
  const code = field('C');
  if (code.startsWith('28')) return refused(field('M'));
  if (code === '57P03') return starting(field('M'));
  // Any other refusal (an unknown database, too many clients …) comes from a server that works.
  return ready;
}

/**
 * Starts a session as the URL's user and stops as soon as the server has accepted the credentials (PostgreSQL
 * frontend/backend protocol 3.0, chapter "Message Flow"). A missing database counts as an answer. With `sslmode`
 * set, or without a password in the URL, the credentials are left to the real client.
 */
export function greetPostgres(url: string): Promise<Answer> {
  const { username, password, pathname, searchParams } = new URL(url);
  const endpoint = endpointOf(url, 5432);
  const sslMode = searchParams.get('sslmode') ?? 'disable';
  if (sslMode !== 'disable' && endpoint.path === undefined) {
    return greet(endpoint, SSL_REQUEST, (received) =>
      received.length === 1 && 'SN'.includes(received.toString('latin1'))
        ? ready
        : absent('what listens there does not speak the PostgreSQL protocol'),
    );
  }

  const user = decodeURIComponent(username) || 'postgres';
  const secret = decodeURIComponent(password);
  const database = decodeURIComponent(pathname.slice(1)) || user;
  const parameters = Buffer.from(`user\0${user}\0database\0${database}\0\0`);
  const hello = Buffer.concat([int32(parameters.length + 8), int32(PROTOCOL_3_0), parameters]);
  const exchange = scram(secret);
  let offset = 0;

  return greet(endpoint, hello, (received, send) => {
    while (received.length >= offset + HEADER) {
      const type = String.fromCharCode(received[offset] ?? 0);
      if (!'REvNSKZ'.includes(type)) return absent('what listens there does not speak the PostgreSQL protocol');
      const end = offset + 1 + received.readInt32BE(offset + 1);
      if (received.length < end) return undefined;
      const body = received.subarray(offset + HEADER, end);
      offset = end;
      if (type === 'E') return judgeError(body);
      // What follows AuthenticationOk: the role was found too, and a missing one would have been an error by now.
      if ('SKZ'.includes(type)) return ready;
      if (type !== 'R') continue;
      const method = body.readInt32BE(0);
      if (method === 0) continue;
      if (secret === '') return ready;
      if (method === 3) send(passwordMessage(Buffer.from(`${secret}\0`)));
      else if (method === 5) {
        send(passwordMessage(Buffer.from(`md5${md5(md5(secret, user), body.subarray(4, 8))}\0`)));
      } else if (method === 10 && body.includes('SCRAM-SHA-256\0')) send(exchange.begin());
      else if (method === 11) send(exchange.answer(body.subarray(4).toString('utf8')));
      else if (method !== 12) return ready;
    }
    return undefined;
  });
}
