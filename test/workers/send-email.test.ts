import { randomBytes } from 'node:crypto';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { queueEmail } from '../../src/domain/emails/queue.ts';
import { AlarmConsumer, Alarms } from '../../src/queues/alarms.ts';
import { createLogger } from '../../src/services/logger.ts';
import { createSmtpMailer, type MailTransport } from '../../src/services/mailer.ts';
import { closeRedis, connectSoon, createRedis } from '../../src/services/redis.ts';
import { sendEmailWorker } from '../../src/workers/send-email.ts';
import { type EmailBench, openEmailBench } from '../domain/emails/database.ts';
import { type SmtpSink, startSmtpSink } from '../smtp-sink.ts';

const namespace = `wb_emails_${randomBytes(5).toString('hex')}`;
const log = createLogger({ level: 'silent' });
let bench: EmailBench;
let sink: SmtpSink;
let redis: Redis;
let mailer: MailTransport;
let alarms: Alarms;
let consumer: AlarmConsumer;

beforeAll(async () => {
  bench = await openEmailBench();
  sink = await startSmtpSink();
  redis = createRedis('redis://localhost:6379', 'patient', log, 'test');
  connectSoon(redis);
  mailer = createSmtpMailer(sink.url, { connections: 2 });
  alarms = new Alarms(redis, namespace);
  const worker = sendEmailWorker({ ...bench, mailer, from: 'Waybill <no-reply@waybill.localhost>' });
  consumer = new AlarmConsumer(worker, { connection: redis, namespace, concurrency: 4, measure: () => undefined }, log);
  await consumer.start();
});
afterAll(async () => {
  await consumer.stop(2000);
  await alarms.remove();
  await alarms.close();
  await closeRedis(redis);
  await mailer.close(500);
  await sink.close();
  await bench.close();
});

it('sends a queued e-mail once when its alarms ring', async () => {
  const id = await bench.transact(bench.context, (unit) =>
    queueEmail(
      unit,
      { userId: null, to: 'ada@example.org', template: 'password-changed', data: { full_name: 'Ada' } },
      bench.keyring,
    ),
  );
  const [alarm] = await bench.alarms(id);
  if (!alarm) throw new Error('no alarm was set');
  await alarms.set([
    { ...alarm, queue: 'email', id },
    { ...alarm, queue: 'email', id, generation: 7 },
  ]);
  await vi.waitFor(async () => expect(await bench.row(id)).toMatchObject({ status: 'sent' }), { timeout: 10_000 });
  await vi.waitFor(async () => expect(await alarms.counts('email')).toEqual({ waiting: 0, delayed: 0, active: 0 }), {
    timeout: 10_000,
  });
  expect(sink.messages).toHaveLength(1);
});
