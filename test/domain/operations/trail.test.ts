import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { auditRecord, createSealer } from '../../../src/domain/audit/index.ts';
import { findEventType } from '../../../src/domain/events/catalogue.ts';
import { newId, OperationIds } from '../../../src/domain/ids.ts';
import { SYSTEM } from '../../../src/domain/messages/envelope.ts';
import { findOperation } from '../../../src/domain/operations/operations.ts';
import { type Hop, trail } from '../../../src/domain/operations/trail.ts';
import { createTransact } from '../../../src/queues/outbox.ts';
import { type Database, openDatabase } from '../../../src/services/database.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { createTestDatabase } from '../../harness.ts';

const BEGAN = Date.parse('2026-11-20T10:00:00.000Z');
const at = (ms: number): string => new Date(BEGAN + ms).toISOString();
const ids = new OperationIds(Buffer.alloc(32, 3));
const operation = ids.issue(undefined, BEGAN);
const other = ids.issue(undefined, BEGAN);
const endpoint = newId();
const [delivered, waiting, held, gone] = [newId(), newId(), newId(), newId()];
const auditId = newId();

let database: Database;
let drop: () => Promise<void>;
const fork = () => database.em.fork();
const run = (query: ReturnType<typeof sql>) => query.execute(fork().getKysely());

async function insertEvent(id: string, correlation: string, ms: number, tenant = 'default') {
  await run(sql`insert into events (tenant, id, type, source, payload, time, correlation_id, created_at)
    values (${tenant}, ${id}, 'user.created', 'waybill', '{"data":{}}', ${at(ms)}, ${correlation}, ${at(ms + 40)})`);
}

async function insertDelivery(id: string, event: string, status: string, reason: string | null, tenant = 'default') {
  const to = id === delivered ? endpoint : newId();
  const next = status === 'pending' ? at(5000) : null;
  await run(sql`insert into webhook_deliveries (id, tenant, endpoint_id, event_id, event_type, status, reason, attempts, next_attempt_at, correlation_id, created_at)
    values (${id}, ${tenant}, ${to}, ${event}, 'user.created', ${status}, ${reason}, 1, ${next}, ${operation}, ${at(150)})`);
}

beforeAll(async () => {
  const created = await createTestDatabase();
  drop = created.drop;
  database = await openDatabase(created.url, { entities: [], poolSize: 8 });
  await run(sql`insert into operations (id, type, status, caller, request_id, result, http_status, attempts, created_at, started_at, finished_at)
    values (${operation}, 'user.register', 'succeeded', 'anonymous', 'req-1', '{}', 201, 2, ${at(0)}, ${at(10)}, ${at(110)})`);
  await insertEvent('e1', operation, 100);
  await insertEvent('e2', other, 100);
  // The same id under another tenant is another event.
  await insertEvent('e1', other, 100, 'elsewhere');
  await run(sql`insert into webhook_endpoints (id, url) values (${endpoint}, 'https://secret.example/hook')`);
  await insertDelivery(delivered, 'e1', 'delivered', null);
  await insertDelivery(waiting, 'e1', 'pending', 'connect ECONNREFUSED 10.0.0.9:443');
  await insertDelivery(held, 'e1', 'held', 'endpoint disabled');
  await insertDelivery(gone, 'e1', 'failed', 'endpoint deleted');
  await insertDelivery(newId(), 'e1', 'delivered', null, 'elsewhere');
  await run(sql`insert into webhook_attempts (id, delivery_id, number, started_at, duration_ms, status_code, error) values
    (${newId()}, ${delivered}, 1, ${at(160)}, 12, 503, null), (${newId()}, ${delivered}, 2, ${at(900)}, 9, 204, null),
    (${newId()}, ${waiting}, 1, ${at(170)}, 30, null, 'connect ECONNREFUSED 10.0.0.9:443')`);
  await run(sql`insert into emails (id, recipient, template, subject, status, attempts, message_id, correlation_id, created_at, sent_at, last_error) values
    (${newId()}, 'ada@example.org', 'verify-email', 's', 'sent', 1, 'm1', ${operation}, ${at(90)}, ${at(300)}, null),
    (${newId()}, 'ada@example.org', 'verify-email', 's', 'pending', 1, 'm2', ${operation}, ${at(91)}, null, 'mail host away'),
    (${newId()}, 'ada@example.org', 'verify-email', 's', 'failed', 5, 'm3', ${operation}, ${at(92)}, null, 'no such mailbox'),
    (${newId()}, 'eve@example.org', 'verify-email', 's', 'sent', 1, 'm4', ${other}, ${at(90)}, ${at(300)}, null)`);
  const letter = {
    specversion: '1.0',
    id: 'buried',
    source: 's',
    type: 'user.created',
    time: at(0),
    tenant: 'default',
    data: {},
  };
  await run(sql`insert into dead_letters (id, queue, worker, message_type, message_id, correlation_id, reason, attempts, body, created_at) values
    (${newId()}, 'ns.kyc.v1', 'apply', 'kyc.approved', 'm', ${operation}, 'no such user', 3, ''::bytea, ${at(2000)}),
    (${newId()}, 'ns.fanout.v1', 'fan-out', 'user.created', 'buried', ${other}, 'broken', 3, ${Buffer.from(JSON.stringify(letter))}, ${at(2000)}),
    (${newId()}, 'ns.fanout.v1', 'fan-out', 'user.created', 'buried', ${other}, 'not JSON', 3, '{'::bytea, ${at(2001)})`);
  const type = findEventType('user.disabled');
  if (!type) throw new Error('the catalogue has no user.disabled');
  const transact = createTransact(database, () => undefined);
  for (const correlationId of [operation, other])
    await transact({ requestId: 'r', correlationId, actor: SYSTEM }, async ({ emit }) => {
      emit.event(type.contract, type.example, { id: `w-${correlationId}` });
      emit.audit({ action: 'user.disabled', metadata: { note: `"correlationid":"${operation}"` } });
    });
  await run(sql`insert into outbox (transport, target, routing_key, message_id, body) values
    ('rabbitmq', 'events', 'x', 'x', ${`not JSON "correlationid":"${operation}"`})`);
  const record = auditRecord.parse({
    id: auditId,
    occurred_at: at(95),
    action: 'user.registered',
    actor: { type: 'anonymous', id: null },
    outcome: 'success',
    context: { operation_id: operation },
  });
  await createSealer({ keys: new Keyring(Buffer.alloc(32, 9)).for('audit') }).append(fork(), [record]);
});
afterAll(async () => {
  await database.close(true);
  await drop();
});

const follow = async (full: boolean) =>
  trail(fork, {
    correlationId: operation,
    operation: { id: operation, row: await findOperation(fork(), operation) },
    full,
  });
const kinds = (hops: Hop[]) => hops.map((hop) => `${hop.kind} ${hop.status}`);

describe('the trail of an operation', () => {
  it('has every hop of its own, none of another, in the order of time', async () => {
    const { hops, truncated } = await follow(true);
    expect(truncated).toBe(false);
    expect(hops.map((hop) => hop.at)).toEqual(hops.map((hop) => hop.at).toSorted());
    // Audit rows and waiting events are stamped by today's clock, so they come last.
    expect(kinds(hops)).toEqual([
      'request.accepted accepted',
      'command.handled succeeded',
      'email.queued sent',
      'email.queued pending',
      'email.queued failed',
      'email.failed failed',
      'event.published published',
      'webhook.held held',
      'webhook.failed failed',
      'webhook.attempted failed',
      'webhook.attempted failed',
      'webhook.pending pending',
      'email.sent sent',
      'webhook.attempted delivered',
      'dead_letter.recorded dead',
      ...kinds(hops).slice(-2),
    ]);
    expect(kinds(hops).slice(-2).toSorted()).toEqual(['audit.recorded sealed', 'event.published waiting']);
  });

  it('tells an admin whom, where and why', async () => {
    const { hops } = await follow(true);
    const find = (kind: string, status?: string) =>
      hops.find((hop) => hop.kind === kind && (!status || hop.status === status));
    expect(find('request.accepted')).toEqual({
      at: at(0),
      kind: 'request.accepted',
      status: 'accepted',
      ref: operation,
      detail: { type: 'user.register', request_id: 'req-1' },
    });
    expect(find('command.handled')).toMatchObject({
      at: at(10),
      duration_ms: 100,
      detail: { attempts: 2, http_status: 201 },
    });
    expect(find('event.published')).toMatchObject({ at: at(100), ref: 'e1', duration_ms: 40 });
    expect(find('event.published', 'waiting')).toMatchObject({
      ref: `w-${operation}`,
      detail: { type: 'user.disabled' },
    });
    expect(find('email.sent')).toMatchObject({
      at: at(300),
      duration_ms: 210,
      detail: { template: 'verify-email', recipient: 'ada@example.org' },
    });
    expect(find('email.failed')?.detail).toMatchObject({ attempts: 5, error: 'no such mailbox' });
    expect(find('webhook.attempted', 'delivered')).toEqual({
      at: at(900),
      kind: 'webhook.attempted',
      status: 'delivered',
      ref: delivered,
      detail: {
        event_id: 'e1',
        type: 'user.created',
        attempt: 2,
        status_code: 204,
        endpoint_id: endpoint,
        url: 'https://secret.example/hook',
        error: null,
      },
      duration_ms: 9,
    });
    expect(find('webhook.pending')).toMatchObject({
      at: at(200),
      detail: { next_attempt_at: at(5000), reason: 'connect ECONNREFUSED 10.0.0.9:443' },
    });
    expect(find('webhook.held')?.detail).toMatchObject({ reason: 'endpoint disabled' });
    expect(find('dead_letter.recorded')?.detail).toMatchObject({ reason: 'no such user', worker: 'apply' });
    expect(find('audit.recorded')).toMatchObject({
      ref: auditId,
      detail: { checkpoint: 1, leaf_index: 0, action: 'user.registered', actor: { type: 'anonymous', id: null } },
    });
  });

  it('shows anyone else the same hops without endpoints, addresses, errors and audit details', async () => {
    const all = await follow(true);
    const some = await follow(false);
    expect(kinds(some.hops)).toEqual(kinds(all.hops));
    const text = JSON.stringify(some);
    for (const secret of [
      'secret.example',
      endpoint,
      'ada@example.org',
      '10.0.0.9',
      'no such',
      'mail host',
      'user.registered',
    ])
      expect(text).not.toContain(secret);
    expect(some.hops.find((hop) => hop.kind === 'audit.recorded')?.detail).toEqual({ checkpoint: 1 });
  });

  it('is the acceptance alone before a worker has taken it', async () => {
    const fresh = ids.issue();
    const { hops } = await trail(fork, { correlationId: fresh, operation: { id: fresh }, full: true });
    expect(kinds(hops)).toEqual(['request.accepted accepted']);
  });

  it('is cut at 500 hops, the earliest kept', async () => {
    const busy = ids.issue(undefined, BEGAN);
    await run(sql`insert into emails (id, recipient, template, subject, status, message_id, correlation_id, created_at)
      select gen_random_uuid(), 'a@example.org', 'verify-email', 's', 'pending', 'm', ${busy}, ${at(0)}::timestamptz + n * interval '1 second'
      from generate_series(1, 600) n`);
    const { hops, truncated } = await trail(fork, { correlationId: busy, operation: { id: busy }, full: true });
    expect([hops.length, truncated, hops[0]?.kind, hops.at(-1)?.at]).toEqual([
      500,
      true,
      'request.accepted',
      at(499_000),
    ]);
  });
});

describe('the trail of an event', () => {
  it('has its publication and its deliveries, of its own tenant', async () => {
    const { hops } = await trail(fork, { event: { tenant: 'default', id: 'e1' }, full: true });
    expect(kinds(hops)).toEqual([
      'event.published published',
      'webhook.held held',
      'webhook.failed failed',
      'webhook.attempted failed',
      'webhook.attempted failed',
      'webhook.pending pending',
      'webhook.attempted delivered',
    ]);
    expect(hops[0]?.detail).toEqual({ type: 'user.created', correlation_id: operation });
    const elsewhere = await trail(fork, { event: { tenant: 'elsewhere', id: 'e1' }, full: true });
    expect(kinds(elsewhere.hops)).toEqual(['event.published published']);
  });

  it('finds one that waits for the broker, and one that was buried', async () => {
    const waits = await trail(fork, { event: { tenant: 'default', id: `w-${operation}` }, full: true });
    expect(kinds(waits.hops)).toEqual(['event.published waiting']);
    const buried = await trail(fork, { event: { tenant: 'default', id: 'buried' }, full: true });
    expect(kinds(buried.hops)).toEqual(['dead_letter.recorded dead']);
    for (const event of [
      { tenant: 'elsewhere', id: 'buried' },
      { tenant: 'default', id: 'nothing' },
    ])
      expect((await trail(fork, { event, full: true })).hops).toEqual([]);
  });
});
