import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import { poolRoutes } from '../../../src/api/routes/pools.ts';
import { POOLS } from '../../../src/config.ts';
import { type PoolState, PoolView } from '../../../src/queues/pool-view.ts';
import { createLogger } from '../../../src/services/logger.ts';
import { createHarness, type Harness } from '../../harness.ts';

const USER = '019a9f3e-6b00-7a11-8e22-3f4455667788';
let h: Harness;
let app: ReturnType<typeof createApp>;
let announced = 0;
const db = () => h.database.em.fork().getKysely();

beforeAll(async () => {
  h = await createHarness({ KYC_CONCURRENCY: '13' });
  const { database, messaging, config } = h;
  const view = new PoolView({ messaging, database, concurrency: config.concurrency });
  const announce = async () => {
    announced += 1;
  };
  app = createApp(
    {
      config: { ...config, rateLimits: 'off' },
      log: createLogger({ level: 'silent' }),
      authenticate: async (role) => ({ userId: USER, sessionId: USER, role }),
    },
    { api: [poolRoutes({ transact: messaging.transact, poolStates: () => view.states(), announce })] },
  );
});
afterAll(() => h.close());

interface Body<T> {
  data: T;
  error: { code: string; field?: string };
}

async function call<T = PoolState[]>(path = '', options: { role?: string; body?: unknown } = {}) {
  const { role = 'operator', body } = options;
  const answer = await app.request(`/api/v1/admin/pools${path}`, {
    method: body === undefined ? 'GET' : 'PATCH',
    headers: { ...(role ? { authorization: `Bearer ${role}` } : {}), 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: (await answer.json()) as Body<T> };
}

const patch = (pool: string, body: unknown, role = 'operator') => call<PoolState>(`/${pool}`, { role, body });
const revision = async () =>
  Number(
    (await sql<{ revision: string }>`select revision from revisions where name = 'pools'`.execute(db())).rows[0]
      ?.revision,
  );

it('lists every pool, whether or not anybody works on it', async () => {
  const { status, body } = await call();
  expect(status).toBe(200);
  expect(body.data.map(({ pool }) => pool)).toEqual(POOLS);
  expect(body.data.find(({ pool }) => pool === 'kyc')).toEqual({
    pool: 'kyc',
    concurrency: 13,
    paused: false,
    backlog: 0,
    oldest_age_ms: 0,
    in_flight: 0,
    dead_letters: 0,
    workers: [],
  });
});

it('counts the dead letters of a pool’s queue', async () => {
  await sql`insert into dead_letters (id, queue, reason, body) values (gen_random_uuid(), ${h.messaging.topology.queue('fanout')}, 'x', '')`.execute(
    db(),
  );
  expect((await call()).body.data.find(({ pool }) => pool === 'fanout')?.dead_letters).toBe(1);
});

it('changes what is given and leaves the rest, with an audit row and a word to the workers', async () => {
  const [before, told] = [await revision(), announced];
  expect((await patch('email', { concurrency: 7 })).body.data).toMatchObject({
    pool: 'email',
    concurrency: 7,
    paused: false,
  });
  expect((await patch('email', { paused: true })).body.data).toMatchObject({ concurrency: 7, paused: true });
  expect((await patch('email', { concurrency: null }, 'admin')).body.data).toMatchObject({
    concurrency: h.config.concurrency.email,
    paused: true,
  });
  expect((await call()).body.data.find(({ pool }) => pool === 'email')).toMatchObject({ paused: true });
  expect([await revision(), announced]).toEqual([before + 3, told + 3]);
  const { rows } = await sql<{ body: string }>`select body from outbox where target = 'audit' order by id`.execute(
    db(),
  );
  expect(rows.map(({ body }) => JSON.parse(body).data)).toMatchObject([
    {
      action: 'pool.changed',
      targets: [{ type: 'pool', id: 'email' }],
      metadata: { concurrency: 7 },
      actor: { id: USER },
    },
    { metadata: { paused: true } },
    { metadata: { concurrency: 'as started' } },
  ]);
  const set = await sql`select pool, concurrency, paused, updated_by from pool_settings`.execute(db());
  expect(set.rows).toEqual([{ pool: 'email', concurrency: null, paused: true, updated_by: `user:${USER}` }]);
});

it.each([
  [{}, undefined],
  [[], undefined],
  [{ paused: 'yes' }, 'paused'],
  [{ paused: null }, 'paused'],
  [{ concurrency: 0 }, 'concurrency'],
  [{ concurrency: -1 }, 'concurrency'],
  [{ concurrency: 1.5 }, 'concurrency'],
  [{ concurrency: 10_001 }, 'concurrency'],
  [{ concurrency: '5' }, 'concurrency'],
  [{ backlog: 0 }, 'backlog'],
])('refuses the body %j and changes nothing', async (body, field) => {
  const before = await revision();
  const answer = await patch('kyc', body);
  expect([answer.status, answer.body.error.code, answer.body.error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
  expect(await revision()).toBe(before);
});

it('refuses to touch housekeeping, and does not know other pools', async () => {
  const before = await revision();
  for (const body of [{ paused: true }, { concurrency: 3 }]) {
    const answer = await patch('housekeeping', body);
    expect([answer.status, answer.body.error]).toMatchObject([409, { code: 'CONFLICT', field: Object.keys(body)[0] }]);
  }
  for (const pool of ['nope', 'Email', '__proto__', 'x'.repeat(40)]) {
    expect([pool, (await patch(pool, { paused: true })).status]).toEqual([pool, 404]);
  }
  expect((await patch('x'.repeat(41), { paused: true })).status).toBe(400);
  expect(await revision()).toBe(before);
});

it('is for admins and operators', async () => {
  for (const path of ['', '/email']) {
    const as = (role: string) => call(path, { role, ...(path ? { body: { paused: true } } : {}) });
    expect([path, (await as('')).status, (await as('user')).status]).toEqual([path, 401, 403]);
    expect([path, (await as('operator')).status, (await as('admin')).status]).toEqual([path, 200, 200]);
  }
});
