import { type SendDeps, sendEmail } from '../domain/emails/send.ts';
import { type AlarmWorker, defineAlarmWorker } from '../queues/worker.ts';

/** Sends the e-mail that an alarm rings for, when its row says that it is due. */
export const sendEmailWorker = (deps: Omit<SendDeps, 'log'>): AlarmWorker =>
  defineAlarmWorker({
    name: 'send-email',
    pool: 'email',
    takes: 'email',
    // Above one attempt (15 s) and the recording of its result (10 s), which keep their limits themselves.
    timeoutMs: 30_000,
    async handle(rowId, { log }) {
      await sendEmail({ ...deps, log }, rowId);
    },
  });
