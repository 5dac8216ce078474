import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import { auditRoutes } from '../../../src/api/routes/audit.ts';
import {
  type AuditEntry,
  type AuditRecordInput,
  auditRecord,
  createSealer,
  type InclusionProof,
  type Verification,
  verifyInclusion,
} from '../../../src/domain/audit/index.ts';
import { newId, OperationIds } from '../../../src/domain/ids.ts';
import type { Database } from '../../../src/services/database.ts';
import { tamper } from '../../domain/audit/log.ts';
import { createHarness, type Harness } from '../../harness.ts';

const ADMIN = newId();
const ADA = newId();
const OPERATION = newId();
let h: Harness;
let database: Database;
let app: ReturnType<typeof createApp>;
const ids: string[] = [];

beforeAll(async () => {
  h = await createHarness();
  const { config, log, keyring, messaging } = h;
  database = h.database;
  const deps = {
    config,
    log,
    database,
    keyring,
    operationIds: new OperationIds(keyring.for('operation-id').current().key),
    transact: messaging.transact,
    commands: messaging.commands,
  };
  const shell = {
    config,
    log,
    authenticate: async (role: string) => ({ userId: ADMIN, sessionId: ADMIN, role }),
  };
  app = createApp(shell, { api: [auditRoutes(deps)] });
  const sealer = createSealer({ keys: keyring.for('audit') });
  for (let n = 0; n < 5; n += 1) {
    const id = newId();
    ids.unshift(id);
    const input: AuditRecordInput = {
      id,
      occurred_at: `2026-11-20T10:00:0${n}.000Z`,
      action: n < 3 ? 'session.created' : 'user.updated',
      actor: { type: 'user', id: ADA },
      targets: [{ type: 'user', id: n === 0 ? ADMIN : ADA }],
      context: { ip: '203.0.113.7', ...(n === 4 ? { operation_id: OPERATION } : {}) },
      metadata: { email: 'ada@example.org', note: n === 1 ? '=1+1, "x"' : 'plain' },
      outcome: 'success',
    };
    await sealer.append(database.em.fork(), [auditRecord.parse(input)]);
  }
});
afterAll(() => h.close());

interface Body<T> {
  data: T;
  error: { code: string; field?: string; message: string };
  pagination: { limit: number; has_more: boolean; next_cursor: string | null };
}

const ask = (path: string, role = 'admin') =>
  app.request(`/api/v1/admin/audit${path}`, { headers: role ? { authorization: `Bearer ${role}` } : {} });

async function call<T = AuditEntry[]>(path: string, role?: string) {
  const answer = await ask(path, role);
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Body<T> };
}

it('lists page by page, the newest first, until the last, with personal fields readable', async () => {
  const seen: AuditEntry[] = [];
  let cursor: string | null = '';
  for (let page = 0; cursor !== null && page < 5; page += 1) {
    const { status, body }: Awaited<ReturnType<typeof call<AuditEntry[]>>> = await call(
      `?limit=2${cursor && `&cursor=${cursor}`}`,
    );
    expect(status).toBe(200);
    expect(body.pagination).toMatchObject({ limit: 2, has_more: body.pagination.next_cursor !== null });
    seen.push(...body.data);
    cursor = body.pagination.next_cursor;
  }
  expect(seen.map((row) => row.id)).toEqual(ids);
  expect(seen[0]).toMatchObject({
    action: 'user.updated',
    actor: { type: 'user', id: ADA },
    targets: [{ type: 'user', id: ADA }],
    context: { ip: '203.0.113.7', operation_id: OPERATION },
    metadata: { email: 'ada@example.org', note: 'plain' },
    outcome: 'success',
    checkpoint: 5,
  });
});

it.each([
  ['action=user.updated', [0, 1]],
  [`actor=${ADA}&limit=1`, [0]],
  [`actor=${ADMIN}`, []],
  [`target=${ADMIN}`, [4]],
  [`operation_id=${OPERATION}`, [0]],
  ['occurred_after=2026-11-20T10:00:03Z', [0, 1]],
  ['occurred_before=2026-11-20T12:00:01%2B02:00', [4]],
  ['occurred_after=2026-11-20T10:00:01Z&occurred_before=2026-11-20T10:00:03Z', [2, 3]],
])('finds by ?%s', async (query, expected) => {
  const { body } = await call(`?${query}`);
  expect(body.data.map((row) => ids.indexOf(row.id))).toEqual(expected);
});

it.each([
  ['?limit=101', 'limit'],
  ['?limit=many', 'limit'],
  ['?cursor=bm9wZQ', 'cursor'],
  [`?cursor=${Buffer.from(`2026-02-31T99:00:00.000Z ${ADA}`).toString('base64url')}`, 'cursor'],
  [`?actor=${'a'.repeat(256)}`, 'actor'],
  [`?action=${'é'.repeat(101)}`, 'action'],
  ['?occurred_after=yesterday', 'occurred_after'],
  ['?occurred_after=0000-01-01T00:00:00Z', 'occurred_after'],
  ['?occurred_before=9999-12-31T23:59:59-23:00', 'occurred_before'],
  ['?occurred_before=2026-02-30T00:00:00Z', 'occurred_before'],
  ['?target=%00', 'target'],
  ['?target=%ff', 'target'],
  ['/export?format=xml', 'format'],
  ['/export?occurred_after=2026', 'occurred_after'],
  ['/7/proof', 'id'],
])('refuses %s and names the field', async (path, field) => {
  const { status, body } = await call(path);
  expect([status, body.error.code, body.error.field]).toEqual([400, 'VALIDATION_ERROR', field]);
});

it('takes times at the far ends that PostgreSQL would not take as they are written', async () => {
  expect((await call('?occurred_after=2026-11-20T10:00:00%2B23:59')).status).toBe(200);
});

it('is for admins', async () => {
  for (const path of ['', '/verify', `/${ids[0]}/proof`, '/export']) {
    expect((await call(path, '')).status).toBe(401);
    for (const role of ['user', 'operator', 'reviewer']) expect((await call(path, role)).status).toBe(403);
  }
});

it('proves that a row is in the log', async () => {
  const { status, body } = await call<InclusionProof>(`/${ids[2]?.toUpperCase()}/proof`);
  expect([status, body.data.event_id]).toEqual([200, ids[2]]);
  expect(await verifyInclusion(body.data)).toBe(true);
  expect(await verifyInclusion({ ...body.data, leaf: '00'.repeat(32) })).toBe(false);
  expect((await call(`/${ADA}/proof`)).status).toBe(404);
});

describe('the export', () => {
  it('is NDJSON of every row, and is itself recorded', async () => {
    const answer = await ask('/export?action=session.created');
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe('application/x-ndjson');
    expect(answer.headers.get('content-disposition')).toBe('attachment; filename="audit.ndjson"');
    expect(answer.headers.get('cache-control')).toBe('no-store');
    const lines = (await answer.text()).trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line).id)).toEqual(ids.slice(2));
    const { rows } = await sql<{ body: string }>`select body from outbox where target = 'audit'`.execute(
      database.em.fork().getKysely(),
    );
    expect(rows.map(({ body }) => JSON.parse(body).data)).toMatchObject([
      { action: 'audit.exported', actor: { id: ADMIN }, metadata: { format: 'ndjson', action: 'session.created' } },
    ]);
    expect(auditRecord.safeParse(JSON.parse(rows[0]?.body ?? '{}').data).success).toBe(true);
  });

  it('is CSV with a header that no spreadsheet runs', async () => {
    const answer = await ask('/export?format=csv&action=session.created');
    expect(answer.headers.get('content-type')).toMatch(/^text\/csv/);
    const lines = (await answer.text()).trimEnd().split('\r\n');
    expect(lines).toHaveLength(4);
    expect(lines[0]).toMatch(/^id,occurred_at,/);
    expect(lines[1]).toContain(ids[2]);
  });

  it('has no line when nothing matches', async () => {
    expect(await (await ask('/export?action=never.happened')).text()).toBe('');
  });
});

describe('the verification', () => {
  it('finds the log whole, and names the first row that was changed', async () => {
    expect((await call<Verification>('/verify')).body.data).toEqual({ intact: true, rows: 5, checkpoints: 5 });
    await tamper(database.em.fork(), (tx) =>
      sql`update audit_events set action = 'user.forgotten' where id = ${ids[2]}`.execute(tx.getKysely()),
    );
    const { status, body } = await call<Verification>('/verify');
    expect(status).toBe(200);
    expect(body.data).toMatchObject({
      intact: false,
      rows: 2,
      first_broken: { id: ids[2], checkpoint: 3, why: expect.any(String) },
    });
  });
});

it('streams a long log in chunks, and lets go of it when its reader leaves', async () => {
  const sealer = createSealer({ keys: h.keyring.for('audit') });
  const records = Array.from({ length: 1200 }, (_, n) =>
    auditRecord.parse({
      id: newId(),
      occurred_at: '2026-11-21T10:00:00.000Z',
      action: 'bulk.done',
      actor: { type: 'system', id: null },
      metadata: { n },
      outcome: 'success',
    }),
  );
  await sealer.append(database.em.fork(), records);
  const chunks: string[] = [];
  const decoder = new TextDecoder();
  for await (const chunk of (await ask('/export?action=bulk.done')).body ?? []) chunks.push(decoder.decode(chunk));
  expect(chunks.length).toBeGreaterThan(5);
  const seen = chunks.join('').trimEnd().split('\n');
  expect(new Set(seen.map((line) => JSON.parse(line).metadata.n)).size).toBe(1200);

  const reader = (await ask('/export?action=bulk.done')).body?.getReader();
  expect((await reader?.read())?.done).toBe(false);
  await reader?.cancel();
  expect((await reader?.read())?.done).toBe(true);
});
