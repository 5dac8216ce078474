import { type KycRequest, requestTogether } from '../domain/kyc/together.ts';
import { done, reject } from '../domain/messages/outcome.ts';
import { Refusal } from '../domain/problem.ts';
import type { Together } from '../queues/worker.ts';

/** What users ask for of their own checks, as far as it comes at one time in one transaction. */
export const kycRequests: Together<KycRequest> = {
  name: 'kyc-requests',
  size: 50,
  timeoutMs: 30_000,
  async handle(requests, em) {
    const answers = await requestTogether(em, requests);
    return answers.map((answer) => (answer instanceof Refusal ? reject(answer.problem) : answer && done(answer)));
  },
};
