import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import { deadLetterRoutes } from '../../../src/api/routes/dead-letters.ts';
import type { DeadLetterDetail, DeadLetterRecord } from '../../../src/domain/dead-letters/list.ts';
import { newId } from '../../../src/domain/ids.ts';
import { Replay } from '../../../src/queues/replay.ts';
import { createLogger } from '../../../src/services/logger.ts';
import { createHarness, eventually, type Harness } from '../../harness.ts';

const USER = '019a9f3e-6b00-7a11-8e22-3f4455667788';
let h: Harness;
let app: ReturnType<typeof createApp>;
const db = () => h.database.em.fork().getKysely();

beforeAll(async () => {
  h = await createHarness();
  const { database, messaging } = h;
  app = createApp(
    {
      config: { ...h.config, rateLimits: 'off' },
      log: createLogger({ level: 'silent' }),
      authenticate: async (role) => ({ userId: USER, sessionId: USER, role }),
    },
    {
      api: [deadLetterRoutes({ database, transact: messaging.transact, replay: new Replay({ database, messaging }) })],
    },
  );
});
afterAll(() => h.close());

interface Letter {
  queue?: string;
  worker?: string | null;
  type?: string | null;
  messageId?: string | null;
  correlation?: string | null;
  reason?: string;
  body?: Buffer;
  at?: string;
  status?: string;
}

async function bury(letter: Letter = {}): Promise<string> {
  const id = newId();
  const {
    queue = h.messaging.topology.queue('audit'),
    worker = 'write-audit',
    type = 't',
    messageId = newId(),
  } = letter;
  await sql`
    insert into dead_letters (id, queue, worker, message_type, message_id, correlation_id, reason, attempts, first_error, body, headers, status, created_at)
    values (${id}, ${queue}, ${worker}, ${type}, ${messageId}, ${letter.correlation ?? null}, ${letter.reason ?? 'broke'}, 3, 'first',
      ${letter.body ?? Buffer.from('{"a":1}')}, '{"x-waybill-attempt":3}', ${letter.status ?? 'dead'}, ${letter.at ?? new Date().toISOString()})`.execute(
    db(),
  );
  return id;
}

interface Body<T> {
  data: T;
  error: { code: string; field?: string; message: string };
  pagination: { has_more: boolean; next_cursor: string | null };
}

async function call<T = DeadLetterRecord[]>(
  path: string,
  options: { method?: string; role?: string; body?: unknown } = {},
): Promise<{ status: number; body: Body<T> }> {
  const { method = 'GET', role = 'operator', body } = options;
  const answer = await app.request(`/api/v1/admin/dead-letters${path}`, {
    method,
    headers: {
      ...(role ? { authorization: `Bearer ${role}` } : {}),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: (await answer.json()) as Body<T> };
}

const post = <T = DeadLetterRecord>(path: string, body?: unknown, role = 'operator') =>
  call<T>(path, { method: 'POST', role, ...(body === undefined ? {} : { body }) });

/** How many messages wait in the audit queue, which nobody consumes here. */
async function published(): Promise<number> {
  const channel = await h.messaging.publisherBroker.model?.createChannel();
  const { messageCount = 0 } = (await channel?.checkQueue(h.messaging.topology.queue('audit'))) ?? {};
  await channel?.close();
  return messageCount;
}

async function actions(id: string): Promise<string[]> {
  const { rows } = await sql<{ body: string }>`select body from outbox where target = 'audit' order by id`.execute(
    db(),
  );
  return rows
    .map(({ body }) => JSON.parse(body).data)
    .filter((record) => record.targets[0]?.id === id)
    .map((record) => `${record.action} by ${record.actor.id}`);
}

describe('the list', () => {
  it('goes page by page, the newest first, also among equal times', async () => {
    const at = '2026-01-05T10:00:00.123Z';
    const ids = [];
    for (let n = 0; n < 5; n += 1) ids.push(await bury({ worker: 'paged', at }));
    const seen: string[] = [];
    let cursor: string | null = '';
    for (let page = 0; cursor !== null && page < 5; page += 1) {
      const answer: { body: Body<DeadLetterRecord[]> } = await call(
        `?worker=paged&limit=2${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
      );
      seen.push(...answer.body.data.map(({ id }) => id));
      cursor = answer.body.pagination.next_cursor;
    }
    expect(seen).toEqual(ids.toSorted().reverse());
  });

  it('shows what happened to which message', async () => {
    const messageId = newId();
    const id = await bury({ messageId, correlation: 'op-9', type: 'user.register', at: '2026-01-01T00:00:00Z' });
    const { body } = await call(`?message_id=${messageId}`);
    expect(body.data).toEqual([
      {
        id,
        queue: h.messaging.topology.queue('audit'),
        worker: 'write-audit',
        message_type: 'user.register',
        message_id: messageId,
        operation_id: 'op-9',
        reason: 'broke',
        attempts: 3,
        first_error: 'first',
        last_error: null,
        status: 'dead',
        created_at: '2026-01-01T00:00:00.000Z',
        resolved_at: null,
      },
    ]);
  });

  it('filters, by default for what is dead', async () => {
    const id = await bury({
      queue: 'q.filtered',
      worker: 'w.filtered',
      type: 'x.filtered',
      correlation: 'c.filtered',
      reason: '100% of_it BROKE',
      at: '2020-05-05T00:00:00Z',
    });
    await bury({ queue: 'q.filtered', status: 'discarded' });
    for (const query of [
      'queue=q.filtered',
      'worker=w.filtered',
      'type=x.filtered',
      'correlation_id=c.filtered',
      `reason=${encodeURIComponent('% OF_IT broke')}`,
      'created_before=2020-05-06T00:00:00Z&created_after=2020-05-05T00:00:00Z',
      'status=dead&queue=q.filtered',
    ]) {
      expect([query, (await call(`?${query}`)).body.data.map((letter) => letter.id)]).toEqual([query, [id]]);
    }
    expect((await call('?queue=q.filtered&status=discarded')).body.data).toHaveLength(1);
    expect((await call('?queue=q.filtered&reason=a_it')).body.data).toEqual([]);
  });

  it.each([
    'status=gone',
    'limit=0',
    'limit=101',
    'limit=x',
    'cursor=bm9wZQ',
    'created_after=yesterday',
    'created_before=2026-13-01T00:00:00Z',
    `reason=${'r'.repeat(501)}`,
    'queue=',
    'message_id=%00',
  ])('refuses ?%s and names it', async (query) => {
    const { status, body } = await call(`?${query}`);
    expect([status, body.error.code, body.error.field]).toEqual([400, 'VALIDATION_ERROR', query.split('=')[0]]);
  });
});

describe('one letter', () => {
  it.each([
    [
      'JSON',
      Buffer.from('{"data":{"password":"eyJhbGciOiJkaXIifQ..x"}}'),
      { data: { password: 'eyJhbGciOiJkaXIifQ..x' } },
    ],
    ['text', Buffer.from('{"a":'), '{"a":'],
    ['bytes', Buffer.from([0xff, 0x00, 0x41]), '\ufffd\u0000A'],
  ])('is shown with its headers and its body as %s', async (_what, body, shown) => {
    const id = await bury({ body });
    const answer = await call<DeadLetterDetail>(`/${id}`, { role: 'admin' });
    expect(answer.status).toBe(200);
    expect(answer.body.data).toMatchObject({
      id,
      headers: { 'x-waybill-attempt': 3 },
      body: shown,
      body_bytes: body.length,
      body_truncated: false,
    });
  });

  it('keeps its body from operators', async () => {
    const { data } = (await call<DeadLetterDetail>(`/${await bury()}`)).body;
    expect([data.body, data.body_bytes]).toEqual([null, 7]);
  });

  it('is cut when it is large', async () => {
    const id = await bury({ body: Buffer.from(JSON.stringify('x'.repeat(300_000))) });
    const { data } = (await call<DeadLetterDetail>(`/${id}`, { role: 'admin' })).body;
    expect([data.body_bytes, data.body_truncated, String(data.body).length]).toEqual([300_002, true, 262_144]);
  });

  it('is replayed once, and then neither replayed nor discarded', async () => {
    const id = await bury();
    const before = await published();
    const { status, body } = await post(`/${id}/replay`);
    expect([status, body.data.status]).toEqual([200, 'replayed']);
    expect(body.data.resolved_at).toMatch(/Z$/);
    await eventually(async () => (await published()) === before + 1, 'it is in its queue');
    for (const action of ['replay', 'discard']) {
      const again = await post(`/${id}/${action}`);
      expect([again.status, again.body.error.message]).toEqual([409, 'the dead letter was replayed already']);
    }
    expect(await actions(id)).toEqual([`dead_letter.replayed by ${USER}`]);
  });

  it('is discarded, with a reason or without a body', async () => {
    const [with_, without] = [await bury(), await bury()];
    expect((await post(`/${with_}/discard`, { reason: 'a duplicate' })).body.data.status).toBe('discarded');
    expect((await post(`/${without}/discard`)).body.data.status).toBe('discarded');
    expect((await post(`/${with_}/discard`)).status).toBe(409);
    expect((await post(`/${with_}/replay`)).status).toBe(409);
    expect(await actions(without)).toEqual([`dead_letter.discarded by ${USER}`]);
  });

  it('of a queue that is gone is 409', async () => {
    const { status, body } = await post(`/${await bury({ queue: 'q.gone' })}/replay`);
    expect([status, body.error]).toMatchObject([409, { message: 'there is no queue "q.gone" any more' }]);
  });

  it('that does not exist is 404, and what is no id 400', async () => {
    for (const [method, suffix] of [
      ['GET', ''],
      ['POST', '/replay'],
      ['POST', '/discard'],
    ] as const) {
      expect((await call(`/${newId()}${suffix}`, { method })).status).toBe(404);
      expect((await call(`/7${suffix}`, { method })).body.error).toMatchObject({
        code: 'VALIDATION_ERROR',
        field: 'id',
      });
    }
  });

  it.each([[{ reason: 5 }], [{ reason: '' }], [{ reason: 'r'.repeat(501) }], [{ why: 'x' }], [[]]])(
    'is not discarded with the body %j',
    async (body) => {
      const id = await bury();
      expect((await post(`/${id}/discard`, body)).status).toBe(400);
      expect(await actions(id)).toEqual([]);
    },
  );
});

describe('many letters', () => {
  it('are counted by a dry run, and replayed up to the limit, the oldest first', async () => {
    const ids = [];
    for (let n = 0; n < 3; n += 1) ids.push(await bury({ worker: 'bulk', at: `2026-02-0${n + 1}T00:00:00Z` }));
    const filter = { worker: 'bulk' };
    expect((await post('/replay', { filter, dry_run: true })).body.data).toEqual({
      matched: 3,
      replayed: 0,
      dry_run: true,
    });
    expect((await call('?worker=bulk')).body.data).toHaveLength(3);
    expect((await post('/replay', { filter, limit: 2 })).body.data).toEqual({
      matched: 3,
      replayed: 2,
      dry_run: false,
    });
    expect((await call('?worker=bulk')).body.data.map(({ id }) => id)).toEqual([ids[2]]);
    expect((await post('/replay', { filter })).body.data).toEqual({ matched: 1, replayed: 1, dry_run: false });
    for (const id of ids) expect(await actions(id)).toEqual([`dead_letter.replayed by ${USER}`]);
  });

  it('whose queue is gone are left, their neighbours are replayed', async () => {
    await bury({ worker: 'mixed', queue: 'q.gone' });
    await bury({ worker: 'mixed' });
    expect((await post('/replay', { filter: { worker: 'mixed' } })).body.data).toMatchObject({
      matched: 2,
      replayed: 1,
    });
    expect((await call('?worker=mixed')).body.data.map(({ queue }) => queue)).toEqual(['q.gone']);
  });

  it('are discarded, each with its audit row', async () => {
    const ids = [await bury({ worker: 'bin' }), await bury({ worker: 'bin' })];
    const filter = { worker: 'bin' };
    expect((await post('/discard', { filter, dry_run: true })).body.data).toEqual({
      matched: 2,
      discarded: 0,
      dry_run: true,
    });
    expect((await post('/discard', { filter, reason: 'old' })).body.data).toEqual({
      matched: 2,
      discarded: 2,
      dry_run: false,
    });
    expect((await call('?worker=bin&status=discarded')).body.data).toHaveLength(2);
    for (const id of ids) expect(await actions(id)).toHaveLength(1);
  });

  it.each([
    [{}, 'filter'],
    [{ filter: 'all' }, 'filter'],
    [{ filter: { status: 'dead' } }, 'filter.status'],
    [{ filter: { reason: 5 } }, 'filter.reason'],
    [{ filter: { created_after: 'now' } }, 'filter.created_after'],
    [{ filter: { queue: 'a\u0000b' } }, undefined],
    [{ filter: {}, limit: 1001 }, 'limit'],
    [{ filter: {}, limit: 0 }, 'limit'],
    [{ filter: {}, limit: 1.5 }, 'limit'],
    [{ filter: {}, dry_run: 'yes' }, 'dry_run'],
    [{ filter: {}, force: true }, 'force'],
  ])('are not touched with the body %j', async (body, field) => {
    const before = await published();
    for (const action of ['replay', 'discard']) {
      const answer = await post(`/${action}`, body);
      expect([answer.status, answer.body.error.code]).toEqual([400, 'VALIDATION_ERROR']);
      if (field) expect(answer.body.error.field).toBe(field);
    }
    expect(await published()).toBe(before);
  });

  it('need a JSON body', async () => {
    for (const action of ['replay', 'discard']) expect((await post(`/${action}`)).status).toBe(400);
    const text = await app.request('/api/v1/admin/dead-letters/replay', {
      method: 'POST',
      headers: { authorization: 'Bearer admin', 'content-type': 'text/plain' },
      body: 'all',
    });
    expect(text.status).toBe(415);
  });
});

it('is for admins and operators', async () => {
  const id = await bury();
  for (const [method, path, body] of [
    ['GET', '', undefined],
    ['GET', `/${id}`, undefined],
    ['POST', `/${id}/replay`, undefined],
    ['POST', `/${id}/discard`, undefined],
    ['POST', '/replay', { filter: {}, dry_run: true }],
    ['POST', '/discard', { filter: {}, dry_run: true }],
  ] as const) {
    const as = (role: string) => call(path, { method, role, ...(body ? { body } : {}) });
    expect([path, (await as('')).status, (await as('user')).status]).toEqual([path, 401, 403]);
  }
  expect((await call(`/${id}`, { role: 'admin' })).status).toBe(200);
  expect((await call(`/${id}`, { role: 'operator' })).status).toBe(200);
  expect((await call<DeadLetterDetail>(`/${id}`)).body.data.status).toBe('dead');
});
