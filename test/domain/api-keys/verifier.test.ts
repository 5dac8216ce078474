import type { Redis } from 'ioredis';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createApiKey, getApiKey, revokeApiKey } from '../../../src/domain/api-keys/api-keys.ts';
import { newKey } from '../../../src/domain/api-keys/key.ts';
import { KeyUsage } from '../../../src/domain/api-keys/usage.ts';
import { ApiKeyVerifier } from '../../../src/domain/api-keys/verifier.ts';
import { newId } from '../../../src/domain/ids.ts';
import { Notices } from '../../../src/services/notices.ts';
import { closeRedis, connectSoon, createRedis } from '../../../src/services/redis.ts';
import { CACHE_LIFE_MS } from '../../../src/services/revision.ts';
import { createHarness, eventually, type Harness } from '../../harness.ts';

let h: Harness;
const opened: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  h = await createHarness();
});
afterAll(() => h.close());
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close();
});

const context = { requestId: 'r', correlationId: 'r', actor: { type: 'user', id: newId(), role: 'admin' } as const };
const create = (more: { expiresAt?: string } = {}) =>
  h.messaging.transact(context, (unit) =>
    createApiKey(unit, { name: 'Billing', tenant: 'acme', scopes: ['events:write', 'events:read'], ...more }),
  );
const revoke = (id: string) => h.messaging.transact(context, (unit) => revokeApiKey(unit, { id }));
const run = (query: ReturnType<typeof sql>) => query.execute(h.database.em.fork().getKysely());
const em = () => h.database.em.fork();

/** What a process of its own has: its connections to Redis, its notices, its memory of keys. */
async function anotherProcess(): Promise<{ verifier: ApiKeyVerifier; notices: Notices; subscriber: Redis }> {
  const publisher = createRedis(h.config.redisUrl, 'fast', h.log, 'publisher');
  const subscriber = createRedis(h.config.redisUrl, 'patient', h.log, 'subscriber');
  const notices = new Notices({ publisher, subscriber, namespace: h.config.namespace });
  await notices.start();
  for (const client of [publisher, subscriber]) connectSoon(client);
  const verifier = new ApiKeyVerifier({ database: h.database, log: h.log, notices });
  await verifier.start();
  opened.push(async () => {
    await verifier.stop();
    await notices.stop();
    await Promise.all([publisher, subscriber].map(closeRedis));
  });
  return { verifier, notices, subscriber };
}

const settled = (notices: Notices) =>
  eventually(() => performance.now() - (notices.since ?? Number.POSITIVE_INFINITY) > CACHE_LIFE_MS, 'hearing for long');

/** How long the key still counted, in ms. */
async function untilRefused(verifier: ApiKeyVerifier, key: string): Promise<number> {
  const began = performance.now();
  await eventually(async () => (await verifier.authenticate(key)) === undefined, 'refused', 5000);
  return performance.now() - began;
}

describe('an API key', () => {
  it('says whose it is', async () => {
    const { verifier } = await anotherProcess();
    const { id, key } = await create();
    expect(await verifier.authenticate(key)).toMatchObject({
      keyId: id,
      tenant: 'acme',
      scopes: ['events:write', 'events:read'],
    });
  });

  it('is refused when it is malformed, unknown, or changed by one character', async () => {
    const { verifier } = await anotherProcess();
    const { key } = await create();
    const changed = key.slice(0, 20) + (key[20] === 'a' ? 'b' : 'a') + key.slice(21);
    for (const text of ['', 'wb_', 'wb_x', newKey().key, changed, `${key} `, key.toUpperCase()])
      expect(await verifier.authenticate(text)).toBeUndefined();
  });

  it('is refused from its expiry on, also by a process that knows it', async () => {
    const { verifier } = await anotherProcess();
    const { key } = await create({ expiresAt: new Date(Date.now() + 400).toISOString() });
    expect(await verifier.authenticate(key)).toBeDefined();
    expect(await untilRefused(verifier, key)).toBeLessThan(1000);
  });

  it('is stored as a hash alone', async () => {
    const { key } = await create();
    const { rows } = await sql<{ row: string }>`
      select row_to_json(k)::text as row from api_keys k union all select body from outbox`.execute(em().getKysely());
    expect(rows.length).toBeGreaterThan(1);
    for (const { row } of rows) expect(row).not.toContain(key.slice(10));
    expect(h.logged.join('')).not.toContain(key.slice(10));
  });
});

describe('revoking', () => {
  it('is in force at once in every process that hears of it', async () => {
    const [a, b] = [await anotherProcess(), await anotherProcess()];
    await Promise.all([settled(a.notices), settled(b.notices)]);
    const { id, key } = await create();
    expect(await a.verifier.authenticate(key)).toBeDefined();
    expect(await b.verifier.authenticate(key)).toBeDefined();
    await revoke(id);
    await a.verifier.changed();
    expect(await a.verifier.authenticate(key)).toBeUndefined();
    expect(await untilRefused(b.verifier, key)).toBeLessThan(CACHE_LIFE_MS / 2);
  });

  it('is in force within a second where the notice got lost', async () => {
    const { verifier, notices } = await anotherProcess();
    await settled(notices);
    const { id, key } = await create();
    expect(await verifier.authenticate(key)).toBeDefined();
    await revoke(id);
    expect(await untilRefused(verifier, key)).toBeLessThan(CACHE_LIFE_MS + 500);
  });

  it('is in force at once where no notice can come: without Redis, and soon after it came back', async () => {
    const without = new ApiKeyVerifier({ database: h.database, log: h.log });
    const deaf = await anotherProcess();
    await settled(deaf.notices);
    deaf.subscriber.disconnect();
    await eventually(() => deaf.notices.since === undefined, 'deaf');
    const young = await anotherProcess();
    await eventually(() => young.notices.since, 'subscribed');
    for (const verifier of [without, young.verifier, deaf.verifier]) {
      const { id, key } = await create();
      expect(await verifier.authenticate(key)).toBeDefined();
      await revoke(id);
      expect(await verifier.authenticate(key)).toBeUndefined();
    }
  });

  it('hears again after a reconnect', async () => {
    const { notices, subscriber } = await anotherProcess();
    const before = await eventually(() => notices.since, 'subscribed');
    subscriber.disconnect(true);
    await eventually(() => notices.since !== undefined && notices.since > before, 'subscribed again');
    let heard = 0;
    notices.onNotice('api_keys', () => {
      heard += 1;
    });
    await h.messaging.redis.publish(`${h.config.namespace}:revisions`, 'api_keys');
    await eventually(() => heard === 1, 'a notice');
  });

  it('waits for one cache life when Redis cannot tell the others', async () => {
    const away = createRedis('redis://127.0.0.1:9', 'fast', h.log, 'away');
    opened.push(() => closeRedis(away));
    const notices = new Notices({ publisher: away, subscriber: away, namespace: h.config.namespace });
    const verifier = new ApiKeyVerifier({ database: h.database, log: h.log, notices });
    const began = performance.now();
    await verifier.changed();
    expect(performance.now() - began).toBeGreaterThanOrEqual(CACHE_LIFE_MS - 5);
  });
});

describe('a key that was seen before', () => {
  it('costs no round trip while notices come in, and is not trusted for longer than a second', async () => {
    const { verifier, notices } = await anotherProcess();
    await settled(notices);
    const { key } = await create();
    const unknown = newKey().key;
    await verifier.authenticate(unknown);
    expect(await verifier.authenticate(key)).toBeDefined();
    await run(sql`alter table api_keys rename to api_keys_away`);
    await run(sql`alter table revisions rename to revisions_away`);
    try {
      expect(await verifier.authenticate(key)).toBeDefined();
      expect(await verifier.authenticate(unknown)).toBeUndefined();
      await eventually(
        () =>
          verifier.authenticate(key).then(
            () => false,
            () => true,
          ),
        'asks PostgreSQL again',
        3000,
      );
    } finally {
      await run(sql`alter table api_keys_away rename to api_keys`);
      await run(sql`alter table revisions_away rename to revisions`);
    }
    expect(await verifier.authenticate(key)).toBeDefined();
  });

  it('is found as soon as it exists, although it was asked for before', async () => {
    const { verifier, notices } = await anotherProcess();
    await settled(notices);
    const { key, hash } = newKey();
    expect(await verifier.authenticate(key)).toBeUndefined();
    const { id } = await create();
    await run(sql`update api_keys set key_hash = ${hash} where id = ${id}`);
    await verifier.changed();
    expect(await verifier.authenticate(key)).toMatchObject({ keyId: id });
  });
});

describe('the last use', () => {
  const lastUse = async (id: string) => (await getApiKey(em(), id)).last_used_at;

  it('is written in batches, at most once a minute per key', async () => {
    const usage = new KeyUsage(h.database);
    const [one, two, unused] = [await create(), await create(), await create()];
    const at = Date.parse('2026-11-20T10:00:00.000Z');
    usage.note(one.id, at);
    usage.note(one.id, at + 1000);
    usage.note(two.id, at + 2000);
    await usage.flush(at + 2000);
    expect([await lastUse(one.id), await lastUse(two.id), await lastUse(unused.id)]).toEqual([
      '2026-11-20T10:00:01.000Z',
      '2026-11-20T10:00:02.000Z',
      null,
    ]);
    usage.note(one.id, at + 59_000);
    await usage.flush(at + 59_000);
    expect(await lastUse(one.id)).toBe('2026-11-20T10:00:01.000Z');
    const elsewhere = new KeyUsage(h.database);
    elsewhere.note(one.id, at + 59_000);
    await elsewhere.flush(at + 59_000);
    expect(await lastUse(one.id)).toBe('2026-11-20T10:00:01.000Z');
    usage.note(one.id, at + 62_000);
    await usage.flush(at + 62_000);
    expect(await lastUse(one.id)).toBe('2026-11-20T10:01:02.000Z');
  });

  it('is written when a process stops, and not for a key that was refused', async () => {
    const { id, key } = await create();
    const gone = await create();
    const verifier = new ApiKeyVerifier({ database: h.database, log: h.log });
    await verifier.start();
    await verifier.authenticate(key);
    await revoke(gone.id);
    await verifier.authenticate(gone.key);
    await verifier.stop();
    expect(Date.parse((await lastUse(id)) ?? '')).toBeGreaterThan(Date.now() - 10_000);
    const { rows } = await sql`select 1 from api_keys where id = ${gone.id} and last_used_at is not null`.execute(
      em().getKysely(),
    );
    expect(rows).toEqual([]);
  });
});
