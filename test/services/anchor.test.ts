import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createAnchorKeeper } from '../../src/services/anchor.ts';
import { createLogger } from '../../src/services/logger.ts';
import { closeRedis, createRedis } from '../../src/services/redis.ts';
import { eventually } from '../harness.ts';

const namespace = `wb-anchor-${randomBytes(4).toString('hex')}`;
const url = process.env.REDIS_URL || 'redis://localhost:6379';
const redis = createRedis(url, 'fast', createLogger({ level: 'silent' }), 'anchor test');
const hash = (digit: string) => digit.repeat(64);

beforeAll(() => redis.connect());
afterAll(async () => {
  await redis.del(`${namespace}:audit:anchor`);
  await closeRedis(redis);
});

it('keeps the newest anchor, whoever comes last', async () => {
  const keeper = createAnchorKeeper(redis, namespace);
  expect(await keeper.read()).toBeUndefined();
  keeper.keep({ n: 9, hash: hash('a') });
  keeper.keep({ n: 10, hash: hash('b') });
  keeper.keep({ n: 2, hash: hash('c') });
  await eventually(async () => (await keeper.read())?.n === 10, 'the newest is kept');
  expect(await keeper.read()).toEqual({ n: 10, hash: hash('b') });
});

it('knows of none while Redis is away', async () => {
  const away = createRedis('redis://127.0.0.1:1', 'fast', createLogger({ level: 'silent' }), 'away');
  const keeper = createAnchorKeeper(away, namespace);
  keeper.keep({ n: 99, hash: hash('d') });
  expect(await keeper.read()).toBeUndefined();
  away.disconnect();
});
