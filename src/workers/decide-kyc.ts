import { decideKyc } from '../domain/kyc/decide.ts';
import { decideKycCommand } from '../domain/kyc/messages.ts';
import { done } from '../domain/messages/outcome.ts';
import { defineWorker, exponential } from '../queues/worker.ts';
import type { Keyring } from '../services/keyring.ts';

/** Carries out what a reviewer decided, and mails the user the verdict. */
export const decideKycWorker = (deps: { keyring: Keyring }) =>
  defineWorker({
    name: 'decide-kyc',
    pool: 'kyc',
    takes: decideKycCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 30_000,
    async handle({ data, em, emit }) {
      return done(await decideKyc({ em, emit }, data, deps.keyring));
    },
  });
