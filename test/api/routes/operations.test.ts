import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { createApp } from '../../../src/api/app.ts';
import { operationRoutes } from '../../../src/api/routes/operations.ts';
import { newId, OperationIds } from '../../../src/domain/ids.ts';
import { command } from '../../../src/domain/messages/contracts.ts';
import type { Actor } from '../../../src/domain/messages/envelope.ts';
import { ANONYMOUS } from '../../../src/domain/messages/envelope.ts';
import { done, reject } from '../../../src/domain/messages/outcome.ts';
import type { OperationRecord, OperationSummary } from '../../../src/domain/operations/list.ts';
import type { Hop } from '../../../src/domain/operations/trail.ts';
import { Relay } from '../../../src/queues/relay.ts';
import { defineWorker } from '../../../src/queues/worker.ts';
import { writeAudit } from '../../../src/workers/write-audit.ts';
import { createHarness, eventually, type Harness } from '../../harness.ts';

const deed = command('test.deed', z.strictObject({ answer: z.enum(['done', 'refused', 'later']) }));
/** Released by the test that waits for it. */
let release = () => {};
const gate = new Promise<void>((resolve) => {
  release = resolve;
});

const workers = [
  defineWorker({
    name: 'deed',
    pool: 'registration',
    takes: deed,
    retry: { attempts: 2, baseMs: 100, maxMs: 200 },
    timeoutMs: 20_000,
    perform: async ({ data }) => {
      if (data.answer === 'later') await gate;
    },
    handle: async ({ data, emit }) => {
      if (data.answer === 'refused') return reject({ code: 'CONFLICT', message: 'taken', field: 'email' });
      emit.audit({ action: 'deed.done', targets: [{ type: 'deed', id: 'secret-target' }] });
      return done({ text: 'it is done' }, 201);
    },
  }),
];

const ids = new OperationIds(Buffer.alloc(32, 8));
const [ADA, BOB] = [newId(), newId()];
const asAda: Actor = { type: 'user', id: ADA };
let h: Harness;
let app: ReturnType<typeof createApp>;

beforeAll(async () => {
  h = await createHarness({ OPERATION_RETENTION: '1h' }, workers);
  const { database, messaging, log } = h;
  const { publisher, alarms, topology, wake } = messaging;
  const relay = new Relay({ database, publisher, alarms, topology, wake, log });
  await h.start([...workers, writeAudit(h)], ['registration', 'audit', 'housekeeping'], [relay]);
  app = createApp(
    {
      config: h.config,
      log,
      authenticate: async (token) => {
        const [role = '', userId = ADA] = token.split('.');
        return role === 'nobody' ? undefined : { userId, sessionId: userId, role };
      },
    },
    { api: [operationRoutes({ config: h.config, database, commands: messaging.commands, operationIds: ids })] },
  );
});
afterAll(() => h.close());

async function act(answer: z.infer<typeof deed.schema>['answer'], actor: Actor = ANONYMOUS, waitMs = 10_000) {
  const operationId = ids.issue();
  const context = { requestId: 'req-7', correlationId: operationId, actor };
  await h.messaging.commands.send(deed, { answer }, context, { operationId, waitMs });
  return operationId;
}

interface Body<T> {
  data: T;
  error: { code: string; field?: string };
  pagination: { limit: number; has_more: boolean; next_cursor: string | null };
}

async function call<T = OperationRecord>(path: string, role = '', headers: Record<string, string> = {}) {
  const answer = await app.request(`/api/v1/operations${path}`, {
    headers: { ...(role ? { authorization: `Bearer ${role}` } : {}), ...headers },
  });
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Body<T> };
}

describe('an operation', () => {
  it('shows the result of one that succeeded', async () => {
    const id = await act('done', asAda);
    const { status, body } = await call(`/${id}`, `user.${ADA}`);
    expect([status, body.data]).toEqual([
      200,
      {
        operation_id: id,
        type: 'test.deed',
        status: 'succeeded',
        result: { text: 'it is done' },
        created_at: new Date(ids.issuedAt(id) ?? 0).toISOString(),
        started_at: expect.stringMatching(/Z$/),
        finished_at: expect.stringMatching(/Z$/),
      },
    ]);
    expect((await call(`/${id.toUpperCase()}`, `user.${ADA}`)).body.data.operation_id).toBe(id);
  });

  it('shows the problem of one that failed', async () => {
    const { body } = await call(`/${await act('refused')}`);
    expect(body.data).toMatchObject({
      status: 'failed',
      error: { code: 'CONFLICT', message: 'taken', field: 'email' },
    });
    expect(body.data).not.toHaveProperty('result');
  });

  it('is accepted as long as no worker has written of it, and waits as long as it is asked to', async () => {
    const id = await act('later', ANONYMOUS, 0);
    const first = await call(`/${id}`, '', { prefer: 'respond-async, wait=1' });
    expect(first.body.data).toEqual({
      operation_id: id,
      type: null,
      status: 'accepted',
      created_at: new Date(ids.issuedAt(id) ?? 0).toISOString(),
    });
    expect(first.headers.get('preference-applied')).toBe('wait=1');
    expect(first.headers.get('retry-after')).toBe('1');
    const waiting = call(`/${id}`, '', { prefer: 'wait=20' });
    release();
    const { body, headers } = await waiting;
    expect(body.data).toMatchObject({ status: 'succeeded', result: { text: 'it is done' } });
    expect(headers.get('retry-after')).toBeNull();
  });

  it('names its command before a worker has written of it', async () => {
    const { body } = await call(`/${ids.issue('kyc.submit')}`);
    expect(body.data).toMatchObject({ type: 'kyc.submit', status: 'accepted' });
  });

  it('is running once an attempt has failed and another will follow', async () => {
    const id = ids.issue();
    await sql`insert into operations (id, type, status, caller, attempts, created_at, started_at)
      values (${id}, 'test.deed', 'running', 'anonymous', 1, now(), now())`.execute(h.database.em.fork().getKysely());
    expect((await call(`/${id}`)).body.data).toMatchObject({ status: 'running', type: 'test.deed' });
    const waited = await call(`/${id}`, '', { prefer: 'wait=1' });
    expect(waited.body.data).toMatchObject({ status: 'running', type: 'test.deed' });
  });

  it('is accepted when PostgreSQL does not tell of it in the time of a wait', async () => {
    const operationId = ids.issue('test.deed');
    const context = { requestId: 'req-8', correlationId: operationId, actor: ANONYMOUS };
    // All of these answer while the table is still locked, or the test runs out of its time.
    await h.database.em.fork().transactional(async (em) => {
      await sql`lock table operations in access exclusive mode`.execute(em.getKysely());
      const sent = h.messaging.commands.send(deed, { answer: 'done' }, context, { operationId, waitMs: 500 });
      expect(await sent).toEqual({ operationId, operation: undefined });
      expect(await h.messaging.commands.await(operationId, 500)).toBeUndefined();
      const { status, headers, body } = await call(`/${operationId}`, '', { prefer: 'wait=1' });
      expect([status, headers.get('retry-after'), body.data.status]).toEqual([200, '1', 'accepted']);
    });
    expect(await h.messaging.commands.await(operationId, 20_000)).toMatchObject({ status: 'succeeded' });
  }, 40_000);

  it('is not there when it was never issued, or so long ago that its row is gone', async () => {
    const old = ids.issue(undefined, Date.now() - 3_601_000);
    const foreign = new OperationIds(Buffer.alloc(32, 9)).issue();
    for (const id of [old, foreign, newId()]) {
      const before = performance.now();
      const { status, body } = await call(`/${id}`, 'admin', { prefer: 'wait=20' });
      expect([status, body.error.code]).toEqual([404, 'NOT_FOUND']);
      expect(performance.now() - before).toBeLessThan(5000);
    }
    expect((await call(`/${ids.issue(undefined, Date.now() - 3_500_000)}`)).status).toBe(200);
  });

  it('is for its caller, admins and operators; for anyone else it is not there', async () => {
    const id = await act('done', asAda);
    for (const who of [`user.${ADA}`, `admin.${BOB}`, `operator.${BOB}`])
      expect((await call(`/${id}`, who)).status).toBe(200);
    for (const who of ['', 'nobody', `user.${BOB}`, `reviewer.${BOB}`])
      expect((await call(`/${id}`, who)).status).toBe(404);
  });

  it('made without credentials does not tell how long its worker took, but to those who run the platform', async () => {
    const created = new Date(Date.now() - 10_000);
    const [started, finished] = [new Date(created.getTime() + 12), new Date(created.getTime() + 1034)];
    const id = ids.issue(undefined, created.getTime());
    await sql`insert into operations (id, type, status, caller, attempts, created_at, started_at, finished_at)
      values (${id}, 'test.deed', 'succeeded', 'anonymous', 1, ${created}, ${started}, ${finished})`.execute(
      h.database.em.fork().getKysely(),
    );
    for (const who of ['', `user.${BOB}`]) {
      const { data } = (await call(`/${id}`, who)).body;
      expect(data).toMatchObject({ status: 'succeeded', created_at: created.toISOString() });
      expect(data).not.toHaveProperty('started_at');
      expect(data.finished_at).toBe(new Date(created.getTime() + 2000).toISOString());
    }
    for (const who of [`admin.${BOB}`, `operator.${BOB}`])
      expect((await call(`/${id}`, who)).body.data).toMatchObject({
        started_at: started.toISOString(),
        finished_at: finished.toISOString(),
      });
  });

  it.each([
    ['asked for once', '', {}],
    ['waited for', '', { prefer: 'wait=20' }],
    ['asked for once by another account', `user.${BOB}`, {}],
    ['waited for by another account', `user.${BOB}`, { prefer: 'wait=20' }],
  ])(
    'made without credentials and %s is answered 300 ms after it was made at the earliest',
    async (_, who, headers) => {
      const id = await act('done', ANONYMOUS);
      expect(await h.messaging.commands.await(id, 0)).toMatchObject({ status: 'succeeded' });
      const { body } = await call(`/${id}`, who, headers);
      expect(Date.now() - (ids.issuedAt(id) ?? 0)).toBeGreaterThan(297);
      expect(body.data).toMatchObject({ status: 'succeeded', result: { text: 'it is done' } });
    },
  );

  it('made without credentials is answered no sooner before a worker has written of it', async () => {
    const id = ids.issue();
    expect((await call(`/${id}`, `user.${BOB}`)).body.data.status).toBe('accepted');
    expect(Date.now() - (ids.issuedAt(id) ?? 0)).toBeGreaterThan(297);
    const staff = ids.issue();
    expect((await call(`/${staff}`, 'operator')).body.data.status).toBe('accepted');
    expect(Date.now() - (ids.issuedAt(staff) ?? 0)).toBeLessThan(300);
  });

  it('issued under the previous key is recognised, and new ones are issued under the current', async () => {
    const rotated = new OperationIds(Buffer.alloc(32, 5), Buffer.alloc(32, 8));
    const old = ids.issue();
    expect(rotated.issuedAt(old)).toBe(ids.issuedAt(old));
    expect(new OperationIds(Buffer.alloc(32, 5)).issuedAt(rotated.issue())).toBeDefined();
    expect(rotated.issuedAt(new OperationIds(Buffer.alloc(32, 6)).issue())).toBeUndefined();
  });

  it.each(['/7', '/not-an-id', `/${'0'.repeat(5000)}`, '/%E2%82%AC'])(
    'refuses %s and names the field',
    async (path) => {
      const { status, body } = await call(path);
      expect([status, body.error.code, body.error.field]).toEqual([400, 'VALIDATION_ERROR', 'id']);
    },
  );

  it.each(['wait=soon', 'wait=-1', ';;;', 'x'.repeat(4000), 'wait=999999999999'])(
    'ignores the preference "%s"',
    async (prefer) => {
      const { status, headers } = await call(`/${await act('done')}`, '', { prefer });
      expect([status, headers.get('preference-applied')]).toEqual([200, null]);
    },
  );
});

describe('the list', () => {
  it('shows who asked for what, the newest first, page by page', async () => {
    const mine = [await act('done', asAda), await act('refused', asAda), await act('done', asAda)].toReversed();
    const seen: OperationSummary[] = [];
    let cursor: string | null = '';
    for (let page = 0; cursor !== null && page < 20; page += 1) {
      const { status, body }: Awaited<ReturnType<typeof call<OperationSummary[]>>> = await call<OperationSummary[]>(
        `?limit=2&caller=user:${ADA}${cursor && `&cursor=${cursor}`}`,
        'operator',
      );
      expect(status).toBe(200);
      seen.push(...body.data);
      cursor = body.pagination.next_cursor;
    }
    expect(seen.slice(0, 3).map((row) => row.operation_id)).toEqual(mine);
    expect(seen.every((row) => row.caller === `user:${ADA}`)).toBe(true);
    expect(seen[1]).toMatchObject({
      type: 'test.deed',
      status: 'failed',
      request_id: 'req-7',
      attempts: 1,
      error: { code: 'CONFLICT' },
    });
    expect(seen[0]).not.toHaveProperty('result');
    const failed = await call<OperationSummary[]>(`?status=failed&type=test.deed&caller=user:${ADA}`, 'admin');
    expect(failed.body.data.map((row) => row.operation_id)).toEqual([mine[1]]);
    expect((await call<OperationSummary[]>('?type=other', 'admin')).body.data).toEqual([]);
  });

  it.each([
    ['status=lost', 'status'],
    ['status=accepted', 'status'],
    ['limit=0', 'limit'],
    ['cursor=bm9wZQ', 'cursor'],
    [`type=${'ü'.repeat(129)}`, 'type'],
    ['caller=%00', 'caller'],
  ])('refuses ?%s and names it', async (query, field) => {
    const { status, body } = await call(`?${query}`, 'admin');
    expect([status, body.error.code, body.error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
  });

  it('is for admins and operators', async () => {
    expect((await call('')).status).toBe(401);
    expect((await call('', 'user')).status).toBe(403);
    expect((await call('', 'reviewer')).status).toBe(403);
  });
});

describe('the trail', () => {
  type Trail = { operation: OperationRecord; hops: Hop[]; truncated: boolean };

  it('goes from the request to the sealed audit row', async () => {
    const id = await act('done', asAda);
    const { operation, hops } = await eventually(async () => {
      const { body } = await call<Trail>(`/${id}/trail`, `admin.${BOB}`);
      return body.data.hops.some((hop) => hop.kind === 'audit.recorded') ? body.data : undefined;
    }, 'the audit row');
    expect(operation).toMatchObject({ operation_id: id, status: 'succeeded' });
    expect(hops.map((hop) => hop.kind)).toEqual(['request.accepted', 'command.handled', 'audit.recorded']);
    expect(hops[2]?.detail).toMatchObject({ action: 'deed.done', checkpoint: expect.any(Number) });

    const own = await call<Trail>(`/${id}/trail`, `user.${ADA}`);
    expect(own.body.data.hops.map((hop) => hop.kind)).toEqual(hops.map((hop) => hop.kind));
    expect(JSON.stringify(own.body.data)).not.toContain('secret-target');
  });

  it('is not for one who merely holds an id', async () => {
    const [anonymous, hers, fresh] = [await act('done'), await act('done', asAda), ids.issue()];
    for (const id of [anonymous, hers, fresh]) {
      expect((await call(`/${id}/trail`)).status).toBe(401);
      expect((await call(`/${id}/trail`, `user.${BOB}`)).status).toBe(404);
      expect((await call(`/${id}/trail`, `operator.${BOB}`)).status).toBe(200);
    }
    expect((await call(`/${newId()}/trail`, 'admin')).status).toBe(404);
    expect((await call('/7/trail', 'admin')).body.error.field).toBe('id');
  });
});
