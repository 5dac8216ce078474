import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { verify } from '../../src/domain/audit/index.ts';
import { newId } from '../../src/domain/ids.ts';
import type { RequestContext } from '../../src/domain/messages/envelope.ts';
import { Relay } from '../../src/queues/relay.ts';
import { writeAudit } from '../../src/workers/write-audit.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

let h: Harness;
const user = newId();
const context = (correlationId: string): RequestContext => ({
  requestId: 'req-1',
  correlationId,
  actor: { type: 'user', id: user },
  ip: '203.0.113.9',
});

beforeAll(async () => {
  h = await createHarness();
  const { database, messaging, log } = h;
  const { publisher, alarms, topology, wake } = messaging;
  const relay = new Relay({ database, publisher, alarms, topology, wake, log });
  await h.start([writeAudit(h)], ['audit', 'housekeeping'], [relay]);
});
afterAll(() => h.close());

const em = () => h.database.em.fork();
const rows = async (operation: string) =>
  (
    await sql<{ action: string; checkpoint: string; personal: string }>`
      select action, checkpoint, personal::text from audit_events where operation_id = ${operation} order by checkpoint, leaf_index`.execute(
      em().getKysely(),
    )
  ).rows;

async function publish(messageId: string, body: unknown): Promise<void> {
  await h.messaging.publisher.publish({
    exchange: h.messaging.topology.audit,
    routingKey: 'audit.record',
    body: Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)),
    messageId,
    type: 'audit.record',
  });
}

const message = (id: string, operation: string, over: Record<string, unknown> = {}) => ({
  specversion: '1.0',
  id,
  source: 'waybill',
  type: 'audit.record',
  time: new Date().toISOString(),
  data: {
    id,
    occurred_at: new Date().toISOString(),
    action: 'session.created',
    actor: { type: 'user', id: user },
    outcome: 'success',
    context: { operation_id: operation },
    ...over,
  },
});

it('seals what a transaction told of, many in one checkpoint, with the personal fields encrypted', async () => {
  const operation = newId();
  await h.messaging.transact(context(operation), async ({ emit }) => {
    for (let n = 0; n < 50; n += 1)
      emit.audit({
        action: 'user.updated',
        targets: [{ type: 'user', id: user }],
        metadata: { email: 'ada@example.org' },
      });
  });
  const found = await eventually(async () => {
    const all = await rows(operation);
    return all.length === 50 ? all : undefined;
  }, 'fifty rows');
  expect(new Set(found.map((row) => row.checkpoint)).size).toBeLessThan(50);
  expect(found.map((row) => row.personal).join()).not.toContain('ada@example.org');
  expect(await verify(em(), { keys: h.keyring.for('audit') })).toMatchObject({ intact: true, rows: 50 });
});

it('records one that comes twice once', async () => {
  const [operation, last] = [newId(), newId()];
  const twice = message(newId(), operation);
  await Promise.all([publish(twice.id, twice), publish(twice.id, twice)]);
  await publish(twice.id, twice);
  const end = message(newId(), last);
  await publish(end.id, end);
  await eventually(async () => (await rows(last)).length === 1, 'the record behind it');
  expect(await rows(operation)).toHaveLength(1);
});

it.each([
  ['that is not JSON', () => '{"a":', /^not JSON/],
  ['without an action', (id: string) => message(id, 'op', { action: undefined }), /action/],
  ['with an unknown field', (id: string) => message(id, 'op', { secret: 1 }), /secret|Unrecognized/],
  ['with U+0000 in its action', (id: string) => message(id, 'op', { action: 'a.b\u0000' }), /action/],
  ['of an impossible time', (id: string) => message(id, 'op', { occurred_at: '0000-01-01T00:00:00Z' }), /occurred_at/],
])('buries a record %s with the reason, and records its neighbours', async (_what, make, reason) => {
  const [id, operation] = [newId(), newId()];
  const neighbour = message(newId(), operation);
  await Promise.all([publish(id, make(id)), publish(neighbour.id, neighbour)]);
  const letter = await eventually(async () => {
    const { rows: found } = await sql<{ reason: string; worker: string }>`
      select reason, worker from dead_letters where message_id = ${id}`.execute(em().getKysely());
    return found[0];
  }, 'the dead letter');
  expect(letter).toMatchObject({ reason: expect.stringMatching(reason), worker: 'write-audit' });
  await eventually(async () => (await rows(operation)).length === 1, 'the neighbour');
  const { rows: kept } = await sql`select 1 from audit_events where id = ${id}`.execute(em().getKysely());
  expect(kept).toEqual([]);
});

it('keeps a record whose key cannot be opened until it can, and records its neighbours meanwhile', async () => {
  const [subject, operation, other] = [newId(), newId(), newId()];
  const run = (query: ReturnType<typeof sql>) => query.execute(em().getKysely());
  await run(sql`insert into audit_subject_keys (subject, wrapped, kid, created_at)
    values (${subject}, '\\x00'::bytea, 'unknown', now())`);
  const stuck = message(newId(), operation, { subject });
  const neighbour = message(newId(), other);
  await Promise.all([publish(stuck.id, stuck), publish(neighbour.id, neighbour)]);
  await eventually(async () => (await rows(other)).length === 1, 'the neighbour');
  await eventually(
    () => h.logged.some((line) => line.includes(stuck.id) && line.includes('cannot be opened')),
    'the refusal',
  );
  expect(await rows(operation)).toEqual([]);
  await run(sql`delete from audit_subject_keys where subject = ${subject}`);
  await eventually(async () => (await rows(operation)).length === 1, 'the record, on its next try', 15_000);
});
