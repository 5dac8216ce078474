import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { Mailer, OutgoingMail } from '../../src/domain/emails/mailer.ts';
import { createMailer, createSmtpMailer } from '../../src/services/mailer.ts';
import { type SmtpSink, startSmtpSink } from '../smtp-sink.ts';

const MAIL: OutgoingMail = {
  to: 'ada@example.org',
  from: 'Waybill <no-reply@waybill.localhost>',
  subject: 'Grüße',
  text: 'Text',
  html: '<p>HTML</p>',
  messageId: '<id-1@waybill>',
  headers: { 'Auto-Submitted': 'auto-generated' },
};
const soon = () => AbortSignal.timeout(5000);
const concurrency = { email: 2 } as Parameters<typeof createMailer>[0]['concurrency'];

let sink: SmtpSink;
beforeEach(async () => {
  sink = await startSmtpSink();
});
afterEach(() => sink.close());

it('takes the refusal of a recipient as an answer and hands the next mail over the same pool', async () => {
  const mailer = createSmtpMailer(sink.url, { connections: 1 });
  sink.mood = 550;
  expect(await mailer.send(MAIL, soon())).toEqual({ accepted: false, response: '550 <ada@example.org> not now' });
  sink.mood = 250;
  expect(await mailer.send(MAIL, soon())).toEqual({ accepted: true, response: '250 queued' });
  expect(sink.messages[0]?.source).toMatch(/^Content-Type: multipart\/alternative/m);
  await mailer.close(500);
});

it('puts no header in for a subject or an address that breaks its line', async () => {
  const mailer = createSmtpMailer(sink.url, { connections: 1 });
  await mailer.send({ ...MAIL, subject: 'Hello\r\nBcc: eve@example.org' }, soon());
  await mailer.send({ ...MAIL, to: 'ada@example.org, eve@example.org' }, soon()).catch(() => undefined);
  expect(sink.messages[0]?.source).not.toMatch(/^Bcc:/m);
  expect(sink.messages.flatMap(({ recipients }) => recipients)).not.toContain('eve@example.org');
  await mailer.close(500);
});

it('gives up when it is told to, and the mail does not go out later', async () => {
  const mailer = createSmtpMailer(sink.url, { connections: 1 });
  sink.mood = 'hang';
  await expect(mailer.send(MAIL, AbortSignal.timeout(150))).rejects.toThrow();
  sink.mood = 250;
  await mailer.send({ ...MAIL, messageId: '<id-2@waybill>' }, soon());
  expect(sink.messages.map(({ source }) => /^Message-ID: (\S+)/m.exec(source)?.[1])).toEqual(['<id-2@waybill>']);
  await mailer.close(500);
});

it('closes by its deadline although a server hangs, twice as well as once', async () => {
  const mailer = createSmtpMailer(sink.url, { connections: 1 });
  sink.mood = 'hang';
  const sending = mailer.send(MAIL, soon()).then(
    () => 'sent',
    () => 'failed',
  );
  await vi.waitFor(() => expect(sink.asked).toBe(1));
  const began = performance.now();
  await Promise.all([mailer.close(200), mailer.close(200)]);
  expect(await sending).toBe('failed');
  expect(performance.now() - began).toBeLessThan(1500);
  await expect(mailer.send(MAIL, soon())).rejects.toThrow();
});

it('is the built-in inbox without SMTP_URL, and never in production', async () => {
  const inbox: Mailer = { send: async () => ({ accepted: true, response: 'kept' }) };
  expect(await createMailer({ env: 'development', smtpUrl: undefined, concurrency }, inbox).send(MAIL, soon())).toEqual(
    {
      accepted: true,
      response: 'kept',
    },
  );
  expect(() => createMailer({ env: 'production', smtpUrl: undefined, concurrency }, inbox)).toThrow('SMTP_URL');
  const smtp = createMailer({ env: 'development', smtpUrl: sink.url, concurrency }, inbox);
  expect((await smtp.send(MAIL, soon())).response).toBe('250 queued');
  await smtp.close(500);
});
