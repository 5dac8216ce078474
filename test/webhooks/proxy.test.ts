import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type RequestListener } from 'node:http';
import { createServer as createHttpsServer, type ServerOptions } from 'node:https';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { parseAllowNetworks } from '../../src/webhooks/addresses.ts';
import { createSender, type Sender, type SenderOptions } from '../../src/webhooks/sender.ts';
import { LOOPBACK_CERT, LOOPBACK_KEY, TLS_CERT, TLS_KEY } from './certificate.ts';

const LOOPBACK = parseAllowNetworks('127.0.0.0/8,::1');
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function listen(server: Server): Promise<number> {
  const sockets: Socket[] = [];
  server.on('connection', (socket: Socket) => sockets.push(socket.on('error', () => {})));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new Error('not bound');
  return bound.port;
}

interface Proxy {
  port: number;
  /** The target of every CONNECT, with what it was told of who asks. */
  asked: { target: string; authorization: string | undefined }[];
}

/** Dials every target on loopback, whatever its name, unless `answer` gives another status than 200; 0 says nothing. */
async function startProxy(answer: (target: string) => number = () => 200, tls?: ServerOptions): Promise<Proxy> {
  const asked: Proxy['asked'] = [];
  const server = tls ? createHttpsServer(tls) : createHttpServer();
  server.on('connect', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    const target = request.url ?? '';
    asked.push({ target, authorization: request.headers['proxy-authorization'] });
    socket.on('error', () => {});
    const status = answer(target);
    if (status === 0) return;
    if (status !== 200) return socket.end(`HTTP/1.1 ${status} No\r\ncontent-length: 0\r\n\r\n`);
    const onward = connect(Number(target.split(':').at(-1)), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      onward.write(head);
      onward.pipe(socket).pipe(onward);
    });
    onward.on('error', () => socket.destroy());
    cleanups.push(async () => onward.destroy());
  });
  return { port: await listen(server), asked };
}

const subscriber = (listener: RequestListener) => listen(createHttpServer(listener));
const secureSubscriber = (listener: RequestListener) =>
  listen(createHttpsServer({ key: TLS_KEY, cert: TLS_CERT }, listener));

function sender(proxy: string, options: Partial<SenderOptions> = {}, resolves = false): Sender {
  const made = createSender({ allow: LOOPBACK, proxy: { url: proxy, resolves }, ...options });
  cleanups.push(() => made.close(0));
  return made;
}

const post = (to: Sender, url: string, timeoutMs = 10_000) =>
  to.send({ url, headers: { 'content-type': 'application/json' }, body: '{"a":1}', timeoutMs });

const at = (address: string) => async () => [{ address, family: address.includes(':') ? 6 : 4 }];
const PUBLIC = '93.184.215.14';

describe('through a proxy', () => {
  it('posts by a tunnel that is kept, with credentials for the proxy alone', async () => {
    const seen: IncomingMessage['headers'][] = [];
    const port = await subscriber((request, response) => {
      seen.push(request.headers);
      request.resume().on('end', () => response.end('thanks'));
    });
    const proxy = await startProxy();
    const to = sender(`http://us%65r:p%40ss@127.0.0.1:${proxy.port}`, { maxConnectionsPerOrigin: 1 });
    for (let n = 0; n < 3; n += 1)
      expect(await post(to, `http://127.0.0.1:${port}/hook`)).toMatchObject({
        statusCode: 200,
        responseBody: 'thanks',
      });
    const authorization = `Basic ${Buffer.from('user:p@ss').toString('base64')}`;
    expect(proxy.asked).toEqual([{ target: `127.0.0.1:${port}`, authorization }]);
    expect(seen.map((headers) => headers['proxy-authorization'])).toEqual([undefined, undefined, undefined]);
  });

  it('asks for the address that was checked, and speaks TLS with the name', async () => {
    const hosts: (string | undefined)[] = [];
    const port = await secureSubscriber((request, response) => {
      hosts.push(request.headers.host);
      request.resume().on('end', () => response.writeHead(204).end());
    });
    const proxy = await startProxy();
    const to = sender(`http://127.0.0.1:${proxy.port}`, { resolve: at(PUBLIC), ca: TLS_CERT });
    expect(await post(to, `https://subscriber.test:${port}/`)).toMatchObject({ statusCode: 204, error: null });
    expect(proxy.asked.map(({ target }) => target)).toEqual([`${PUBLIC}:${port}`]);
    expect(hosts).toEqual([`subscriber.test:${port}`]);
    // The certificate is not for this name, whatever the proxy dials.
    expect(await post(to, `https://other.test:${port}/`)).toMatchObject({ statusCode: null, error: 'tls' });
  });

  it('prefers IPv4, and writes IPv6 as a host', async () => {
    const port = await subscriber((request, response) => request.resume().on('end', () => response.end()));
    const proxy = await startProxy();
    const both = [
      { address: '2606:2800:21f::1', family: 6 },
      { address: PUBLIC, family: 4 },
    ];
    const url = `http://127.0.0.1:${proxy.port}`;
    expect((await post(sender(url, { resolve: async () => both }), `http://a.test:${port}/`)).statusCode).toBe(200);
    await post(sender(url, { resolve: at('2606:2800:21f::1') }), `http://a.test:${port}/`);
    expect(proxy.asked.map(({ target }) => target)).toEqual([`${PUBLIC}:${port}`, `[2606:2800:21f::1]:${port}`]);
  });

  it('by an https proxy, whose certificate has to be its own', async () => {
    const port = await secureSubscriber((request, response) => request.resume().on('end', () => response.end()));
    const proxy = await startProxy(() => 200, { key: LOOPBACK_KEY, cert: LOOPBACK_CERT });
    const other = await startProxy(() => 200, { key: TLS_KEY, cert: TLS_CERT });
    const options = { resolve: at(PUBLIC), ca: `${TLS_CERT}\n${LOOPBACK_CERT}` };
    const by = ({ port }: Proxy) => sender(`https://127.0.0.1:${port}`, options);
    const url = `https://subscriber.test:${port}/`;
    expect(await post(by(proxy), url)).toMatchObject({ statusCode: 200, error: null });
    expect(await post(by(other), url)).toMatchObject({ statusCode: null, error: 'proxy_unusable' });
    expect(other.asked).toEqual([]);
  });

  it.each([
    ['http://10.0.0.7/', at(PUBLIC)],
    ['http://[::ffff:169.254.169.254]/', at(PUBLIC)],
    ['http://inner.test/', at('10.0.0.7')],
    ['http://two.test/', async () => [...(await at(PUBLIC)()), ...(await at('192.168.0.1')())]],
  ])('never asks for %s', async (url, resolve) => {
    const proxy = await startProxy();
    const to = sender(`http://127.0.0.1:${proxy.port}`, { resolve });
    expect(await post(to, url)).toMatchObject({ statusCode: null, error: 'forbidden_address' });
    expect(proxy.asked).toEqual([]);
  });

  it('leaves names to a proxy that resolves them, and literal addresses not', async () => {
    const port = await subscriber((request, response) => request.resume().on('end', () => response.end()));
    const proxy = await startProxy();
    const resolve = async () => {
      throw new Error('no name is resolved here');
    };
    const to = sender(`http://127.0.0.1:${proxy.port}`, { resolve }, true);
    expect((await post(to, `http://inner.test:${port}/`)).statusCode).toBe(200);
    expect((await post(to, `http://10.0.0.7:${port}/`)).error).toBe('forbidden_address');
    expect(proxy.asked.map(({ target }) => target)).toEqual([`inner.test:${port}`]);
  });
});

describe('a proxy that makes no tunnel', () => {
  it.each([
    [403, 'proxy_refused'],
    [502, 'proxy_refused'],
    [302, 'proxy_refused'],
    [407, 'proxy_unusable'],
  ])('with %i is named, and the next attempt asks again', async (status, error) => {
    const proxy = await startProxy(() => status);
    const to = sender(`http://127.0.0.1:${proxy.port}`);
    for (let n = 0; n < 2; n += 1)
      expect(await post(to, 'https://127.0.0.1:9/')).toMatchObject({ statusCode: null, responseBody: null, error });
    expect(proxy.asked).toHaveLength(2);
  });

  it('that is not there, or is no proxy, is named', async () => {
    const gone = createServer();
    const port = await listen(gone);
    await cleanups.pop()?.();
    expect((await post(sender(`http://127.0.0.1:${port}`), 'http://127.0.0.1:9/')).error).toBe('proxy_unusable');
    const mute = await listen(createServer((socket) => void socket.once('data', () => socket.end('SSH-2.0\r\n'))));
    expect((await post(sender(`http://127.0.0.1:${mute}`), 'http://127.0.0.1:9/')).error).toBe('proxy_unusable');
    const closing = await listen(createServer((socket) => void socket.once('data', () => socket.destroy())));
    expect((await post(sender(`http://127.0.0.1:${closing}`), 'http://127.0.0.1:9/')).error).toBe('proxy_unusable');
  });

  it('that never answers costs the connect timeout', async () => {
    const proxy = await startProxy(() => 0);
    const to = sender(`http://127.0.0.1:${proxy.port}`, { connectTimeoutMs: 200 });
    expect((await post(to, 'http://127.0.0.1:9/', 60_000)).error).toBe('timeout_connect');
  });

  it('to one subscriber makes tunnels to the others', async () => {
    const port = await subscriber((request, response) => request.resume().on('end', () => response.end()));
    const proxy = await startProxy((target) => (target.startsWith(PUBLIC) ? 504 : 200));
    const to = sender(`http://127.0.0.1:${proxy.port}`);
    const [bad, good] = await Promise.all([post(to, `http://${PUBLIC}/`), post(to, `http://127.0.0.1:${port}/`)]);
    expect([bad.error, good.statusCode]).toEqual(['proxy_refused', 200]);
  });

  it('that breaks a tunnel is as any connection that breaks', async () => {
    const port = await subscriber((request) => request.socket.destroy());
    const proxy = await startProxy();
    expect((await post(sender(`http://127.0.0.1:${proxy.port}`), `http://127.0.0.1:${port}/`)).error).toBe(
      'connection_reset',
    );
  });
});
