import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import { emailRoutes } from '../../../src/api/routes/emails.ts';
import type { EmailRecord } from '../../../src/domain/emails/list.ts';
import { queueEmail } from '../../../src/domain/emails/queue.ts';
import { createLogger } from '../../../src/services/logger.ts';
import { type EmailBench, openEmailBench } from '../../domain/emails/database.ts';

const USER = '019a9f3e-6b00-7a11-8e22-3f4455667788';
let bench: EmailBench;
let app: ReturnType<typeof createApp>;
const ids: string[] = [];

beforeAll(async () => {
  bench = await openEmailBench();
  const config = {
    corsOrigins: [],
    trustedProxies: [],
    rateLimits: 'off' as const,
    namespace: 'wb_emails_api',
    publicUrl: 'http://localhost',
  };
  app = createApp(
    {
      config,
      log: createLogger({ level: 'silent' }),
      authenticate: async (role) => ({ userId: USER, sessionId: USER, role }),
    },
    { api: [emailRoutes(bench)] },
  );
  for (let n = 0; n < 5; n += 1) {
    const mail = {
      userId: n < 3 ? USER : null,
      to: `ada+${n}@example.org`,
      template: 'password-changed' as const,
      data: { full_name: 'Ada' },
    };
    ids.unshift(await bench.transact(bench.context, (unit) => queueEmail(unit, mail, bench.keyring)));
  }
});
afterAll(() => bench.close());

interface Body<T> {
  data: T;
  error: { code: string; field?: string };
  pagination: { has_more: boolean; next_cursor: string | null };
}

async function call<T = EmailRecord[]>(path: string, options: { method?: string; role?: string } = {}) {
  const { method = 'GET', role = 'admin' } = options;
  const answer = await app.request(`/api/v1${path}`, {
    method,
    headers: role ? { authorization: `Bearer ${role}` } : {},
  });
  return { status: answer.status, body: (await answer.json()) as Body<T> };
}

it('lists page by page, the newest first, until the last', async () => {
  const seen: string[] = [];
  let cursor: string | null = '';
  for (let page = 0; cursor !== null && page < 5; page += 1) {
    const { status, body }: Awaited<ReturnType<typeof call<EmailRecord[]>>> = await call(
      `/admin/emails?limit=2${cursor && `&cursor=${cursor}`}`,
    );
    expect(status).toBe(200);
    seen.push(...body.data.map((mail) => mail.id));
    expect(body.pagination).toMatchObject({ limit: 2, has_more: body.pagination.next_cursor !== null });
    cursor = body.pagination.next_cursor;
  }
  expect(seen).toEqual(ids);
});

it('shows what was to be sent to whom, and nothing of the content', async () => {
  const { body } = await call(`/admin/emails?user_id=${USER}&status=pending&template=password-changed&limit=1`);
  expect(body.data).toEqual([
    {
      id: ids[2],
      user_id: USER,
      to: 'ada+2@example.org',
      template: 'password-changed',
      subject: 'Your password was changed',
      status: 'pending',
      attempts: 0,
      last_error: null,
      next_attempt_at: expect.stringMatching(/Z$/),
      sent_at: null,
      created_at: expect.stringMatching(/Z$/),
    },
  ]);
  expect((await call('/admin/emails?status=sent')).body.data).toEqual([]);
  expect((await call('/admin/emails?created_after=2100-01-01T00:00:00Z')).body.data).toEqual([]);
});

it.each(['status=lost', 'user_id=7', 'created_after=yesterday', 'limit=101', 'cursor=bm9wZQ', 'template=nope'])(
  'refuses ?%s and names it',
  async (query) => {
    const { status, body } = await call(`/admin/emails?${query}`);
    expect([status, body.error.code, body.error.field]).toEqual([400, 'VALIDATION_ERROR', query.split('=')[0]]);
  },
);

it('is for admins', async () => {
  for (const [path, method] of [
    ['/admin/emails', 'GET'],
    [`/admin/emails/${ids[0]}/retry`, 'POST'],
  ] as const) {
    expect((await call(path, { method, role: '' })).status).toBe(401);
    expect((await call(path, { method, role: 'user' })).status).toBe(403);
  }
});

it('sends a failed one again, and says why not for the others', async () => {
  const path = `/admin/emails/${ids[0]}/retry`;
  expect((await call(path, { method: 'POST' })).status).toBe(409);
  await sql`update emails set status = 'failed', attempts = 5 where id = ${ids[0]}`.execute(
    bench.database.em.fork().getKysely(),
  );
  const { status, body } = await call<EmailRecord>(path, { method: 'POST' });
  expect([status, body.data.status, body.data.attempts]).toEqual([200, 'pending', 0]);
  expect((await bench.alarms(ids[0] ?? '')).at(-1)).toMatchObject({ generation: 1, attempt: 0 });
  const { rows } = await sql<{ body: string }>`select body from outbox where target = 'audit'`.execute(
    bench.database.em.fork().getKysely(),
  );
  expect(JSON.parse(rows[0]?.body ?? '{}').data).toMatchObject({
    action: 'email.retried',
    actor: { type: 'user', id: USER },
    targets: [{ type: 'email', id: ids[0] }],
  });
  expect((await call(`/admin/emails/${USER}/retry`, { method: 'POST' })).status).toBe(404);
  expect((await call('/admin/emails/7/retry', { method: 'POST' })).status).toBe(400);
});
