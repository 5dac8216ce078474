import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { limitKey } from '../../src/api/middleware/client-address.ts';
import { RateLimiter } from '../../src/api/rate-limiter.ts';
import type { RateLimits } from '../../src/config.ts';
import { closeRedis, createRedis } from '../../src/services/redis.ts';
import { envelopeOf, listening, namespace, parcelApp, SESSIONS } from './shell.ts';

const REDIS_URL = process.env.REDIS_URL ?? 'redis://localhost:6379';
const LIMITS: RateLimits = {
  register: { points: 2, duration: 60 },
  login: { points: 2, duration: 60 },
  user: { points: 1, duration: 60 },
  admin: { points: 3, duration: 60 },
};

const { log } = listening();
let redis: Redis;
const used: string[] = [];
beforeAll(async () => {
  redis = createRedis(REDIS_URL, 'fast', log, 'rate-limit test');
  await redis.connect();
});
afterAll(async () => {
  for (const prefix of used) {
    const keys = await redis.keys(`${prefix}:*`);
    if (keys.length > 0) await redis.del(...keys);
  }
  await closeRedis(redis);
});

function limited(client: Redis = redis, name = namespace()) {
  used.push(name);
  return { ...parcelApp({ redis: client }, { rateLimits: LIMITS, namespace: name }), name };
}

const standing = ({ headers }: Response) =>
  ['limit', 'remaining', 'reset'].map((part) => Number(headers.get(`x-ratelimit-${part}`)));

describe('rate limits', () => {
  it('counts down in the headers, then answers 429 with Retry-After', async () => {
    const { app } = limited();
    const first = await app.request('/api/v1/limited');
    const [limit, remaining, reset] = standing(first);
    expect([first.status, limit, remaining]).toEqual([200, 2, 1]);
    expect((reset ?? 0) - Date.now() / 1000).toBeGreaterThan(55);
    expect((reset ?? 0) - Date.now() / 1000).toBeLessThan(62);
    expect(standing(await app.request('/api/v1/limited'))[1]).toBe(0);

    const over = await app.request('/api/v1/limited');
    const { error } = await envelopeOf(over);
    expect([over.status, error.code, standing(over).slice(0, 2)]).toEqual([429, 'RATE_LIMIT_EXCEEDED', [2, 0]]);
    expect(error.retry_after).toBeGreaterThan(55);
    expect(over.headers.get('retry-after')).toBe(String(error.retry_after));
  });

  it('keeps its counts under <namespace>:ratelimit:<group>:<who>, shared by processes', async () => {
    const { app, name } = limited();
    await app.request('/api/v1/limited');
    expect(await redis.keys(`${name}:*`)).toEqual([`${name}:ratelimit:register:unknown`]);
    const { app: neighbour } = limited(redis, name);
    expect(standing(await neighbour.request('/api/v1/limited'))[1]).toBe(0);
  });

  it('counts users by their id, and an admin by the group admin', async () => {
    const { app, name } = limited();
    const as = (token: string) => app.request('/api/v1/mine', { headers: { authorization: `Bearer ${token}` } });
    expect([(await as('ada')).status, (await as('ada')).status]).toEqual([200, 429]);
    expect(standing(await as('root')).slice(0, 2)).toEqual([3, 2]);
    expect((await redis.keys(`${name}:*`)).sort()).toEqual([
      `${name}:ratelimit:admin:${SESSIONS.root?.userId}`,
      `${name}:ratelimit:user:${SESSIONS.ada?.userId}`,
    ]);
  });

  it('is switched off by `off`', async () => {
    const { app } = parcelApp({ redis });
    for (let i = 0; i < 5; i++)
      expect((await app.request('/api/v1/limited')).headers.get('x-ratelimit-limit')).toBeNull();
  });

  it('takes a /64 of IPv6 as one, and a mapped address as IPv4', () => {
    expect(limitKey('2001:db8:1:2:3:4:5:6')).toBe(limitKey('2001:db8:1:2:ffff::1'));
    expect(limitKey('2001:db8:1:2::1')).not.toBe(limitKey('2001:db8:1:3::1'));
    expect(limitKey('2001:db8:1:2::1')).not.toContain(':');
    expect(limitKey('::ffff:192.0.2.1')).toBe('192.0.2.1');
    expect(limitKey(undefined)).toBe('unknown');
  });
});

describe('without Redis', () => {
  it('limits in memory, at once, when nothing listens', async () => {
    const dead = createRedis('redis://127.0.0.1:1', 'fast', log, 'dead');
    dead.connect().catch(() => undefined);
    const { app } = limited(dead);
    const began = performance.now();
    const answers = [
      await app.request('/api/v1/limited'),
      await app.request('/api/v1/limited'),
      await app.request('/api/v1/limited'),
    ];
    expect(answers.map((answer) => answer.status)).toEqual([200, 200, 429]);
    expect(performance.now() - began).toBeLessThan(500);
    dead.disconnect();
  });

  it('waits once 100 ms, not each time, when Redis stops answering', async () => {
    const target = new URL(REDIS_URL);
    const sockets: Socket[] = [];
    let silent = false;
    const between = createServer((client) => {
      const upstream = connect(Number(target.port || 6379), target.hostname);
      sockets.push(client, upstream);
      client.on('data', (chunk) => silent || upstream.write(chunk));
      upstream.on('data', (chunk) => silent || client.write(chunk));
    });
    await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
    const { port } = between.address() as AddressInfo;
    const client = createRedis(`redis://127.0.0.1:${port}`, 'fast', log, 'silent');
    await client.connect();
    const name = namespace();
    used.push(name);
    const limiter = new RateLimiter({ redis: client, namespace: name, limits: LIMITS, log });
    expect(await limiter.take('register', 'x')).toMatchObject({ allowed: true, remaining: 1 });

    silent = true;
    const began = performance.now();
    const states = [
      await limiter.take('register', 'x'),
      await limiter.take('register', 'x'),
      await limiter.take('register', 'x'),
    ];
    const took = performance.now() - began;
    expect(states.map((state) => state.allowed)).toEqual([true, true, false]);
    expect(took).toBeGreaterThan(90);
    expect(took).toBeLessThan(190);
    client.disconnect();
    for (const socket of sockets) socket.destroy();
    between.close();
  });
});
