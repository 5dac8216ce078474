import { createHmac } from 'node:crypto';
import { sql } from 'kysely';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bumpRevision, EndpointDirectory, matches } from '../../src/webhooks/directory.ts';
import { deleteEndpoint, rotateEndpointSecret, updateEndpoint } from '../../src/webhooks/endpoints.ts';
import { hexSignature, sign } from '../../src/webhooks/signature.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());

const BODY = '{"type":"kyc.approved","data":{"name":"Zoë"}}';

/** A directory and how many statements it has sent so far. */
async function loaded(onUnreadable?: (id: string) => void) {
  const directory = new EndpointDirectory(bench.database, bench.keyring, onUnreadable);
  await directory.refresh();
  return directory;
}

/** Whether the standard library accepts what the directory's keys sign, with this secret. */
function accepts(secret: string, keys: Parameters<typeof sign>[0]): boolean {
  const timestamp = Math.floor(Date.now() / 1000);
  const headers = {
    'webhook-id': 'evt_1',
    'webhook-timestamp': String(timestamp),
    'webhook-signature': sign(keys, { id: 'evt_1', timestamp, body: BODY }),
  };
  try {
    new Webhook(secret).verify(BODY, headers);
    return true;
  } catch {
    return false;
  }
}

describe('which types a pattern wants', () => {
  it.each([
    [['kyc.approved'], 'kyc.approved', true],
    [['kyc.approved'], 'kyc.approved.late', false],
    [['kyc.approved'], 'kyc.rejected', false],
    [['kyc.*'], 'kyc.approved', true],
    [['kyc.*'], 'kyc.document.checked', true],
    [['kyc.*'], 'kyc', false],
    [['kyc.*'], 'kycx.approved', false],
    [['kyc.*'], 'my.kyc.approved', false],
    [['kyc.document.*'], 'kyc.approved', false],
    [['*'], 'anything.at_all', true],
    [[], 'anything.at_all', true],
    [['user.created', 'kyc.*'], 'kyc.expired', true],
    [['user.created', 'session.*'], 'kyc.expired', false],
  ])('%j and %s: %s', (patterns, type, wanted) => {
    expect(matches(patterns, type)).toBe(wanted);
  });
});

it('knows endpoints with what delivery needs of them, and keys that the shown secret verifies', async () => {
  const made = await bench.create(
    { event_types: ['kyc.*'], headers: { 'X-Team': 'a' }, timeout_ms: 2000, signature: 'v1,v1a', hex_signature: true },
    'knows',
  );
  const directory = await loaded();
  const endpoint = directory.get(made.id);
  expect(endpoint).toMatchObject({
    id: made.id,
    tenant: 'knows',
    url: made.url,
    eventTypes: ['kyc.*'],
    headers: { 'x-team': 'a' },
    timeoutMs: 2000,
    status: 'enabled',
  });
  if (!endpoint?.hexKey || !made.secret) throw new Error('no key');
  expect(endpoint.keys.map(({ scheme }) => scheme).toSorted()).toEqual(['v1', 'v1a']);
  expect(accepts(made.secret, endpoint.keys)).toBe(true);
  expect(endpoint.keys.find(({ scheme }) => scheme === 'v1a')).toMatchObject({ publicKey: made.public_key });
  expect(hexSignature(endpoint.hexKey, BODY)).toBe(createHmac('sha256', made.secret).update(BODY).digest('hex'));
  expect(directory.get('019a9f3e-0000-7000-8000-000000000000')).toBeUndefined();
});

it('signs with the schemes that the endpoint names and no others, and adds the hex header only when it is wanted', async () => {
  const plain = await bench.create({ signature: 'v1' }, 'schemes');
  const pair = await bench.create({ signature: 'v1a' }, 'schemes');
  const turned = await bench.create({ signature: 'v1,v1a' }, 'schemes');
  await bench.transact(bench.context, (unit) =>
    updateEndpoint(unit, { tenant: 'schemes', id: turned.id, change: { signature: 'v1a' } }, bench.deps),
  );
  const directory = await loaded();
  expect(directory.get(plain.id)?.keys.map(({ scheme }) => scheme)).toEqual(['v1']);
  expect(directory.get(pair.id)?.keys.map(({ scheme }) => scheme)).toEqual(['v1a']);
  expect(directory.get(turned.id)?.keys.map(({ scheme }) => scheme)).toEqual(['v1a']);
  expect(directory.get(plain.id)?.hexKey).toBeUndefined();
});

it('finds a tenant’s endpoints by type, oldest first, disabled ones too, and nobody else’s', async () => {
  const all = await bench.create({}, 'find');
  const kyc = await bench.create({ event_types: ['kyc.*'], status: 'disabled' }, 'find');
  await bench.create({ event_types: ['user.created'] }, 'find');
  await bench.create({}, 'find-other');
  const directory = await loaded();
  const found = () => directory.matching('find', 'kyc.approved').map(({ id, status }) => [id, status]);
  expect(found()).toEqual([
    [all.id, 'enabled'],
    [kyc.id, 'disabled'],
  ]);
  expect(found()).toEqual(found());
  expect(directory.matching('find', 'payment.succeeded').map(({ id }) => id)).toEqual([all.id]);
  expect(directory.matching('nobody', 'kyc.approved')).toEqual([]);
});

it('sees every change after the next refresh, and none before', async () => {
  const directory = await loaded();
  const made = await bench.create({}, 'sees');
  const change = (change: Parameters<typeof updateEndpoint>[1]['change']) =>
    bench.transact(bench.context, (unit) => updateEndpoint(unit, { tenant: 'sees', id: made.id, change }, bench.deps));
  expect(directory.get(made.id)).toBeUndefined();
  await directory.refresh();
  expect(directory.matching('sees', 'user.created')).toHaveLength(1);
  await change({ url: 'https://example.com/other', event_types: ['kyc.*'], status: 'disabled' });
  await directory.refresh();
  expect(directory.get(made.id)).toMatchObject({ url: 'https://example.com/other', status: 'disabled' });
  expect(directory.matching('sees', 'user.created')).toEqual([]);
  await bench.transact(bench.context, (unit) => deleteEndpoint(unit, { tenant: 'sees', id: made.id }));
  await directory.refresh();
  expect(directory.get(made.id)).toBeUndefined();
  expect(directory.matching('sees', 'kyc.approved')).toEqual([]);
});

it('keeps what it has while the revision stands', async () => {
  const made = await bench.create({}, 'keeps');
  const directory = await loaded();
  const before = directory.get(made.id);
  await directory.refresh();
  expect(directory.get(made.id)).toBe(before);
  await bench.transact(bench.context, ({ em }) => bumpRevision(em));
  await directory.refresh();
  expect(directory.get(made.id)).not.toBe(before);
  expect(directory.get(made.id)).toEqual(before);
});

it('shows each of many concurrent callers the change that was committed before its call', async () => {
  const directory = await loaded();
  const made: string[] = [];
  const seen = await Promise.all(
    Array.from({ length: 20 }, async (_, n) => {
      const { id } = await bench.create({ description: String(n) }, 'many');
      made.push(id);
      await directory.refresh();
      return directory.get(id)?.id === id;
    }),
  );
  expect(seen).toEqual(Array(20).fill(true));
  expect(directory.matching('many', 'kyc.approved').map(({ id }) => id)).toEqual(made.toSorted());
});

it('rejects while PostgreSQL cannot be asked, keeps what it had and goes on later', async () => {
  const made = await bench.create({}, 'outage');
  const directory = await loaded();
  await bench.query(sql`alter table revisions rename to revisions_away`);
  await expect(Promise.all([directory.refresh(), directory.refresh()])).rejects.toThrow(/revisions/);
  expect(directory.get(made.id)?.id).toBe(made.id);
  await bench.query(sql`alter table revisions_away rename to revisions`);
  await bench.create({}, 'outage');
  await directory.refresh();
  expect(directory.matching('outage', 'kyc.approved')).toHaveLength(2);
});

it('reloads more endpoints than fit on a page', async () => {
  await bench.query(sql`
    insert into webhook_endpoints (id, tenant, url) select gen_random_uuid(), 'pages', 'https://example.com/' || n from generate_series(1, 1203) n`);
  await bench.transact(bench.context, ({ em }) => bumpRevision(em));
  const directory = await loaded();
  expect(new Set(directory.matching('pages', 'kyc.approved').map(({ url }) => url)).size).toBe(1203);
});

describe('while a secret rotates', () => {
  const rotate = (id: string, overlapSeconds: number) =>
    bench.transact(bench.context, (unit) =>
      rotateEndpointSecret(unit, { tenant: 'rotates', id, overlapSeconds }, bench.keyring),
    );

  it('both sign, the new one first, until the old one has expired', async () => {
    const old = await bench.create({ hex_signature: true }, 'rotates');
    const fresh = await rotate(old.id, 3600);
    const directory = await loaded();
    const keys = directory.get(old.id)?.keys ?? [];
    expect(keys).toHaveLength(2);
    expect(accepts(old.secret ?? '', keys) && accepts(fresh.secret ?? '', keys)).toBe(true);
    expect(accepts(fresh.secret ?? '', keys.slice(0, 1))).toBe(true);
    const hexKey = directory.get(old.id)?.hexKey;
    expect(hexKey && hexSignature(hexKey, BODY)).toBe(
      createHmac('sha256', fresh.secret ?? '')
        .update(BODY)
        .digest('hex'),
    );
    // No revision tells of the passing of time.
    const revision = await bench.revision();
    const soon = await bench.query(sql<{ at: string }>`
      update webhook_secrets set expires_at = clock_timestamp() + interval '150 ms' where endpoint_id = ${old.id} and expires_at is not null returning expires_at as at`);
    expect(soon).toHaveLength(1);
    await bench.transact(bench.context, ({ em }) => bumpRevision(em));
    await directory.refresh();
    const end = Date.now() + 5000;
    while (directory.get(old.id)?.keys.length === 2 && Date.now() < end) await directory.refresh();
    const left = directory.get(old.id)?.keys ?? [];
    expect(accepts(fresh.secret ?? '', left)).toBe(true);
    expect(accepts(old.secret ?? '', left)).toBe(false);
    expect(await bench.revision()).toBe(revision + 1);
  });

  it('an overlap of 0 stops the old one at once, also one that had longer to live', async () => {
    const first = await bench.create({}, 'rotates');
    const second = await rotate(first.id, 86_400);
    const third = await rotate(first.id, 0);
    const keys = (await loaded()).get(first.id)?.keys ?? [];
    expect([first, second, third].map(({ secret }) => accepts(secret ?? '', keys))).toEqual([false, false, true]);
  });

  it('no rotation makes an old one live longer', async () => {
    const first = await bench.create({}, 'rotates');
    await rotate(first.id, 60);
    const expiry = () =>
      bench.query(sql<{ expires_at: string }>`
        select expires_at from webhook_secrets where endpoint_id = ${first.id} order by created_at limit 1`);
    const before = await expiry();
    await rotate(first.id, 86_400);
    expect(await expiry()).toEqual(before);
  });

  it('keeps ten old ones of each scheme, the newest', async () => {
    const first = await bench.create({ signature: 'v1,v1a' }, 'rotates');
    const { id } = first;
    const secrets = [first.secret ?? ''];
    for (let n = 0; n < 12; n += 1) secrets.push((await rotate(id, 3600)).secret ?? '');
    const keys = (await loaded()).get(id)?.keys ?? [];
    expect(secrets.map((secret) => accepts(secret, keys))).toEqual([...Array(2).fill(false), ...Array(11).fill(true)]);
    expect(['v1', 'v1a'].map((scheme) => keys.filter((key) => key.scheme === scheme).length)).toEqual([11, 11]);
  });
});

it('leaves out a secret that cannot be opened, and tells whose it is', async () => {
  const damaged = await bench.create({}, 'damaged');
  const whole = await bench.create({}, 'damaged');
  // Moved from another endpoint: the seal is bound to its own.
  await bench.query(sql`
    update webhook_secrets set sealed = (select sealed from webhook_secrets where endpoint_id = ${whole.id}) where endpoint_id = ${damaged.id}`);
  const told: string[] = [];
  const directory = await loaded((id) => told.push(id));
  expect(told).toEqual([damaged.id]);
  expect(directory.get(damaged.id)?.keys).toEqual([]);
  expect(directory.get(whole.id)?.keys).toHaveLength(1);
});

it('stores no secret in clear', async () => {
  const { secret = '' } = await bench.create({ signature: 'v1,v1a' }, 'sealed');
  const rows = await bench.query(sql<{ sealed: Buffer }>`select sealed from webhook_secrets`);
  expect(rows.length).toBeGreaterThan(2);
  const bytes = Buffer.from(secret.slice(6), 'base64');
  for (const { sealed } of rows) {
    expect(sealed.includes('whs')).toBe(false);
    expect(sealed.includes(bytes)).toBe(false);
  }
});
