import type { Standing } from '../domain/kyc/attempts.ts';
import { cancelKyc, draftCancellation } from '../domain/kyc/cancel.ts';
import { cancelKycCommand } from '../domain/kyc/messages.ts';
import { done } from '../domain/messages/outcome.ts';
import { defineWorker, exponential } from '../queues/worker.ts';
import { kycRequests } from './kyc-requests.ts';

/** Takes the user's open attempt back. */
export const cancelKycWorker = () =>
  defineWorker({
    name: 'cancel-kyc',
    pool: 'kyc',
    takes: cancelKycCommand,
    retry: exponential({ attempts: 5, baseMs: 1000, maxMs: 300_000 }),
    timeoutMs: 30_000,
    async handle({ data, em, emit }) {
      return done(await cancelKyc({ em, emit }, { userId: data.user_id }));
    },
    together: {
      by: kycRequests,
      key: ({ user_id }) => user_id.toLowerCase(),
      request: ({ data, emit }) => ({
        userId: data.user_id,
        emit,
        draft: (standing: Standing) => draftCancellation(emit, standing),
      }),
    },
  });
