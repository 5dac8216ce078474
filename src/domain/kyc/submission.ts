import { z } from 'zod';
import { Refusal } from '../problem.ts';
import { COUNTRIES } from './countries.ts';
import { invalid } from './invalid.ts';

export const DOCUMENT_TYPES = ['passport', 'id_card', 'driving_licence'] as const;

/** Nobody has been documented to live longer; an older date is a slip of the pen. */
const OLDEST_YEARS = 130;

const today = () => new Date().toISOString().slice(0, 10);

/** A calendar date in UTC, `YYYY-MM-DD` (RFC 3339, `full-date`). */
const date = z.iso.date({ error: 'must be a real date in the form YYYY-MM-DD', abort: true });

function longestAgo(): string {
  const now = today();
  return `${Number(now.slice(0, 4)) - OLDEST_YEARS}${now.slice(4)}`;
}

/**
 * What a user hands in: `PATCH /users/me/kyc`. Dates are compared in UTC; a document is valid through the day it
 * expires on. Checked by the API and once more by the worker, which may see it a day later.
 */
export const submissionSchema = z.strictObject({
  date_of_birth: date
    .refine((value) => value < today(), 'must be in the past')
    .refine((value) => value >= longestAgo(), `must not be more than ${OLDEST_YEARS} years ago`),
  country: z.string().refine((code) => COUNTRIES.has(code), 'must be an ISO 3166-1 alpha-2 country code'),
  document: z.strictObject({
    type: z.enum(DOCUMENT_TYPES),
    number: z
      .string()
      .trim()
      .min(3, 'must have at least 3 characters')
      .max(64, 'must have at most 64 characters')
      .regex(/^\P{C}*$/u, 'must not contain control characters'),
    expires_on: date.refine((value) => value >= today(), 'must not be in the past'),
  }),
});

export type Submission = z.infer<typeof submissionSchema>;

/** A submission that is still right; a `Refusal` that names the first field which is not, without its value. */
export function parseSubmission(input: unknown): Submission {
  const parsed = submissionSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw new Refusal(invalid(parsed.error, 'the submission'));
}
