import { Writable } from 'node:stream';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { listEmails } from '../../../src/domain/emails/list.ts';
import { type QueuedMail, queueEmail } from '../../../src/domain/emails/queue.ts';
import { resendEmail } from '../../../src/domain/emails/resend.ts';
import { type SendDeps, sendEmail } from '../../../src/domain/emails/send.ts';
import { createLogger } from '../../../src/services/logger.ts';
import { createSmtpMailer, type MailTransport } from '../../../src/services/mailer.ts';
import { type SmtpSink, startSmtpSink } from '../../smtp-sink.ts';
import { type EmailBench, openEmailBench } from './database.ts';

const TOKEN = 'tok_3f9c1d7e5b';
const MAIL: QueuedMail = {
  userId: null,
  to: 'ada@example.org',
  template: 'verify-email',
  data: { full_name: 'Ada', link: `https://app.example/verify?token=${TOKEN}` },
};

let bench: EmailBench;
let sink: SmtpSink;
let mailer: MailTransport;
let logged = '';
let deps: SendDeps;

beforeAll(async () => {
  bench = await openEmailBench();
});
afterAll(() => bench.close());

beforeEach(async () => {
  sink = await startSmtpSink();
  mailer = createSmtpMailer(sink.url, { connections: 4, timeouts: { socketTimeout: 300, socketCloseTimeout: 50 } });
  logged = '';
  const destination = new Writable({
    write(chunk, _encoding, next) {
      logged += chunk;
      next();
    },
  });
  const log = createLogger({ level: 'trace', destination });
  deps = { ...bench, mailer, log, from: 'Waybill <no-reply@waybill.localhost>' };
});
afterEach(async () => {
  await mailer.close(500);
  await sink.close();
});

const queue = (mail: Partial<QueuedMail> = {}) =>
  bench.transact(bench.context, (unit) => queueEmail(unit, { ...MAIL, ...mail }, bench.keyring));
const db = () => bench.database.em.fork().getKysely();
const makeDue = (id: string) => sql`update emails set next_attempt_at = now() where id = ${id}`.execute(db());

it('queues a row that holds the token only sealed, with an alarm for now', async () => {
  const id = await queue();
  const row = await bench.row(id);
  expect(row).toMatchObject({
    status: 'pending',
    attempts: 0,
    generation: 0,
    recipient: 'ada@example.org',
    message_id: `<${id}@waybill>`,
    correlation_id: 'op-1',
  });
  expect(JSON.stringify(row)).not.toContain(TOKEN);
  expect(row.subject).toBe('Confirm your e-mail address');
  const [alarm, ...more] = await bench.alarms(id);
  expect(alarm).toMatchObject({ attempt: 0, generation: 0 });
  expect(Math.abs((alarm?.at ?? 0) - Date.now())).toBeLessThan(10_000);
  expect(more).toEqual([]);
});

it('writes nothing when a variable is missing', async () => {
  const count = async () => (await sql<{ n: number }>`select count(*)::int as n from emails`.execute(db())).rows[0]?.n;
  const before = await count();
  await expect(queue({ data: { full_name: 'Ada' } })).rejects.toThrow('lacks link');
  expect(await count()).toBe(before);
});

it('sends once, under its Message-ID, and forgets what it said', async () => {
  const id = await queue();
  expect(await sendEmail(deps, id)).toBe('sent');
  expect(await sendEmail(deps, id)).toBe('idle');
  expect(sink.messages).toHaveLength(1);
  const [{ source, recipients }] = sink.messages as [SmtpSink['messages'][0]];
  expect(recipients).toEqual(['ada@example.org']);
  expect(source).toContain(`Message-ID: <${id}@waybill>\r\n`);
  expect(source).toContain('Auto-Submitted: auto-generated\r\n');
  expect(source).toContain('Subject: Confirm your e-mail address\r\n');
  expect(source.replace(/=\r\n/g, '').replaceAll('=3D', '=')).toContain(`token=${TOKEN}`);
  const row = await bench.row(id);
  expect(row).toMatchObject({
    status: 'sent',
    attempts: 1,
    sealed_data: null,
    lease_until: null,
    next_attempt_at: null,
    last_error: null,
  });
  expect(row.sent_at).not.toBeNull();
  expect(logged).not.toContain(TOKEN);
});

it('tries a 450 again later, then sends under the same Message-ID', async () => {
  const id = await queue();
  sink.mood = 450;
  expect(await sendEmail(deps, id)).toBe('retrying');
  const row = await bench.row(id);
  expect(row).toMatchObject({ status: 'pending', attempts: 1, lease_until: null });
  expect(row.last_error).toContain('450');
  expect(row.last_error).not.toContain('ada@');
  const wait = Date.parse(String(row.next_attempt_at)) - Date.now();
  expect(wait).toBeGreaterThan(8000);
  expect(wait).toBeLessThanOrEqual(11_000);
  const alarms = await bench.alarms(id);
  expect(alarms.map(({ attempt, generation }) => [attempt, generation])).toEqual([
    [0, 0],
    [1, 0],
  ]);
  expect(alarms[1]?.at ?? 0).toBeGreaterThan(Date.now() + 7000);
  expect(logged).toContain('not accepted');
  expect(logged).not.toMatch(/ada@example|tok_/);

  expect(await sendEmail(deps, id)).toBe('postponed'); // an early alarm sends nothing
  sink.mood = 250;
  await makeDue(id);
  expect(await sendEmail(deps, id)).toBe('sent');
  expect(sink.messages.map(({ source }) => /^Message-ID: (.*)$/m.exec(source)?.[1]?.trim())).toEqual([
    `<${id}@waybill>`,
  ]);
  expect(await bench.row(id)).toMatchObject({ status: 'sent', attempts: 2, sealed_data: null });
});

it('gives up after the fifth failure', async () => {
  const id = await queue();
  sink.mood = 450;
  const results = [];
  for (let n = 0; n < 5; n += 1) {
    await makeDue(id);
    results.push(await sendEmail(deps, id));
  }
  expect(results).toEqual(['retrying', 'retrying', 'retrying', 'retrying', 'failed']);
  expect(await bench.row(id)).toMatchObject({ status: 'failed', attempts: 5, next_attempt_at: null });
  expect(await bench.alarms(id)).toHaveLength(5);
});

it.each([
  ['the recipient', () => (sink.mood = 550)],
  ['the message', () => (sink.dataReply = '554 spam for <ada@example.org>')],
])('fails at once when the server refuses %s for good', async (_what, refuse) => {
  const id = await queue();
  refuse();
  expect(await sendEmail(deps, id)).toBe('failed');
  const row = await bench.row(id);
  expect(row).toMatchObject({ status: 'failed', attempts: 1, next_attempt_at: null });
  expect(row.last_error).toMatch(/^55[04] .*\[email\]/);
  expect(await bench.alarms(id)).toHaveLength(1);
});

it.each(['hang', 'drop'] as const)('tries again when the server does %s', async (mood) => {
  const id = await queue();
  sink.mood = mood;
  expect(await sendEmail(deps, id)).toBe('retrying');
  expect(await bench.row(id)).toMatchObject({ status: 'pending', attempts: 1 });
  sink.mood = 250;
  await makeDue(id);
  expect(await sendEmail(deps, id)).toBe('sent');
  expect(sink.messages).toHaveLength(1);
});

it('tries again when no server listens', async () => {
  const id = await queue();
  await sink.close();
  expect(await sendEmail(deps, id)).toBe('retrying');
  expect((await bench.row(id)).last_error).toMatch(/ECONNREFUSED/);
});

it('fails at once on an address that is none, an unknown template and data it cannot open', async () => {
  const injected = await queue({ to: 'ada@example.org\r\nRCPT TO:<eve@example.org>' });
  expect(await sendEmail(deps, injected)).toBe('failed');
  expect((await bench.row(injected)).last_error).toBe('the recipient is not a valid e-mail address');

  const unknown = await queue();
  await sql`update emails set template = 'nope' where id = ${unknown}`.execute(db());
  expect(await sendEmail(deps, unknown)).toBe('failed');
  expect((await bench.row(unknown)).last_error).toBe('there is no e-mail template "nope"');

  const foreign = await queue();
  await sql`update emails set sealed_data = 'x' where id = ${foreign}`.execute(db());
  expect(await sendEmail(deps, foreign)).toBe('failed');
  expect(sink.messages).toEqual([]);
});

it('lets no name put a header into a mail', async () => {
  const id = await queue({
    template: 'password-changed',
    data: { full_name: 'Ada\r\nBcc: eve@example.org\r\n\r\n<script>' },
  });
  expect(await sendEmail(deps, id)).toBe('sent');
  const [{ source, recipients }] = sink.messages as [SmtpSink['messages'][0]];
  expect(source.slice(0, source.indexOf('\r\n\r\n'))).not.toMatch(/^bcc/im);
  expect(source).not.toMatch(/^Bcc:/m);
  expect(source).not.toContain('<script>\r\n</');
  expect(recipients).toEqual(['ada@example.org']);
});

it('sends once for two alarms at once; the other waits for the lease', async () => {
  const id = await queue();
  const results = await Promise.all([sendEmail(deps, id), sendEmail(deps, id), sendEmail(deps, id)]);
  expect(results.filter((result) => result === 'sent')).toHaveLength(1);
  expect(results.filter((result) => result !== 'sent' && result !== 'postponed' && result !== 'idle')).toEqual([]);
  expect(sink.messages).toHaveLength(1);
});

it('re-arms at the end of the lease of a worker that died, and takes over then', async () => {
  const id = await queue();
  await sql`update emails set lease_until = now() + interval '20 seconds' where id = ${id}`.execute(db());
  expect(await sendEmail(deps, id)).toBe('postponed');
  const [first, second] = await bench.alarms(id);
  const wait = (second?.at ?? 0) - Date.now();
  expect(wait).toBeGreaterThan(17_000);
  expect(wait).toBeLessThan(22_000);
  expect(second?.generation).not.toBe(first?.generation); // or the queue would take it for the job that runs
  expect(sink.messages).toEqual([]);

  await sql`update emails set lease_until = now() - interval '1 millisecond' where id = ${id}`.execute(db());
  expect(await sendEmail(deps, id)).toBe('sent');
});

it('does not undo what another worker did meanwhile', async () => {
  const id = await queue();
  const slow: SendDeps = {
    ...deps,
    mailer: {
      async send() {
        await sql`update emails set lease_until = now() + interval '1 minute' where id = ${id}`.execute(db());
        throw new Error('too late');
      },
    },
  };
  expect(await sendEmail(slow, id)).toBe('idle');
  expect(await bench.row(id)).toMatchObject({ attempts: 0, last_error: null });
});

it('records the result when PostgreSQL drops the connection in between', async () => {
  const id = await queue();
  let failures = 0;
  const shaky: SendDeps = {
    ...deps,
    transact: async (context, work) => {
      if (failures++ < 2) throw Object.assign(new Error('terminating connection'), { code: '57P01' });
      return bench.transact(context, work);
    },
  };
  expect(await sendEmail(shaky, id)).toBe('sent');
  expect(sink.messages).toHaveLength(1);
  expect(await bench.row(id)).toMatchObject({ status: 'sent' });
});

it('sends a failed mail again under the same Message-ID, and no other', async () => {
  const id = await queue();
  const resend = () => bench.transact(bench.context, (unit) => resendEmail(unit, id));
  await expect(resend()).rejects.toMatchObject({ problem: { code: 'CONFLICT' } });
  sink.mood = 550;
  await sendEmail(deps, id);
  sink.mood = 250;
  expect(await resend()).toMatchObject({ id, status: 'pending', attempts: 0 });
  expect((await bench.alarms(id)).at(-1)).toMatchObject({ attempt: 0, generation: 1 });
  expect(await sendEmail(deps, id)).toBe('sent');
  expect(sink.messages[0]?.source).toContain(`Message-ID: <${id}@waybill>`);
  await expect(resend()).rejects.toMatchObject({ problem: { code: 'CONFLICT', message: 'the e-mail was sent' } });
  await expect(bench.transact(bench.context, (unit) => resendEmail(unit, crypto.randomUUID()))).rejects.toMatchObject({
    problem: { code: 'NOT_FOUND' },
  });
});

it('refuses to send again what it has forgotten', async () => {
  const id = await queue();
  await sql`update emails set status = 'failed', sealed_data = null where id = ${id}`.execute(db());
  await expect(bench.transact(bench.context, (unit) => resendEmail(unit, id))).rejects.toMatchObject({
    problem: { code: 'CONFLICT' },
  });
});

it('lists the newest first, page by page, by every filter', async () => {
  const userId = crypto.randomUUID();
  const ids = [];
  for (const template of ['password-changed', 'session-reuse', 'password-changed'] as const)
    ids.push(await queue({ userId, template, data: { full_name: 'Ada' } }));
  await sendEmail(deps, ids[0] ?? '');
  const em = bench.database.em.fork();
  const found = async (filter: Parameters<typeof listEmails>[1], limit = 10, before?: string) =>
    (await listEmails(em, { userId, ...filter }, limit, before)).map((mail) => mail.id);
  expect(await found({})).toEqual(ids.toReversed());
  expect(await found({}, 2)).toEqual([ids[2], ids[1]]);
  expect(await found({}, 2, ids[1])).toEqual([ids[0]]);
  expect(await found({ status: 'sent' })).toEqual([ids[0]]);
  expect(await found({ template: 'password-changed' })).toEqual([ids[2], ids[0]]);
  const [middle] = await listEmails(em, { userId, template: 'session-reuse' }, 1);
  expect(await found({ createdAfter: '2000-01-01T00:00:00Z', createdBefore: middle?.created_at })).toEqual([ids[0]]);
  expect(await found({ createdAfter: '2100-01-01T00:00:00Z' })).toEqual([]);
  expect(middle).toMatchObject({ user_id: userId, to: 'ada@example.org', status: 'pending', sent_at: null });
});
