import type { Standing } from '../domain/kyc/attempts.ts';
import { submitKycCommand } from '../domain/kyc/messages.ts';
import type { KycProvider } from '../domain/kyc/providers.ts';
import { parseSubmission } from '../domain/kyc/submission.ts';
import { draftSubmission, submitKyc } from '../domain/kyc/submit.ts';
import { discard, done } from '../domain/messages/outcome.ts';
import { defineWorker, exponential } from '../queues/worker.ts';
import { type Keyring, SealError } from '../services/keyring.ts';
import { kycRequests } from './kyc-requests.ts';

/** Opens what was sealed, and moves the user's attempt with it. */
export const submitKycWorker = (deps: { keyring: Keyring; provider: KycProvider }) =>
  defineWorker({
    name: 'submit-kyc',
    pool: 'kyc',
    takes: submitKycCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 30_000,
    async perform({ data }) {
      try {
        return parseSubmission(JSON.parse(await deps.keyring.open('command', data.sealed)));
      } catch (error) {
        // Sealed document data expires: no further try will open it.
        if (error instanceof SealError) return error;
        throw error;
      }
    },
    async handle({ data, performed, em, emit }) {
      if (performed instanceof SealError) return discard(performed.message);
      return done(await submitKyc({ em, emit }, { userId: data.user_id, submission: performed }, deps));
    },
    together: {
      by: kycRequests,
      key: ({ user_id }) => user_id.toLowerCase(),
      request: ({ data, performed, emit }) =>
        performed instanceof SealError
          ? undefined
          : {
              userId: data.user_id,
              emit,
              draft: (standing: Standing) => draftSubmission(emit, standing, performed, deps),
            },
    },
  });
