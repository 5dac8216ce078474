import type { Config } from '../config.ts';
import { done } from '../domain/messages/outcome.ts';
import { resendVerificationCommand } from '../domain/users/commands.ts';
import { resendVerification } from '../domain/users/registration.ts';
import { defineWorker, exponential, type MessageWorker } from '../queues/worker.ts';
import type { Keyring } from '../services/keyring.ts';

/** Mails the verification link again; the answer never tells whether there is such an account. */
export const resendVerificationMail = (deps: { config: Config; keyring: Keyring }): MessageWorker =>
  defineWorker<{ email: string }>({
    name: 'resend-verification',
    pool: 'registration',
    takes: resendVerificationCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 10_000,
    handle: async ({ data, em, emit }) => done(await resendVerification({ em, emit }, deps, data), 202),
  });
