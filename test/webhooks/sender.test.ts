import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type RequestListener } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createServer, type Server, type Socket } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { afterEach, describe, expect, it } from 'vitest';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import { createSender, type Sender, type SenderOptions } from '../../src/webhooks/sender.ts';
import { generateSecret, parseSecret, sign } from '../../src/webhooks/signature.ts';
import { TLS_CERT, TLS_KEY } from './certificate.ts';

const LOOPBACK = parseAllowNetworks('127.0.0.0/8,::1');

const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Listening {
  readonly port: number;
  readonly url: string;
  /** Every connection that was accepted, in order. */
  readonly sockets: readonly Socket[];
}

async function listen(server: Server, address = '127.0.0.1'): Promise<Listening> {
  const sockets: Socket[] = [];
  server.on('connection', (socket: Socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
  });
  server.listen(0, address);
  await once(server, 'listening');
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new Error('not bound');
  return { port: bound.port, url: `http://${address}:${bound.port}/hook?a=b`, sockets };
}

function subscriber(listener: RequestListener): Promise<Listening> {
  return listen(createHttpServer(listener));
}

/** A server that reads one request and then does as it likes with the bare socket. */
function rawSubscriber(answer: (socket: Socket) => void): Promise<Listening> {
  return listen(createServer((socket) => socket.once('data', () => answer(socket)).on('error', () => {})));
}

function sender(options: Partial<SenderOptions> = {}): Sender {
  const made = createSender({ allow: LOOPBACK, ...options });
  cleanups.push(() => made.close(0));
  return made;
}

function post(to: Sender, url: string, timeoutMs = 5_000, body: Buffer | string = '{}') {
  return to.send({ url, headers: { 'content-type': 'application/json' }, body, timeoutMs });
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error('did not happen in 5 s');
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe('answers', () => {
  it('posts the exact bytes with the headers given, and keeps the answer', async () => {
    let seen: { method?: string; url?: string; headers: IncomingMessage['headers']; body: Buffer } | undefined;
    const { url } = await subscriber(async (request, response) => {
      const { method = '', url = '', headers } = request;
      seen = { method, url, headers, body: await bodyOf(request) };
      response.writeHead(200, { 'retry-after': '7' }).end('thank you: Zoë 🎉');
    });
    const body = JSON.stringify({ name: 'Zoë\u2028🎉' });
    const before = Date.now();
    const attempted = await post(sender({ userAgent: 'Waybill/1.0 (+https://example.com)' }), url, 5_000, body);
    expect(attempted).toEqual({
      statusCode: 200,
      error: null,
      responseBody: 'thank you: Zoë 🎉',
      retryAfter: '7',
      durationMs: expect.any(Number),
      finishedAt: expect.any(Date),
    });
    expect(attempted.finishedAt.getTime()).toBeGreaterThanOrEqual(before);
    expect(seen).toMatchObject({ method: 'POST', url: '/hook?a=b' });
    expect(seen?.headers).toMatchObject({
      'content-type': 'application/json',
      'content-length': String(Buffer.byteLength(body)),
      'user-agent': 'Waybill/1.0 (+https://example.com)',
    });
    expect(seen?.body.toString()).toBe(body);
  });

  it('sends what the public library verifies', async () => {
    const secret = generateSecret();
    const body = Buffer.from(JSON.stringify({ type: 'user.registered', data: { name: 'Zoë' } }));
    const message = { id: 'evt_1', timestamp: Math.floor(Date.now() / 1000), body };
    const verified = Promise.withResolvers<unknown>();
    const { url } = await subscriber(async (request, response) => {
      const payload = await bodyOf(request);
      response.writeHead(204).end();
      try {
        verified.resolve(new Webhook(secret).verify(payload, request.headers as Record<string, string>));
      } catch (error) {
        verified.reject(error);
      }
    });
    const headers = {
      'webhook-id': message.id,
      'webhook-timestamp': String(message.timestamp),
      'webhook-signature': sign([parseSecret(secret)], message),
    };
    await sender().send({ url, headers, body, timeoutMs: 5_000 });
    expect(await verified.promise).toEqual(JSON.parse(body.toString()));
  });

  it('tells an empty answer from none', async () => {
    const { url } = await subscriber((_, response) => response.writeHead(204).end());
    expect(await post(sender(), url)).toMatchObject({
      statusCode: 204,
      error: null,
      responseBody: '',
      retryAfter: null,
    });
  });

  it('passes over informational answers', async () => {
    const { url } = await rawSubscriber((socket) => {
      socket.write(
        'HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok',
      );
    });
    expect(await post(sender(), url)).toMatchObject({ statusCode: 202, error: null, responseBody: 'ok' });
  });

  it.each([301, 302, 303, 307, 308])('does not follow a %d', async (status) => {
    const target = await subscriber((_, response) => response.end('followed'));
    const { url } = await subscriber((_, response) =>
      response.writeHead(status, { location: target.url }).end('moved'),
    );
    expect(await post(sender(), url)).toMatchObject({ statusCode: status, error: null, responseBody: 'moved' });
    expect(target.sockets).toHaveLength(0);
  });

  it('makes text that PostgreSQL takes out of anything', async () => {
    const { url } = await subscriber((_, response) =>
      response.end(Buffer.from([0x61, 0x00, 0xff, 0xc3, 0x28, 0x00, 0x62])),
    );
    expect((await post(sender(), url)).responseBody).toBe('a\ufffd\ufffd(b');
  });
});

describe('large answers', () => {
  it('keeps exactly 16 KiB whole', async () => {
    const { url } = await subscriber((_, response) => response.end('x'.repeat(16_384)));
    expect(await post(sender(), url)).toMatchObject({ statusCode: 200, error: null, responseBody: 'x'.repeat(16_384) });
  });

  it('cuts beyond 16 KiB, never inside a character, and uses the connection again', async () => {
    const { url, sockets } = await subscriber((_, response) => response.end(`x${'é'.repeat(20_000)}`));
    const one = sender({ maxConnectionsPerOrigin: 1 });
    for (const _ of [1, 2]) {
      expect(await post(one, url)).toMatchObject({
        statusCode: 200,
        error: null,
        responseBody: `x${'é'.repeat(8_191)}`,
      });
    }
    expect(sockets).toHaveLength(1);
  });

  it.each([
    ['announced', { 'content-length': String(5 * 1024 * 1024) }],
    ['in chunks', {}],
  ])('cuts off 5 MB %s, at the price of the connection', async (_, headers) => {
    const { url, sockets } = await subscriber((request, response) => {
      request.resume();
      response.writeHead(200, headers).end(Buffer.alloc(5 * 1024 * 1024, 'x'));
    });
    const one = sender({ maxConnectionsPerOrigin: 1 });
    const attempted = await post(one, url);
    expect(attempted).toMatchObject({ statusCode: 200, error: null, responseBody: 'x'.repeat(16_384) });
    await until(() => sockets[0]?.destroyed === true);
    expect(await post(one, url)).toMatchObject({ statusCode: 200 });
    expect(sockets).toHaveLength(2);
  });

  it('ends an answer that never ends, as soon as it has enough', async () => {
    const { url, sockets } = await subscriber((request, response) => {
      request.resume();
      const more = () => {
        while (!response.destroyed && response.write('y'.repeat(4_096)));
      };
      response.writeHead(200).on('drain', more);
      more();
    });
    const attempted = await post(sender(), url, 30_000);
    expect(attempted).toMatchObject({ statusCode: 200, error: null, responseBody: 'y'.repeat(16_384) });
    await until(() => sockets[0]?.destroyed === true);
  });
});

describe('the overall deadline', () => {
  /** Writes `text` over and over, as a slow peer does, until the socket goes. */
  function drip(socket: Socket, text: string): void {
    const timer = setInterval(() => socket.write(text), 20);
    socket.once('close', () => clearInterval(timer));
  }

  it.each([
    ['nothing at all', 'timeout_headers', null, null, () => {}],
    [
      'headers without end',
      'timeout_headers',
      null,
      null,
      (socket: Socket) => {
        socket.write('HTTP/1.1 200 OK\r\n');
        drip(socket, 'x-more: 1\r\n');
      },
    ],
    [
      'a body in drips',
      'timeout_body',
      200,
      /^z+$/,
      (socket: Socket) => {
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nzz');
        drip(socket, 'z');
      },
    ],
    [
      'informational answers without end',
      'timeout_headers',
      null,
      null,
      (socket: Socket) => drip(socket, 'HTTP/1.1 103 Early Hints\r\n\r\n'),
    ],
  ])('cuts %s: %s', async (_, error, statusCode, responseBody, answer) => {
    const { url, sockets } = await rawSubscriber(answer);
    const attempted = await post(sender(), url, 300);
    expect(attempted).toMatchObject({ statusCode, error });
    if (responseBody === null) expect(attempted.responseBody).toBeNull();
    else expect(attempted.responseBody).toMatch(responseBody);
    expect(attempted.durationMs).toBeGreaterThanOrEqual(299);
    expect(attempted.durationMs).toBeLessThan(1_500);
    await until(() => sockets[0]?.destroyed === true);
  });

  it('covers a name that never resolves', async () => {
    const stuck = sender({ resolve: () => new Promise(() => {}) });
    expect(await post(stuck, 'http://stuck.example/', 200)).toMatchObject({
      error: 'timeout_connect',
      statusCode: null,
    });
  });

  it('covers the wait for a connection, and what expired there is never sent nor costs the connection', async () => {
    const bodies: string[] = [];
    const first = Promise.withResolvers<void>();
    const { url, sockets } = await subscriber(async (request, response) => {
      bodies.push((await bodyOf(request)).toString());
      if (bodies.length === 1) await first.promise;
      response.end();
    });
    const one = sender({ maxConnectionsPerOrigin: 1 });
    const slow = post(one, url, 5_000, 'slow');
    await until(() => bodies.length === 1);
    expect(await post(one, url, 200, 'expired')).toMatchObject({ error: 'timeout_connect', statusCode: null });
    const last = post(one, url, 5_000, 'last');
    first.resolve();
    expect(await slow).toMatchObject({ statusCode: 200, error: null });
    expect(await last).toMatchObject({ statusCode: 200, error: null });
    expect(bodies).toEqual(['slow', 'last']);
    expect(sockets).toHaveLength(1);
  });

  it('does not blame the other side for time in which this process was busy', async () => {
    // The subscriber shares this thread: its answer lies in the socket while the thread is held beyond the deadline.
    const { url } = await subscriber((_, response) => {
      response.end('in time');
      const free = performance.now() + 600;
      while (performance.now() < free);
    });
    expect(await post(sender(), url, 300)).toMatchObject({ statusCode: 200, error: null, responseBody: 'in time' });
  });
});

describe('failures of the other side', () => {
  async function closedPort(): Promise<number> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const bound = server.address();
    await new Promise((resolve) => server.close(resolve));
    if (bound === null || typeof bound === 'string') throw new Error('not bound');
    return bound.port;
  }

  it('a closed port', async () => {
    const port = await closedPort();
    expect(await post(sender(), `http://127.0.0.1:${port}/`)).toMatchObject({
      error: 'connection_refused',
      statusCode: null,
    });
    const both = sender({
      resolve: async () => [
        { address: '127.0.0.1', family: 4 },
        { address: '127.0.0.2', family: 4 },
      ],
    });
    expect((await post(both, `http://two.example:${port}/`)).error).toBe('connection_refused');
  });

  it('a name that does not exist', async () => {
    const lost = sender({ resolve: () => Promise.reject(Object.assign(new Error('no'), { code: 'ENOTFOUND' })) });
    expect(await post(lost, 'http://gone.example/')).toMatchObject({
      error: 'dns',
      statusCode: null,
      responseBody: null,
    });
  });

  it.each([
    ['a reset before the status', 'connection_reset', null, (socket: Socket) => socket.resetAndDestroy()],
    ['a close before the status', 'connection_reset', null, (socket: Socket) => socket.end()],
    ['a close amid the headers', 'connection_reset', null, (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nx-a')],
    [
      'a close amid the body',
      'connection_reset',
      200,
      (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf'),
    ],
    [
      'a close amid the chunks',
      'connection_reset',
      200,
      (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n'),
    ],
    ['another protocol', 'invalid_response', null, (socket: Socket) => socket.end('220 mail.example ESMTP\r\n')],
    [
      'endless headers at full speed',
      'invalid_response',
      null,
      (socket: Socket) => {
        socket.write(`HTTP/1.1 200 OK\r\n${'x-more: 1234567890\r\n'.repeat(2_000)}`);
      },
    ],
    [
      '100 without being asked',
      'invalid_response',
      null,
      (socket: Socket) => socket.write('HTTP/1.1 100 Continue\r\n\r\n'),
    ],
    [
      'an upgrade nobody asked for',
      'invalid_response',
      null,
      (socket: Socket) => socket.write('HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n'),
    ],
  ])('%s', async (_, error, statusCode, answer) => {
    const { url } = await rawSubscriber(answer);
    const attempted = await post(sender(), url);
    expect(attempted).toMatchObject({ statusCode, error, responseBody: statusCode === null ? null : 'half' });
  });

  it('a body that ends by closing is whole when nothing else was announced', async () => {
    const { url } = await rawSubscriber((socket) => socket.end('HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall'));
    expect(await post(sender(), url)).toMatchObject({ statusCode: 200, error: null, responseBody: 'all' });
  });

  it('TLS to a plain port, and plain text to a TLS port', async () => {
    const plain = await subscriber((_, response) => response.end());
    expect((await post(sender(), `https://127.0.0.1:${plain.port}/`)).error).toBe('tls');
    const tls = await listen(createHttpsServer({ key: TLS_KEY, cert: TLS_CERT }, (_, response) => response.end()));
    expect((await post(sender(), `http://127.0.0.1:${tls.port}/`)).error).toMatch(
      /^(connection_reset|invalid_response)$/,
    );
  });

  it('a certificate that is not trusted or for another name; a trusted one is taken', async () => {
    const { port } = await listen(
      createHttpsServer({ key: TLS_KEY, cert: TLS_CERT }, (_, response) => response.end('safe')),
    );
    const resolve = async () => [{ address: '127.0.0.1', family: 4 }];
    expect((await post(sender({ resolve }), `https://subscriber.test:${port}/`)).error).toBe('tls');
    const trusting = sender({ resolve, ca: TLS_CERT });
    expect((await post(trusting, `https://other.test:${port}/`)).error).toBe('tls');
    expect(await post(trusting, `https://subscriber.test:${port}/`)).toMatchObject({
      error: null,
      responseBody: 'safe',
    });
  });
});

describe('forbidden addresses', () => {
  it.each([
    'http://127.0.0.1',
    'http://0x7f.1',
    'http://[::1]',
    'http://[::ffff:127.0.0.1]',
    'https://127.0.0.1',
    'http://localhost',
  ])('refuses %s when it is dialled', async (host) => {
    const { port, sockets } = await subscriber((_, response) => response.end());
    const attempted = await post(sender({ allow: [] }), `${host}:${port}/`);
    expect(attempted).toMatchObject({ error: 'forbidden_address', statusCode: null });
    expect(sockets).toHaveLength(0);
  });

  it('refuses a name that rebinds between two deliveries', async () => {
    const inside = await listen(
      createHttpServer((_, response) => response.end('inside')),
      '127.0.0.1',
    );
    const outside = createHttpServer((_, response) => response.writeHead(200, { connection: 'close' }).end('outside'));
    outside.on('connection', (socket) => socket.on('error', () => {}));
    outside.listen(inside.port, '127.0.0.2');
    await once(outside, 'listening');
    cleanups.push(() => new Promise((resolve) => outside.close(resolve)));
    const answers = ['127.0.0.2', '127.0.0.1'];
    const guarded = sender({
      allow: parseAllowNetworks('127.0.0.2'),
      resolve: async () => [{ address: answers.shift() ?? '127.0.0.1', family: 4 }],
    });
    const url = `http://rebind.example:${inside.port}/`;
    expect(await post(guarded, url)).toMatchObject({ statusCode: 200, responseBody: 'outside' });
    expect(await post(guarded, url)).toMatchObject({ statusCode: null, error: 'forbidden_address' });
    expect(inside.sockets).toHaveLength(0);
  });
});

describe('connections', () => {
  it('are kept and used again', async () => {
    const { url, sockets } = await subscriber((_, response) => response.end());
    const keeping = sender({ maxConnectionsPerOrigin: 1 });
    for (let i = 0; i < 5; i++) expect((await post(keeping, url)).statusCode).toBe(200);
    expect(sockets).toHaveLength(1);
  });

  it('closed by the server between two requests cost nothing', async () => {
    const { url, sockets } = await subscriber((_, response) => response.end());
    const keeping = sender({ maxConnectionsPerOrigin: 1 });
    for (let i = 1; i <= 3; i++) {
      expect(await post(keeping, url)).toMatchObject({ statusCode: 200, error: null });
      expect(sockets).toHaveLength(i);
      sockets[i - 1]?.destroy();
    }
  });

  it('that break under a request are reported: what may have been handled is not sent again', async () => {
    let requests = 0;
    const { url, sockets } = await subscriber((request, response) => {
      requests++;
      if (requests === 2) request.socket.resetAndDestroy();
      else response.end();
    });
    const keeping = sender({ maxConnectionsPerOrigin: 1 });
    expect((await post(keeping, url)).statusCode).toBe(200);
    expect(await post(keeping, url)).toMatchObject({ statusCode: null, error: 'connection_reset' });
    expect(requests).toBe(2);
    expect(sockets).toHaveLength(1);
    expect((await post(keeping, url)).statusCode).toBe(200);
  });

  it('are no more than the bound at once', async () => {
    const release = Promise.withResolvers<void>();
    const { url, sockets } = await subscriber(async (_, response) => {
      await release.promise;
      response.end();
    });
    const two = sender({ maxConnectionsPerOrigin: 2 });
    const all = Array.from({ length: 8 }, () => post(two, url));
    await until(() => sockets.length === 2);
    release.resolve();
    for (const attempted of await Promise.all(all)) expect(attempted.statusCode).toBe(200);
    expect(sockets).toHaveLength(2);
  });

  it('of the least recently used origin are closed, after what is in flight', async () => {
    const release = Promise.withResolvers<void>();
    const first = await subscriber(async (_, response) => {
      await release.promise;
      response.end('finished');
    });
    const second = await subscriber((_, response) => response.end());
    const one = sender({ maxOrigins: 1 });
    const pending = post(one, first.url);
    await until(() => first.sockets.length === 1);
    expect((await post(one, second.url)).statusCode).toBe(200);
    release.resolve();
    expect(await pending).toMatchObject({ statusCode: 200, responseBody: 'finished' });
    await until(() => first.sockets[0]?.destroyed === true);
    expect(second.sockets[0]?.destroyed).toBe(false);
  });

  it('of an unused origin are closed', async () => {
    const { url, sockets } = await subscriber((_, response) => response.end());
    const tidy = sender({ idleOriginMs: 50 });
    await post(tidy, url);
    expect(sockets[0]?.destroyed).toBe(false);
    await until(() => sockets[0]?.destroyed === true);
    expect((await post(tidy, url)).statusCode).toBe(200);
  });

  it('survive requests that cannot be sent', async () => {
    const { url } = await subscriber((_, response) => response.end());
    const one = sender({ maxConnectionsPerOrigin: 1 });
    for (const headers of [{ 'x-bad': 'a\r\nb: c' }, { 'bad name': 'x' }, { 'transfer-encoding': 'chunked' }]) {
      const refused = await one.send({ url, headers, body: '{}', timeoutMs: 2_000 });
      expect(refused).toMatchObject({ statusCode: null, error: 'invalid_request' });
      expect(await post(one, url, 2_000)).toMatchObject({ statusCode: 200, error: null });
    }
    for (const bad of ['nonsense', 'ftp://127.0.0.1/', ''])
      expect((await post(one, bad)).error).toBe('invalid_request');
    await expect(post(one, url, 0)).rejects.toThrow(RangeError);
    await expect(post(one, url, Number.NaN)).rejects.toThrow(RangeError);
  });
});

describe('close', () => {
  it('lets what is in flight end, turns away the rest, and can be called twice', async () => {
    const release = Promise.withResolvers<void>();
    const { url, sockets } = await subscriber(async (_, response) => {
      await release.promise;
      response.end('finished');
    });
    const closing = sender();
    const pending = post(closing, url);
    await until(() => sockets.length === 1);
    const closed = Promise.all([closing.close(), closing.close()]);
    expect(await post(closing, url)).toMatchObject({ error: 'sender_closed', statusCode: null });
    release.resolve();
    expect(await pending).toMatchObject({ statusCode: 200, responseBody: 'finished' });
    await closed;
    await until(() => sockets[0]?.destroyed === true);
  });

  it('cuts off what outlasts the grace, running or waiting', async () => {
    const { url, sockets } = await subscriber(() => {});
    const closing = sender({ maxConnectionsPerOrigin: 1 });
    const pending = [post(closing, url, 60_000), post(closing, url, 60_000)];
    await until(() => sockets.length === 1);
    await closing.close(50);
    for (const attempted of await Promise.all(pending)) {
      expect(attempted).toMatchObject({ statusCode: null, error: 'sender_closed' });
    }
  });
});
