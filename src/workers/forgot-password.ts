import type { Config } from '../config.ts';
import { done } from '../domain/messages/outcome.ts';
import { forgotPasswordCommand } from '../domain/users/commands.ts';
import { forgotPassword } from '../domain/users/recovery.ts';
import { defineWorker, exponential, type MessageWorker } from '../queues/worker.ts';
import type { Keyring } from '../services/keyring.ts';

/** Mails a link to choose a new password; the answer never tells whether there is such an account. */
export const mailPasswordReset = (deps: { config: Config; keyring: Keyring }): MessageWorker =>
  defineWorker<{ email: string }>({
    name: 'forgot-password',
    pool: 'registration',
    takes: forgotPasswordCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 10_000,
    handle: async ({ data, em, emit }) => done(await forgotPassword({ em, emit }, deps, data), 202),
  });
