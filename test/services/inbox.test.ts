import { randomBytes } from 'node:crypto';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { OutgoingMail } from '../../src/domain/emails/mailer.ts';
import { createInbox, hasInbox } from '../../src/services/inbox.ts';
import { createLogger } from '../../src/services/logger.ts';
import { closeRedis, connectSoon, createRedis } from '../../src/services/redis.ts';

const namespace = `wb_emails_${randomBytes(5).toString('hex')}`;
const log = createLogger({ level: 'silent' });
const signal = AbortSignal.timeout(60_000);
const mail = (n: number): OutgoingMail => ({
  to: 'ada@example.org',
  from: 'Waybill <no-reply@waybill.localhost>',
  subject: `Mail ${n}`,
  text: 'Text',
  html: '<p>HTML</p>',
  messageId: `<${n}@waybill>`,
  headers: {},
});

let redis: Redis;
beforeAll(() => {
  redis = createRedis('redis://localhost:6379', 'patient', log, 'test');
  connectSoon(redis);
});
afterAll(async () => {
  await redis.del(`${namespace}:inbox`);
  await closeRedis(redis);
});

it('is seen by another process, the newest first, and keeps the last 1,000', async () => {
  const writer = createInbox(redis, namespace);
  const reader = createInbox(redis, namespace);
  await Promise.all(Array.from({ length: 1003 }, (_, n) => writer.send(mail(n), signal)));
  expect(await writer.send(mail(9999), signal)).toMatchObject({ accepted: true });
  const mails = await reader.list();
  expect(mails).toHaveLength(1000);
  expect(await redis.llen(`${namespace}:inbox`)).toBe(1000);
  expect(mails[0]).toEqual({
    id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    to: 'ada@example.org',
    from: 'Waybill <no-reply@waybill.localhost>',
    subject: 'Mail 9999',
    text: 'Text',
    html: '<p>HTML</p>',
    sent_at: expect.stringMatching(/^\d{4}-.*Z$/),
  });
});

it('fails in time when Redis is away, so that the mail is tried again', async () => {
  const away = createRedis('redis://127.0.0.1:1', 'patient', log, 'away');
  connectSoon(away);
  await expect(createInbox(away, namespace).send(mail(1), signal)).rejects.toThrow('writing to the inbox took longer');
  away.disconnect();
});

it('exists only outside production and without a mail server', () => {
  expect(hasInbox({ env: 'development', smtpUrl: undefined })).toBe(true);
  expect(hasInbox({ env: 'development', smtpUrl: 'smtp://localhost' })).toBe(false);
  expect(hasInbox({ env: 'production', smtpUrl: undefined })).toBe(false);
});
