import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import type { EndpointChange } from '../../src/webhooks/endpoint-settings.ts';
import {
  deleteEndpoint,
  disableEndpoint,
  getEndpoint,
  listEndpoints,
  rotateEndpointSecret,
  updateEndpoint,
} from '../../src/webhooks/endpoints.ts';
import { eventually } from '../harness.ts';
import { ADMIN, type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());
beforeEach(async () => {
  await bench.emitted();
  await bench.alarms();
});

const change = (id: string, to: EndpointChange, tenant = 'default') =>
  bench.transact(bench.context, (unit) => updateEndpoint(unit, { tenant, id, change: to }, bench.deps));
const remove = (id: string, tenant = 'default') =>
  bench.transact(bench.context, (unit) => deleteEndpoint(unit, { tenant, id }));
const disable = (id: string, reason = 'it answered 410 Gone') =>
  bench.transact(bench.context, (unit) => disableEndpoint(unit, id, reason));
const secretsOf = (id: string) =>
  bench.query(sql<{ scheme: string }>`select scheme from webhook_secrets where endpoint_id = ${id} order by scheme`);

/** Every audit record since the last look: its action and metadata. */
const audited = async () =>
  (await bench.emitted())
    .filter(({ target }) => target === 'audit')
    .map(({ data }) => [data.action, data.metadata] as [string, Record<string, unknown>]);

it('creates an endpoint with its defaults, and shows the secret this once', async () => {
  const before = await bench.revision();
  const made = await bench.create({ url: 'https://example.com/hook?key=c2VjcmV0' });
  expect(made).toEqual({
    id: expect.any(String),
    url: 'https://example.com/hook?key=c2VjcmV0',
    description: '',
    event_types: [],
    channels: [],
    headers: {},
    rate_limit: null,
    ordered: false,
    timeout_ms: 15_000,
    status: 'enabled',
    disabled_reason: null,
    signature: 'v1',
    hex_signature: false,
    metadata: {},
    created_at: expect.stringMatching(/Z$/),
    updated_at: expect.stringMatching(/Z$/),
    secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/]{43}=$/),
  });
  expect(await bench.revision()).toBe(before + 1);
  const { secret, ...shown } = made;
  expect(await getEndpoint(bench.em(), 'default', made.id)).toEqual(shown);
  const [record] = await bench.emitted();
  expect(record?.data).toMatchObject({
    action: 'webhook.endpoint.created',
    actor: { type: 'user', id: ADMIN },
    targets: [{ type: 'webhook_endpoint', id: made.id }],
    metadata: { host: 'example.com', tenant: 'default', signature: 'v1' },
  });
  expect(JSON.stringify(record)).not.toMatch(/whsec|c2VjcmV0/);
});

it.each([
  ['v1', ['secret'], ['v1']],
  ['v1a', ['public_key'], ['v1a']],
  ['v1,v1a', ['secret', 'public_key'], ['v1', 'v1a']],
] as const)('shows of %s: %j', async (signature, shown, schemes) => {
  const made = await bench.create({ signature });
  expect(['secret', 'public_key'].filter((name) => name in made)).toEqual(shown);
  if (made.public_key) expect(made.public_key).toMatch(/^whpk_/);
  expect((await secretsOf(made.id)).map(({ scheme }) => scheme)).toEqual(schemes);
});

it('keeps header names in lower case and each event type once', async () => {
  const made = await bench.create({ headers: { Authorization: 'Bearer x' }, event_types: ['kyc.*', 'kyc.*', '*'] });
  expect([made.headers, made.event_types]).toEqual([{ authorization: 'Bearer x' }, ['kyc.*', '*']]);
});

it('can be created disabled', async () => {
  expect(await bench.create({ status: 'disabled' })).toMatchObject({
    status: 'disabled',
    disabled_reason: `disabled by user:${ADMIN}`,
  });
});

it.each([
  ['a private address', { url: 'http://10.0.0.7/hook' }, 'url'],
  ['the metadata service', { url: 'http://169.254.169.254/latest' }, 'url'],
  ['an IPv4-mapped address', { url: 'http://[::ffff:10.0.0.7]/' }, 'url'],
  ['credentials', { url: 'https://user:pass@example.com/' }, 'url'],
  ['another scheme', { url: 'ftp://example.com/' }, 'url'],
  ['hex without v1', { signature: 'v1a', hex_signature: true }, 'hex_signature'],
] as const)('refuses %s, creating and changing, and stores nothing', async (_, input, field) => {
  const made = await bench.create();
  const count = () => bench.query(sql`select id, url, signature, version from webhook_endpoints order by id`);
  const [rows, revision] = [await count(), await bench.revision()];
  const problem = { problem: { code: 'VALIDATION_ERROR', field, message: expect.stringContaining(field) } };
  await expect(bench.create(input)).rejects.toMatchObject(problem);
  await expect(change(made.id, input)).rejects.toMatchObject(problem);
  expect([await count(), await bench.revision()]).toEqual([rows, revision]);
});

it('opens the networks that the configuration opens', async () => {
  expect((await bench.create({ url: 'http://127.0.0.1:8080/hook' })).url).toBe('http://127.0.0.1:8080/hook');
});

it('lists a tenant’s endpoints page by page, the newest first, without the deleted', async () => {
  const made: string[] = [];
  for (let n = 0; n < 5; n += 1) made.unshift((await bench.create({}, 'lists')).id);
  await bench.create({}, 'lists-other');
  await remove(made.splice(2, 1)[0] ?? '', 'lists');
  const page = (n: number) => listEndpoints(bench.em(), 'lists', { page: n, limit: 2, order: 'desc' });
  const [first, second] = [await page(1), await page(2)];
  expect([...first.rows, ...second.rows].map(({ id }) => id)).toEqual(made);
  expect([first.total, second.total]).toEqual([4, 4]);
  expect(first.rows[0]).not.toHaveProperty('secret');
});

it('is not there for another tenant', async () => {
  const { id } = await bench.create({}, 'mine');
  const missing = { problem: { code: 'NOT_FOUND' } };
  await expect(getEndpoint(bench.em(), 'default', id)).rejects.toMatchObject(missing);
  await expect(change(id, { description: 'x' })).rejects.toMatchObject(missing);
  await expect(remove(id)).rejects.toMatchObject(missing);
  const input = { tenant: 'default', id, overlapSeconds: 0 };
  await expect(
    bench.transact(bench.context, (unit) => rotateEndpointSecret(unit, input, bench.keyring)),
  ).rejects.toMatchObject(missing);
});

describe('a change', () => {
  it('sets what it names and leaves the rest', async () => {
    const { secret, ...made } = await bench.create({ description: 'a', event_types: ['kyc.*'], metadata: { a: '1' } });
    await bench.emitted();
    const before = await bench.revision();
    const changed = await change(made.id, {
      url: 'https://example.org/b',
      headers: { 'X-B': '2' },
      timeout_ms: 1000,
      hex_signature: true,
    });
    expect(changed).toEqual({
      ...made,
      url: 'https://example.org/b',
      headers: { 'x-b': '2' },
      timeout_ms: 1000,
      hex_signature: true,
      updated_at: expect.any(String),
    });
    expect(changed.updated_at > made.updated_at).toBe(true);
    expect(await getEndpoint(bench.em(), 'default', made.id)).toEqual(changed);
    expect(await bench.revision()).toBe(before + 1);
    expect(await audited()).toEqual([
      ['webhook.endpoint.updated', { host: 'example.org', changed: 'url,headers,timeout_ms,hex_signature' }],
    ]);
  });

  it('sets a rate limit and an order, and takes them back', async () => {
    const { secret, ...made } = await bench.create({ rate_limit: 10_000, ordered: true });
    expect(made).toMatchObject({ rate_limit: 10_000, ordered: true });
    expect(await change(made.id, { rate_limit: 1 })).toMatchObject({ rate_limit: 1, ordered: true });
    expect(await change(made.id, { description: 'x' })).toMatchObject({ rate_limit: 1, ordered: true });
    expect(await change(made.id, { rate_limit: null, ordered: false })).toMatchObject({
      rate_limit: null,
      ordered: false,
    });
  });

  it('of nothing writes nothing', async () => {
    const { secret, ...made } = await bench.create({ description: 'same' });
    await bench.emitted();
    const before = await bench.revision();
    expect(await change(made.id, {})).toEqual(made);
    expect(await change(made.id, { description: 'same', status: 'enabled' })).toEqual(made);
    expect([await bench.revision(), await audited()]).toEqual([before, []]);
  });

  it('to a scheme without a secret makes one and shows it; back again the old one is there still', async () => {
    const made = await bench.create();
    const both = await change(made.id, { signature: 'v1,v1a' });
    expect([both.secret, both.public_key]).toEqual([undefined, expect.stringMatching(/^whpk_/)]);
    const back = await change(made.id, { signature: 'v1' });
    expect([back.secret, back.public_key]).toEqual([undefined, undefined]);
    expect((await secretsOf(made.id)).map(({ scheme }) => scheme)).toEqual(['v1', 'v1a']);
  });

  it('to v1a alone is refused while the hex header is on', async () => {
    const { id } = await bench.create({ hex_signature: true });
    await expect(change(id, { signature: 'v1a' })).rejects.toMatchObject({ problem: { field: 'hex_signature' } });
    expect(await change(id, { signature: 'v1a', hex_signature: false })).toMatchObject({ signature: 'v1a' });
  });

  it('made by two at once loses neither', async () => {
    const { id } = await bench.create();
    let second: Promise<unknown> = Promise.resolve();
    await bench.transact(bench.context, async (unit) => {
      await updateEndpoint(unit, { tenant: 'default', id, change: { description: 'a' } }, bench.deps);
      second = change(id, { timeout_ms: 2000 });
      const blocked = () =>
        bench.query(
          sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        );
      await eventually(async () => (await blocked()).length > 0, 'the second change waits for the first');
    });
    await second;
    expect(await getEndpoint(bench.em(), 'default', id)).toMatchObject({ description: 'a', timeout_ms: 2000 });
  });
});

describe('disabling and enabling', () => {
  it('by hand holds what waits, then releases it oldest first, each with an alarm', async () => {
    const { id } = await bench.create();
    const other = await bench.create();
    const newer = await bench.deliver(id, { attempts: 2, generation: 5, created_at: '2026-11-20T10:00:01Z' });
    const older = await bench.deliver(id, { created_at: '2026-11-20T10:00:00Z' });
    const leased = await bench.deliver(id, { leased: true });
    const over = await bench.deliver(id, { status: 'delivered' });
    const elsewhere = await bench.deliver(other.id);
    await bench.emitted();

    expect(await change(id, { status: 'disabled' })).toMatchObject({
      status: 'disabled',
      disabled_reason: `disabled by user:${ADMIN}`,
    });
    for (const held of [newer, older]) {
      expect(await bench.delivery(held)).toMatchObject({
        status: 'held',
        reason: 'endpoint disabled',
        next_attempt_at: null,
      });
    }
    const statuses = async () =>
      Promise.all([leased, over, elsewhere].map(async (d) => (await bench.delivery(d)).status));
    expect(await statuses()).toEqual(['pending', 'delivered', 'pending']);
    expect(await audited()).toEqual([
      ['webhook.endpoint.disabled', { host: 'example.com', reason: `disabled by user:${ADMIN}`, held: 2 }],
    ]);

    const before = Date.now();
    expect(await change(id, { status: 'enabled' })).toMatchObject({ status: 'enabled', disabled_reason: null });
    const alarms = await bench.alarms();
    expect(alarms.map(({ at, ...alarm }) => alarm)).toEqual([
      { queue: 'webhooks', id: older, attempt: 0, generation: 1 },
      { queue: 'webhooks', id: newer, attempt: 2, generation: 6 },
    ]);
    expect(alarms[0]?.at).toBeGreaterThanOrEqual(before);
    expect((alarms[1]?.at ?? 0) - (alarms[0]?.at ?? 0)).toBe(2);
    const [due] = await bench.query(sql<{ due: boolean }>`
      select bool_and(next_attempt_at <= now() and status = 'pending' and reason is null) as due
      from webhook_deliveries where id in (${older}, ${newer})`);
    expect(due?.due).toBe(true);
    expect(await statuses()).toEqual(['pending', 'delivered', 'pending']);
    expect(await audited()).toEqual([['webhook.endpoint.enabled', { host: 'example.com', released: 2 }]]);
  });

  it('keeps the first reason when it is disabled again', async () => {
    const { id } = await bench.create();
    await disable(id);
    expect(await change(id, { status: 'disabled', description: 'x' })).toMatchObject({
      disabled_reason: 'it answered 410 Gone',
    });
  });

  it('enabling again releases what was held too late, and says nothing else', async () => {
    const { id } = await bench.create();
    const late = await bench.deliver(id, { status: 'held', reason: 'endpoint disabled' });
    await bench.emitted();
    await change(id, { status: 'enabled' });
    expect((await bench.alarms()).map((alarm) => alarm.id)).toEqual([late]);
    expect(await audited()).toEqual([]);
  });

  it('by the platform tells subscribers and the log, once', async () => {
    const { id, url } = await bench.create({}, 'told');
    const waiting = await bench.deliver(id, { tenant: 'told' });
    await bench.emitted();
    const before = await bench.revision();
    expect(await disable(id)).toBe(true);
    expect(await bench.revision()).toBe(before + 1);
    expect(await getEndpoint(bench.em(), 'told', id)).toMatchObject({
      status: 'disabled',
      disabled_reason: 'it answered 410 Gone',
    });
    expect((await bench.delivery(waiting)).status).toBe('held');
    const [event, record, ...rest] = await bench.emitted();
    expect(event).toMatchObject({
      target: 'events',
      type: 'webhook.endpoint.disabled',
      tenant: 'told',
      subject: id,
      sequence: 2,
      data: {
        endpoint_id: id,
        url,
        reason: 'it answered 410 Gone',
        disabled_at: expect.stringMatching(/^\d{4}-.*\.\d{3}Z$/),
      },
    });
    expect(record?.data).toMatchObject({
      action: 'webhook.endpoint.disabled',
      actor: { type: 'system', id: null },
      metadata: { reason: 'it answered 410 Gone', held: 1 },
    });
    expect(rest).toEqual([]);

    expect(await disable(id)).toBe(false);
    expect(await disable(newId())).toBe(false);
    expect([await bench.emitted(), await bench.revision()]).toEqual([[], before + 1]);
  });
});

it('deleted, it is gone with its secrets, and what waited has failed', async () => {
  const { id } = await bench.create();
  const [pending, held, over] = [
    await bench.deliver(id),
    await bench.deliver(id, { status: 'held' }),
    await bench.deliver(id, { status: 'delivered' }),
  ];
  await bench.emitted();
  const before = await bench.revision();
  await remove(id);
  expect(await bench.revision()).toBe(before + 1);
  for (const failed of [pending, held])
    expect(await bench.delivery(failed)).toMatchObject({ status: 'failed', reason: 'endpoint deleted' });
  expect((await bench.delivery(over)).status).toBe('delivered');
  expect(await secretsOf(id)).toEqual([]);
  expect(await audited()).toEqual([['webhook.endpoint.deleted', { host: 'example.com', failed: 2 }]]);
  const missing = { problem: { code: 'NOT_FOUND' } };
  await expect(getEndpoint(bench.em(), 'default', id)).rejects.toMatchObject(missing);
  await expect(remove(id)).rejects.toMatchObject(missing);
  expect(await disable(id)).toBe(false);
});

it('rotates, shows the new secret, and bumps the revision', async () => {
  const made = await bench.create({ signature: 'v1,v1a' });
  await bench.emitted();
  const before = await bench.revision();
  const rotated = await bench.transact(bench.context, (unit) =>
    rotateEndpointSecret(unit, { tenant: 'default', id: made.id, overlapSeconds: 60 }, bench.keyring),
  );
  expect(rotated.secret).toMatch(/^whsec_/);
  expect(rotated.public_key).toMatch(/^whpk_/);
  expect([rotated.secret === made.secret, rotated.public_key === made.public_key]).toEqual([false, false]);
  expect(await bench.revision()).toBe(before + 1);
  expect(await audited()).toEqual([['webhook.endpoint.secret_rotated', { host: 'example.com', overlap_seconds: 60 }]]);
});
