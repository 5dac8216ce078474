import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createLogger } from '../../src/services/logger.ts';
import { closeRedis, createRedis } from '../../src/services/redis.ts';
import { eventually } from '../harness.ts';
import { createProxy, type Proxied } from '../queues/proxy.ts';
import { createInstallation, endAll, type Installation, REDIS_URL, request, waybill } from './waybill.ts';

// Two API processes: a session that one of them ends is over in the other.

vi.setConfig({ testTimeout: 180_000, hookTimeout: 60_000 });

let installation: Installation;
let proxy: Proxied;
let bases: string[];
beforeEach(async () => {
  installation = await createInstallation('migrated');
  proxy = await createProxy(REDIS_URL);
  bases = [];
  for (const env of [{}, { REDIS_URL: proxy.url }]) {
    const api = waybill(['api'], { ...installation.env, ...env }, { cwd: installation.directory });
    bases.push((await api.prints(/"url":"(http:\/\/localhost:\d+)"/, 90_000))[1] ?? '');
  }
});
afterEach(async () => {
  await endAll();
  await proxy?.close();
  await installation?.remove();
});

const bearer = (token: unknown) => ({ authorization: `Bearer ${token}` });
const me = async (base: string, token: unknown) =>
  (await request(base, 'GET', '/users/me', { headers: bearer(token) })).status;

test('a session that is ended in one process is over in the other, also when Redis was emptied or is away', async () => {
  const [here = '', there = ''] = bases;
  const signIn = async () => {
    const { body } = await request(here, 'POST', '/auth/login', { body: installation.admin });
    return body.data?.access_token;
  };
  const end = async (token: unknown) =>
    expect((await request(here, 'POST', '/auth/logout', { headers: bearer(token) })).status).toBe(200);
  /** Whatever the other process keeps in memory of a session, it has it after this. */
  const remembered = async (token: unknown) => {
    for (let n = 0; n < 20; n += 1) expect(await me(there, token)).toBe(200);
  };
  /** The request after next at the latest: the first may stand before the notice in the same turn of the event loop. */
  const over = async (token: unknown) => {
    await me(there, token);
    expect(await me(there, token)).toBe(401);
  };

  for (let round = 0; round < 5; round += 1) {
    const token = await signIn();
    await remembered(token);
    await end(token);
    await over(token);
  }

  const emptied = await signIn();
  await remembered(emptied);
  const redis = createRedis(REDIS_URL, 'patient', createLogger({ level: 'silent' }), 'test');
  const keys = await redis.keys(`${installation.env.NAMESPACE}:*`);
  if (keys.length > 0) await redis.del(keys);
  await closeRedis(redis);
  await end(emptied);
  await over(emptied);

  const away = await signIn();
  await remembered(away);
  proxy.cut();
  await end(away);
  await eventually(async () => (await me(there, away)) === 401, 'the token is refused without Redis', 5000);
  const later = await signIn();
  await remembered(later);
  await end(later);
  await over(later);
});
