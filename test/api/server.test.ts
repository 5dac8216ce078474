import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createRoute, z } from '@hono/zod-openapi';
import { afterEach, describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/app.ts';
import { ok } from '../../src/api/respond.ts';
import { createRouter } from '../../src/api/router.ts';
import { success } from '../../src/api/schemas.ts';
import { createHttpServer, type HttpServer, type ServerOptions } from '../../src/api/server.ts';
import { listening, parcelRouter } from './shell.ts';

let running: HttpServer | undefined;
afterEach(async () => {
  await running?.stop(500);
  running = undefined;
});

async function serve(options: Partial<ServerOptions> & { trustedProxies?: string[] } = {}) {
  const { trustedProxies = [], ...rest } = options;
  const { log } = listening();
  const gate = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  const router = createRouter();
  router.openapi(createRoute({ method: 'get', path: '/held', responses: { 200: success(z.string()) } }), async (c) => {
    held.resolve();
    await gate.promise;
    return ok(c, 'let go');
  });
  const config = {
    corsOrigins: [],
    trustedProxies,
    rateLimits: 'off' as const,
    namespace: 'unused',
    publicUrl: 'http://localhost',
  };
  const app = createApp({ config, log }, { api: [parcelRouter(), router] });
  const server = createHttpServer({ fetch: app.fetch, port: 0, hostname: '127.0.0.1', log, ...rest });
  await server.start();
  running = server;
  return { server, ...server.address(), gate, held };
}

/** Sends raw text and reads until the server closes or `until` has been seen. */
async function raw(port: number, text: string, until?: RegExp): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.write(text);
  return read(socket, until);
}

/** The body of a raw answer of the API, which must be an error. */
function envelope(answer: string): { error: { code: string; message: string } } {
  expect(answer).toMatch(/^HTTP\/1\.1 4\d\d /);
  const [head = '', body = ''] = answer.split('\r\n\r\n');
  const parsed = JSON.parse(body);
  expect(parsed).toMatchObject({ status: 'error', error: { message: expect.any(String) } });
  expect(head.toLowerCase()).toContain('content-type: application/json');
  expect(head.toLowerCase()).toContain(`x-request-id: ${parsed.meta.request_id}`);
  return parsed;
}

function read(socket: Socket, until?: RegExp): Promise<string> {
  return new Promise((resolve) => {
    let seen = '';
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      seen += chunk;
      if (until?.test(seen)) socket.destroy();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(seen));
  });
}

const ipOf = async (url: string, headers: Record<string, string> = {}) => {
  const body = (await (await fetch(`${url}/api/v1/parcels/1`, { headers })).json()) as {
    data: { context: { ip?: string } };
  };
  return body.data.context.ip;
};

describe('the client address', () => {
  it('is the socket’s, whatever X-Forwarded-For says', async () => {
    const { url } = await serve();
    expect(await ipOf(url)).toBe('127.0.0.1');
    expect(await ipOf(url, { 'x-forwarded-for': '203.0.113.9' })).toBe('127.0.0.1');
  });

  it.each([
    ['203.0.113.9', '203.0.113.9'],
    ['6.6.6.6, 203.0.113.9', '203.0.113.9'],
    ['6.6.6.6, 203.0.113.9, 10.1.2.3', '203.0.113.9'],
    ['203.0.113.9:4711, 10.1.2.3', '203.0.113.9'],
    ['[2001:db8::7]:443', '2001:db8::7'],
    ['::ffff:203.0.113.9', '203.0.113.9'],
    ['10.1.2.3', '10.1.2.3'],
    ['nonsense, 10.1.2.3', '10.1.2.3'],
    ['nonsense', '127.0.0.1'],
    ['', '127.0.0.1'],
  ])('behind a trusted proxy, %j is %s', async (forwarded, ip) => {
    const { url } = await serve({ trustedProxies: ['127.0.0.0/8', '10.0.0.0/8'] });
    expect(await ipOf(url, { 'x-forwarded-for': forwarded })).toBe(ip);
  });

  it('does not believe a peer that is no trusted proxy', async () => {
    const { url } = await serve({ trustedProxies: ['10.0.0.0/8', '::1'] });
    expect(await ipOf(url, { 'x-forwarded-for': '203.0.113.9' })).toBe('127.0.0.1');
  });

  it('refuses a proxy list that is none', async () => {
    await expect(serve({ trustedProxies: ['proxy.internal'] })).rejects.toThrow('"proxy.internal" is no trusted proxy');
  });
});

describe('on the wire', () => {
  it('answers 413 to a declared and to a streamed body', async () => {
    const { url, port } = await serve();
    const declared = await fetch(`${url}/api/v1/parcels`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: 'x'.repeat(70_000),
    });
    expect([declared.status, ((await declared.json()) as { error: { code: string } }).error.code]).toEqual([
      413,
      'PAYLOAD_TOO_LARGE',
    ]);
    const chunk = 'x'.repeat(0x8000);
    const streamed = await raw(
      port,
      `POST /api/v1/parcels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${`8000\r\n${chunk}\r\n`.repeat(3)}0\r\n\r\n`,
      /PAYLOAD_TOO_LARGE/,
    );
    expect(streamed).toMatch(/^HTTP\/1\.1 413 /);
  });

  it('takes a streamed body, and a POST without any', async () => {
    const { port, url } = await serve();
    const body = '{"email":"ada@example.com"}';
    const streamed = await raw(
      port,
      `POST /api/v1/parcels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
      /"request_id"/,
    );
    expect(streamed).toMatch(/^HTTP\/1\.1 201 /);
    expect((await fetch(`${url}/api/v1/bodiless`, { method: 'POST' })).status).toBe(200);
    expect(await raw(port, 'POST /api/v1/bodiless HTTP/1.1\r\nHost: localhost\r\n\r\n', /"request_id"/)).toMatch(
      /^HTTP\/1\.1 200 /,
    );
  });

  it.each([
    [
      'a megabyte of headers',
      `GET /livez HTTP/1.1\r\nHost: localhost\r\n${`X-Junk: ${'j'.repeat(1000)}\r\n`.repeat(1000)}\r\n`,
    ],
    [
      'a bad percent-encoding',
      'GET /api/v1/parcels/%zz?%=%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
    ],
    ['no Host', 'GET / HTTP/1.1\r\nConnection: close\r\n\r\n'],
    ['a strange Host', 'GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n'],
    ['bytes in a path', 'GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'],
    ['an address of two slashes', 'GET //evil.example/%2e%2e HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'],
    ['a whole URL', 'GET http://evil.example/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'],
    ['another protocol', '\x16\x03\x01\x02\x00\x01'],
    ['an unknown method', 'BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n'],
    ['a method that is unusual', 'PROPFIND /api/v1/parcels HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'],
  ])('answers 4xx to %s', async (_, text) => {
    const { port } = await serve();
    envelope(await raw(port, text));
  });

  it('answers HTTP/1.0, which knows no Host', async () => {
    const { port } = await serve();
    expect(await raw(port, 'GET /nowhere HTTP/1.0\r\n\r\n')).toMatch(/^HTTP\/1\.1 404 /); // and not 400
  });

  it.each([
    [
      'headers beyond 16 KiB',
      431,
      'PAYLOAD_TOO_LARGE',
      `GET / HTTP/1.1\r\nHost: x\r\nX: ${'j'.repeat(20_000)}\r\n\r\n`,
    ],
    ['another protocol', 400, 'VALIDATION_ERROR', '\x16\x03\x01\x02\x00\x01'],
    ['no Host', 400, 'VALIDATION_ERROR', 'GET /api/v1/parcels HTTP/1.1\r\n\r\n'],
    ['an unknown expectation', 417, 'VALIDATION_ERROR', 'GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n'],
    [
      'a chunk with long extensions',
      413,
      'PAYLOAD_TOO_LARGE',
      `POST /api/v1/parcels HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1;${'e'.repeat(20_000)}\r\n{\r\n`,
    ],
    [
      'a broken body',
      400,
      'VALIDATION_ERROR',
      'POST /api/v1/parcels HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    ],
  ])('tells %s in the words of every other error, and closes', async (_, status, code, text) => {
    const { port } = await serve();
    const answer = await raw(port, text);
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(envelope(answer).error.code).toBe(code);
    expect(answer.toLowerCase()).toContain('\r\nconnection: close\r\n');
  });

  it('never writes a second answer into one that is on its way', async () => {
    const { port } = await serve();
    const good = 'GET /api/v1/parcels HTTP/1.1\r\nHost: x\r\n\r\n';
    const answer = await raw(port, `${good}NONSENSE\r\n\r\n`);
    for (const part of answer.split(/(?=HTTP\/1\.1 )/)) {
      const [head = '', body = ''] = part.split('\r\n\r\n');
      expect(body).toHaveLength(Number(/content-length: (\d+)/i.exec(head)?.[1]));
    }
  });

  it('closes on a client that does not finish its headers or its body', async () => {
    const { port } = await serve({ timeouts: { headers: 200, request: 400, check: 50 } });
    const slow = [
      'GET / HTTP/1.1\r\nHost: local',
      'POST /api/v1/parcels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{',
    ];
    for (const text of slow) {
      const answer = await raw(port, text);
      expect(answer).toMatch(/^HTTP\/1\.1 408 /);
      expect(envelope(answer).error.message).toBe('the request did not arrive whole in time');
    }
  });
});

describe('stopping', () => {
  it('turns away new connections, lets the request in flight finish, and closes idle ones', async () => {
    const order: string[] = [];
    const { server, port, gate, held } = await serve({ onStopping: () => order.push('not ready') });
    const idle = connect(port, '127.0.0.1');
    idle.write('GET /api/v1/parcels HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await once(idle, 'data');
    const inFlight = raw(port, 'GET /api/v1/held HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await held.promise;
    const stopped = server.stop(10_000).then(() => order.push('stopped'));
    expect(order).toEqual(['not ready']);
    await once(idle, 'close');
    const refused = connect(port, '127.0.0.1');
    expect(((await once(refused, 'error')) as [NodeJS.ErrnoException])[0].code).toBe('ECONNREFUSED');
    gate.resolve();
    const answer = await inFlight;
    expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    expect(answer.toLowerCase()).toContain('connection: close');
    await stopped;
    await server.stop(10_000);
    expect(order).toEqual(['not ready', 'stopped']);
  });

  it('cuts off what is left at the deadline', async () => {
    const { server, port, held } = await serve();
    const inFlight = raw(port, 'GET /api/v1/held HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await held.promise;
    const began = performance.now();
    await server.stop(200);
    expect(await inFlight).toBe('');
    expect(performance.now() - began).toBeLessThan(2000);
  });

  it('reports a port that is taken', async () => {
    const { port } = await serve();
    const second = createHttpServer({ fetch: () => new Response(), port, hostname: '127.0.0.1', log: listening().log });
    await expect(second.start()).rejects.toMatchObject({ code: 'EADDRINUSE' });
    await second.stop(100);
  });
});
