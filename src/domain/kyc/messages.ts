import { z } from 'zod';
import { uuid } from '../ids.ts';
import { command, event } from '../messages/contracts.ts';
import { ATTEMPT_STATUSES, type AttemptStatus, KYC_STATUSES } from './transitions.ts';

/** What a reviewer can decide; the other states are the user's, the clock's or nobody's to set. */
export const DECISIONS = ['approved', 'rejected', 'awaiting_input', 'in_review'] as const;
export type Decision = (typeof DECISIONS)[number];

/** `sealed` is a `Submission` as JSON, sealed for the purpose `command`: document data never lies in a broker in clear. */
export const submitKycCommand = command(
  'kyc.submit',
  z.strictObject({ user_id: uuid, sealed: z.string().min(1).max(16_384) }),
);

export const cancelKycCommand = command('kyc.cancel', z.strictObject({ user_id: uuid }));

/**
 * `attempt_id` and `version` are what the reviewer's request found: when the attempt has moved since, the decision was
 * taken on something else and is refused. `reason` is shown to the user, `comment` to reviewers only.
 */
export const decisionSchema = z.strictObject({
  user_id: uuid,
  status: z.enum(DECISIONS),
  reason: z.string().min(1).max(500).optional(),
  comment: z.string().max(2000).optional(),
  attempt_id: uuid.optional(),
  version: z.int().positive().optional(),
});
export type DecisionInput = z.infer<typeof decisionSchema>;
export const decideKycCommand = command('kyc.decide', decisionSchema);

/** A stored callback is to be looked at; the row has everything else. */
export const applyCallbackCommand = command('kyc.apply_callback', z.strictObject({ callback_id: uuid }));

/** No personal data: whoever may know more asks the API. */
const kycEventData = z.strictObject({
  user_id: uuid,
  attempt_id: uuid,
  previous_id: uuid.optional(),
  status: z.enum(ATTEMPT_STATUSES),
  kyc_status: z.enum(KYC_STATUSES),
  reason: z.string().max(500).optional(),
  expires_on: z.iso.date().optional(),
});
export type KycEventData = z.infer<typeof kycEventData>;

export const kycSubmitted = event('kyc.submitted', kycEventData);
export const kycReviewRequired = event('kyc.review_required', kycEventData);
export const kycResubmissionRequested = event('kyc.resubmission_requested', kycEventData);
export const kycApproved = event('kyc.approved', kycEventData);
export const kycRejected = event('kyc.rejected', kycEventData);
export const kycExpiring = event('kyc.expiring', kycEventData);
export const kycExpired = event('kyc.expired', kycEventData);
export const kycCancelled = event('kyc.cancelled', kycEventData);

export const KYC_EVENTS = [
  kycSubmitted,
  kycReviewRequired,
  kycResubmissionRequested,
  kycApproved,
  kycRejected,
  kycExpiring,
  kycExpired,
  kycCancelled,
] as const;

/** The event that tells of an attempt's arrival in a state. */
export const ARRIVAL_EVENTS = {
  awaiting_input: kycResubmissionRequested,
  processing: kycSubmitted,
  in_review: kycReviewRequired,
  approved: kycApproved,
  rejected: kycRejected,
  expired: kycExpired,
  cancelled: kycCancelled,
} satisfies Record<AttemptStatus, unknown>;
