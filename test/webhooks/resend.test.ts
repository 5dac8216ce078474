import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { matchRetries, PAGE, type RetryFilter, retryDeliveries, retryDelivery } from '../../src/webhooks/resend.ts';
import { ADMIN, type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
let endpoint: string;
beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());
beforeEach(async () => {
  endpoint = (await bench.create()).id;
  await bench.emitted();
  await bench.alarms();
});

type Row = Parameters<EndpointBench['deliver']>[1];

/** A delivery whose event is still there. */
async function deliver(row: Row = {}, to = endpoint): Promise<string> {
  const event = row.event_id ?? newId();
  const tenant = row.tenant ?? 'default';
  await bench.query(sql`
    insert into events (tenant, id, type, source, payload, time) values (${tenant}, ${event}, 'kyc.approved', 'client', '{}', now())
    on conflict do nothing`);
  return bench.deliver(to, { ...row, event_id: event });
}

const retry = (id: string, tenant = 'default') =>
  bench.transact(bench.context, (unit) => retryDelivery(unit, { tenant, id }));
const many = async (filter: RetryFilter, limit = 100, tenant = 'default') => {
  const { found, matched } = await matchRetries(bench.em(), tenant, filter, limit);
  return { matched, retried: await retryDeliveries(bench.transact, bench.context, found) };
};
const inLine = (id: string, key: string, next: 'waits' | 'due' = 'waits') =>
  bench.query(sql`
    update webhook_deliveries set ordering_key = ${key}, position = nextval('webhook_delivery_position'),
      next_attempt_at = case when ${next} = 'due' and status = 'pending' then now() + interval '1 hour' end where id = ${id}`);

describe('one delivery', () => {
  it.each(['failed', 'delivered', 'pending'])('that is %s is due at once, and counts on', async (status) => {
    const id = await deliver({ status, attempts: 3, generation: 4, reason: 'status 500' });
    const before = Date.now();
    expect(await retry(id)).toMatchObject({
      id,
      status: 'pending',
      attempt_count: 3,
      reason: 'sent again by hand',
      delivered_at: null,
    });
    const row = await bench.delivery(id);
    expect(row).toMatchObject({ cause: 'manual', attempts: 3, generation: 5, lease_until: null });
    const [alarm] = await bench.alarms();
    expect(alarm).toMatchObject({ id, attempt: 3, generation: 5 });
    expect(Math.abs((alarm?.at ?? 0) - before)).toBeLessThan(5000);
    expect(await bench.emitted()).toMatchObject([
      {
        target: 'audit',
        data: {
          action: 'webhook.delivery.retried',
          actor: { type: 'user', id: ADMIN },
          targets: [{ type: 'webhook_delivery', id }],
          metadata: { endpoint_id: endpoint },
        },
      },
    ]);
  });

  it('is refused for another tenant', async () => {
    const id = await deliver({ status: 'failed' });
    await expect(retry(id, 'other')).rejects.toMatchObject({ problem: { code: 'NOT_FOUND' } });
    await expect(retry(newId())).rejects.toMatchObject({ problem: { code: 'NOT_FOUND' } });
  });

  it.each([
    ['on its way', { leased: true }, 'true', /on its way/],
    ['held', { status: 'held' }, `status = 'disabled'`, /disabled/],
    ['failed while its endpoint is disabled', { status: 'failed' }, `status = 'disabled'`, /disabled/],
    ['of a deleted endpoint', { status: 'failed' }, 'deleted_at = now()', /deleted/],
  ])('that is %s is a conflict, and stays as it is', async (_, row, change, why) => {
    const id = await deliver(row);
    if (change !== 'true')
      await bench.query(sql`update webhook_endpoints set ${sql.raw(change)} where id = ${endpoint}`);
    const before = await bench.delivery(id);
    await expect(retry(id)).rejects.toMatchObject({
      problem: { code: 'CONFLICT', message: expect.stringMatching(why) },
    });
    expect([await bench.delivery(id), await bench.alarms(), await bench.emitted()]).toEqual([before, [], []]);
  });

  it('without its event is a conflict: it could never be sent', async () => {
    const id = await bench.deliver(endpoint, { status: 'failed' });
    await expect(retry(id)).rejects.toMatchObject({
      problem: { code: 'CONFLICT', message: expect.stringMatching(/retention/) },
    });
  });

  it('whose lease has run out can be sent again', async () => {
    const id = await deliver({ leased: true });
    await bench.query(sql`update webhook_deliveries set lease_until = now() - interval '1 second' where id = ${id}`);
    expect(await retry(id)).toMatchObject({ status: 'pending' });
  });

  it('that keeps an order goes before those behind it, and behind those before it', async () => {
    const first = await deliver({ status: 'failed' });
    const second = await deliver({ status: 'failed' });
    for (const id of [first, second]) await inLine(id, 'a');
    await retry(second);
    expect(await bench.alarms()).toMatchObject([{ id: second }]);
    await retry(first);
    expect(await bench.alarms()).toMatchObject([{ id: first }]);
    const other = await deliver({ status: 'failed' });
    await inLine(other, 'a');
    await retry(other);
    expect(await bench.alarms()).toEqual([]);
    expect(await bench.delivery(other)).toMatchObject({
      next_attempt_at: null,
      cause: 'manual',
      reason: 'waits for its predecessor',
    });
  });
});

describe('many deliveries', () => {
  it('go out oldest first, apart from each other, each with its record', async () => {
    const made: string[] = [];
    for (const n of [3, 1, 2]) made[n] = await deliver({ status: 'failed', created_at: `2026-11-20T10:00:0${n}Z` });
    expect(await many({ endpoint_id: endpoint })).toEqual({ matched: 3, retried: 3 });
    const alarms = (await bench.alarms()).toSorted((a, b) => a.at - b.at);
    expect(alarms.map(({ id }) => id)).toEqual(made.slice(1));
    expect(new Set(alarms.map(({ at }) => at)).size).toBe(3);
    const audited = (await bench.emitted()).map(({ data }) => (data.targets as { id: string }[])[0]?.id);
    expect(audited.toSorted()).toEqual(made.slice(1).toSorted());
  });

  it('are found by each member of the filter, the delivered ones only by name', async () => {
    const other = (await bench.create()).id;
    const at = '2026-11-20T10:00:00Z';
    const failed = await deliver({ status: 'failed', reason: 'status 500', created_at: at });
    const pending = await deliver({ event_type: 'user.created', created_at: '2026-11-20T11:00:00Z' });
    const delivered = await deliver({ status: 'delivered' });
    const elsewhere = await deliver({ status: 'failed', reason: 'timeout' }, other);
    await deliver({ leased: true });
    await deliver({ status: 'failed', tenant: 'another' });
    await bench.deliver(endpoint, { status: 'failed' }); // its event is gone
    const found = async (filter: RetryFilter) =>
      (await matchRetries(bench.em(), 'default', { endpoint_id: endpoint, ...filter }, 100)).found.map(({ id }) => id);
    expect(await found({})).toEqual([failed, pending]);
    expect(await found({ status: 'failed' })).toEqual([failed]);
    expect(await found({ status: 'delivered' })).toEqual([delivered]);
    expect(await found({ event_type: 'user.created' })).toEqual([pending]);
    expect(await found({ reason: 'status 500' })).toEqual([failed]);
    expect(await found({ created_after: at })).toEqual([pending]);
    expect(await found({ created_before: '2026-11-20T10:00:01Z' })).toEqual([failed]);
    expect(await found({ endpoint_id: other })).toEqual([elsewhere]);
    await bench.query(sql`update webhook_endpoints set status = 'disabled' where id = ${endpoint}`);
    expect(await found({})).toEqual([]);
  });

  it('are limited, and the rest is counted', async () => {
    const made: string[] = [];
    for (const n of [1, 2, 3]) made.push(await deliver({ status: 'failed', created_at: `2026-11-20T10:00:0${n}Z` }));
    expect(await many({ endpoint_id: endpoint, status: 'failed' }, 2)).toEqual({ matched: 3, retried: 2 });
    expect(await many({ endpoint_id: endpoint, status: 'failed' }, 2)).toEqual({ matched: 1, retried: 1 });
    expect((await bench.alarms()).map(({ id }) => id)).toEqual(made);
  });

  it('leave out what somebody has taken up, or whose endpoint was disabled, since they were found', async () => {
    const [free, taken] = [await deliver({ status: 'failed' }), await deliver({ status: 'failed' })];
    const other = (await bench.create()).id;
    const stopped = await deliver({ status: 'failed', reason: 'x' }, other);
    const { found } = await matchRetries(bench.em(), 'default', { status: 'failed' }, 100);
    expect(found.map(({ id }) => id)).toEqual(expect.arrayContaining([free, taken, stopped]));
    await bench.query(
      sql`update webhook_deliveries set status = 'pending', lease_until = now() + interval '1 minute' where id = ${taken}`,
    );
    await bench.query(sql`update webhook_endpoints set status = 'disabled' where id = ${other}`);
    const mine = found.filter(({ id }) => [free, taken, stopped].includes(id));
    expect(await retryDeliveries(bench.transact, bench.context, mine)).toBe(1);
    expect([await bench.delivery(taken), await bench.delivery(stopped)]).toMatchObject([
      { cause: 'schedule', generation: 0 },
      { status: 'failed', cause: 'schedule' },
    ]);
    await bench.query(sql`delete from webhook_deliveries where id = any(${[taken, stopped]}::uuid[])`);
  });

  it('are more than one transaction’s', async () => {
    const size = PAGE + 20;
    await bench.query(sql`
      with made as (select gen_random_uuid() as id, 'bulk-' || n as event, n from generate_series(1, ${size}::int) n),
      told as (insert into events (tenant, id, type, source, payload, time) select 'default', event, 'kyc.approved', 'client', '{}', now() from made)
      insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, created_at)
      select id, 'default', ${endpoint}::uuid, event, 'kyc.approved', 'failed', now() - (${size}::int - n) * interval '1 second' from made`);
    expect(await many({ endpoint_id: endpoint }, 1000)).toEqual({ matched: size, retried: size });
    const order = await bench.query(sql<{ event_id: string }>`
      select event_id from webhook_deliveries where endpoint_id = ${endpoint} order by next_attempt_at`);
    expect(order.map(({ event_id }) => event_id)).toEqual(Array.from({ length: size }, (_, n) => `bulk-${n + 1}`));
    expect(await bench.alarms()).toHaveLength(size);
    expect(await bench.emitted()).toHaveLength(size);
  });

  it('that keep an order take their turns', async () => {
    const made: string[] = [];
    for (const n of [1, 2, 3]) {
      const id = await deliver({ status: 'failed', created_at: `2026-11-20T10:00:0${n}Z` });
      await inLine(id, 'line');
      made.push(id);
    }
    expect(await many({ endpoint_id: endpoint })).toEqual({ matched: 3, retried: 3 });
    expect((await bench.alarms()).map(({ id }) => id)).toEqual([made[0]]);
  });
});
