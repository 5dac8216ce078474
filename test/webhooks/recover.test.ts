import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import { matches } from '../../src/webhooks/directory.ts';
import { type RecoveryInput, recoverEndpoint } from '../../src/webhooks/recover.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
let tenant: string;
beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());
beforeEach(() => {
  tenant = `t-${newId()}`;
});

const ago = (minutes: number) => new Date(Date.now() - minutes * 60_000).toISOString();

async function event(
  minutes: number,
  more: { type?: string; key?: string; channels?: string[]; source?: string } = {},
) {
  const id = newId();
  await bench.query(sql`
    insert into events (tenant, id, type, source, payload, time, ordering_key, channels, created_at)
    values (${tenant}, ${id}, ${more.type ?? 'kyc.approved'}, ${more.source ?? 'client'}, '{}', now(), ${more.key ?? null}, ${more.channels ?? []}, ${ago(minutes)})`);
  return id;
}

const failed = async (endpointId: string, minutes: number, status = 'failed') =>
  bench.deliver(endpointId, {
    tenant,
    status,
    attempts: 10,
    event_id: await event(minutes, { type: 'other.type' }),
    created_at: ago(minutes),
  });

const recover = (id: string, input: Partial<RecoveryInput> = {}, limit?: number) =>
  recoverEndpoint(bench.transact, bench.context, { tenant, id, since: ago(600), ...input }, limit);

const deliveriesOf = (endpointId: string) =>
  bench.query(sql<{ id: string; event_id: string; status: string; cause: string; next_attempt_at: string | null }>`
    select id, event_id, status, cause, next_attempt_at from webhook_deliveries where endpoint_id = ${endpointId} order by next_attempt_at nulls last, position`);

describe('a recovery', () => {
  it('sends again what failed and what was never sent, the oldest first', async () => {
    const { id } = await bench.create({ event_types: ['kyc.*'] }, tenant);
    const second = await failed(id, 40);
    const first = await event(50);
    const third = await event(30);
    await failed(id, 35, 'delivered');
    await failed(id, 35, 'held');
    await event(30, { type: 'user.created' });
    await event(30, { source: 'test' });
    await bench.emitted();
    await bench.alarms();
    expect(await recover(id)).toEqual({ recovered: 3, has_more: false });
    const due = (await deliveriesOf(id)).filter(({ cause }) => cause === 'recover');
    expect(due.map(({ event_id, status }) => [event_id, status])).toEqual([
      [first, 'pending'],
      [(await bench.delivery(second)).event_id, 'pending'],
      [third, 'pending'],
    ]);
    expect(new Set((await bench.alarms()).map((alarm) => alarm.id))).toEqual(new Set(due.map((row) => row.id)));
    expect(await bench.emitted()).toMatchObject([
      { data: { action: 'webhook.endpoint.recovered', metadata: { recovered: 3 }, targets: [{ id }] } },
    ]);
    expect(await recover(id)).toEqual({ recovered: 0, has_more: false });
    expect(await bench.emitted()).toEqual([]);
  });

  it('keeps within its stretch of time', async () => {
    const { id } = await bench.create({}, tenant);
    const inside = await event(50);
    await event(70);
    await event(20);
    await failed(id, 70);
    expect(await recover(id, { since: ago(60), until: ago(40) })).toMatchObject({ recovered: 1 });
    expect((await deliveriesOf(id)).filter(({ cause }) => cause === 'recover')).toMatchObject([{ event_id: inside }]);
  });

  it('goes on where its limit ended it', async () => {
    const { id } = await bench.create({}, tenant);
    const events: string[] = [];
    for (const minutes of [50, 40, 30, 20, 10]) events.push(await event(minutes));
    expect(await recover(id, {}, 2)).toEqual({ recovered: 2, has_more: true });
    expect((await deliveriesOf(id)).map(({ event_id }) => event_id)).toEqual(events.slice(0, 2));
    expect(await recover(id, {}, 3)).toEqual({ recovered: 3, has_more: false });
  });

  it('takes as many pages as it needs, in order', async () => {
    const { id } = await bench.create({}, tenant);
    await bench.query(sql`
      insert into events (tenant, id, type, source, payload, time, created_at)
      select ${tenant}, 'p-' || n, 'kyc.approved', 'client', '{}', now(), now() - interval '2 hours' + (n / 3) * interval '1 second'
      from generate_series(1, 1300) n`);
    await bench.alarms();
    expect(await recover(id)).toEqual({ recovered: 1300, has_more: false });
    const order = await bench.query(sql<{ ordered: boolean }>`
      select bool_and(created_at >= before) as ordered from (
        select e.created_at, lag(e.created_at) over (order by d.next_attempt_at) as before
        from webhook_deliveries d join events e on e.tenant = d.tenant and e.id = d.event_id where d.endpoint_id = ${id}) pairs`);
    expect(order).toEqual([{ ordered: true }]);
    const alarms = await bench.alarms();
    expect(new Set(alarms.map((alarm) => alarm.id)).size).toBe(1300);
  });

  it('asks for types and channels as fan-out does', async () => {
    const types = ['kyc', 'kyc.approved', 'kyc.a.b', 'kycx', 'user.created', 'kyc_.x'];
    for (const patterns of [[], ['*'], ['kyc.*'], ['kyc'], ['user.created', 'kyc.a.*'], ['kyc.approved']]) {
      tenant = `t-${newId()}`;
      for (const type of types) await event(30, { type });
      const { id } = await bench.create({ event_types: patterns }, tenant);
      await recover(id);
      const sent = await bench.query(sql<{ event_type: string }>`
        select event_type from webhook_deliveries where endpoint_id = ${id} order by event_type`);
      expect([patterns, sent.map((row) => row.event_type)]).toEqual([
        patterns,
        types.filter((type) => matches(patterns, type)).toSorted(),
      ]);
    }
    const eu = await event(10, { channels: ['eu', 'b2b'] });
    await event(10, { channels: ['us'] });
    const { id } = await bench.create({ channels: ['eu'] }, tenant);
    await recover(id);
    expect(await deliveriesOf(id)).toMatchObject([{ event_id: eu }]);
  });

  it('leaves alone what may be on its way to an endpoint that was there before', async () => {
    const old = await bench.create({}, tenant);
    await bench.query(sql`update webhook_endpoints set created_at = now() - interval '1 hour' where id = ${old.id}`);
    const fresh = await event(2);
    const late = await event(6);
    expect(await recover(old.id)).toMatchObject({ recovered: 1 });
    expect(await deliveriesOf(old.id)).toMatchObject([{ event_id: late }]);
    const young = await bench.create({}, tenant);
    expect(await recover(young.id)).toMatchObject({ recovered: 2 });
    expect((await deliveriesOf(young.id)).map(({ event_id }) => event_id)).toEqual([late, fresh]);
  });

  it('keeps the order of an ordered endpoint', async () => {
    const { id } = await bench.create({ ordered: true }, tenant);
    const events: string[] = [];
    for (const minutes of [50, 40, 30]) events.push(await event(minutes, { key: 'k' }));
    await bench.alarms();
    expect(await recover(id)).toMatchObject({ recovered: 3 });
    const rows = await deliveriesOf(id);
    expect(rows.map(({ event_id, cause }) => [event_id, cause])).toEqual(events.map((one) => [one, 'recover']));
    expect(rows.map(({ next_attempt_at }) => next_attempt_at === null)).toEqual([false, true, true]);
    expect(await bench.alarms()).toMatchObject([{ id: rows[0]?.id }]);
  });

  it.each([
    ['since', 'more than 14 days ago', { since: ago(14 * 1440 + 1) }],
    ['since', 'to come', { since: ago(-10) }],
    ['until', 'before since', { until: ago(700) }],
  ])('refuses a %s that is %s', async (field, _, input) => {
    const { id } = await bench.create({}, tenant);
    await expect(recover(id, input)).rejects.toMatchObject({ problem: { code: 'VALIDATION_ERROR', field } });
  });

  it('is refused for a disabled, a deleted and another’s endpoint', async () => {
    const disabled = await bench.create({ status: 'disabled' }, tenant);
    await failed(disabled.id, 10);
    await expect(recover(disabled.id)).rejects.toMatchObject({ problem: { code: 'CONFLICT' } });
    const { id } = await bench.create({}, 'other');
    for (const unknown of [id, newId()])
      await expect(recover(unknown, { since: ago(20_000_000) })).rejects.toMatchObject({
        problem: { code: 'NOT_FOUND' },
      });
  });
});
