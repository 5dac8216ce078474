import { applyCallback } from '../domain/kyc/callbacks.ts';
import { applyCallbackCommand } from '../domain/kyc/messages.ts';
import { done } from '../domain/messages/outcome.ts';
import { defineWorker, exponential } from '../queues/worker.ts';
import type { Keyring } from '../services/keyring.ts';

/** Moves an attempt as its provider called back. */
export const applyKycCallbackWorker = (deps: { keyring: Keyring }) =>
  defineWorker({
    name: 'apply-kyc-callback',
    pool: 'kyc',
    takes: applyCallbackCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 30_000,
    async handle({ data, em, emit }) {
      return done({ outcome: await applyCallback({ em, emit }, data.callback_id, deps.keyring) });
    },
  });
