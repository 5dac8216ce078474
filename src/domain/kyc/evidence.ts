import { z } from 'zod';
import type { Keyring } from '../../services/keyring.ts';
import type { Submission } from './submission.ts';

/** The part of a submission that is kept encrypted. */
const evidenceSchema = z.strictObject({ date_of_birth: z.string(), number: z.string() });
export type Evidence = z.infer<typeof evidenceSchema>;

/** Encrypts birth date and document number, bound to the attempt: moved to another row, it does not open. */
export function sealEvidence(keyring: Keyring, attemptId: string, submission: Submission): Buffer {
  const evidence: Evidence = { date_of_birth: submission.date_of_birth, number: submission.document.number };
  return keyring.encrypt('kyc', Buffer.from(JSON.stringify(evidence)), attemptId);
}

/** Opens what `sealEvidence` made for the same attempt; throws `SealError` otherwise. */
export function openEvidence(keyring: Keyring, attemptId: string, sealed: Buffer): Evidence {
  return evidenceSchema.parse(JSON.parse(keyring.decrypt('kyc', sealed, attemptId).toString()));
}
