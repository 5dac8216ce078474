import { z } from 'zod';
import { isUuid } from '../../ids.ts';
import { isSignedByProvider } from '../callback-signature.ts';
import { invalid } from '../invalid.ts';
import { type CallbackAdapter, movesNothing, parseJson, reasonFrom, type Verdict } from './adapter.ts';

const eventSchema = z.looseObject({
  id: z.string().regex(/^[\w-]{1,128}$/, 'must be 1 to 128 letters, digits, _ and -'),
  type: z.string().min(1).max(128),
  /** Unix seconds, up to the year 9999. */
  created: z.int().min(0).max(253_402_300_799),
});

const sessionSchema = z.looseObject({
  data: z.looseObject({
    object: z.looseObject({
      metadata: z.record(z.string(), z.unknown()).nullish(),
      last_error: z.looseObject({ reason: z.string().nullish() }).nullish(),
    }),
  }),
});

/**
 * What the states of a verification session mean here (docs.stripe.com/identity/verification-sessions). A check that
 * failed goes back to `requires_input`: the user may try again. `processing` is where the attempt stands already.
 */
const VERDICTS: Record<string, Verdict> = {
  'identity.verification_session.verified': 'approved',
  'identity.verification_session.requires_input': 'awaiting_input',
  'identity.verification_session.canceled': 'cancelled',
};

/**
 * Stripe Identity: `Stripe-Signature: t=…,v1=…` with the secret of the endpoint (`whsec_…`, whole), and the events of
 * verification sessions that were made with `metadata.attempt_id`. Others are recorded and ask for nothing.
 */
export const stripeAdapter: CallbackAdapter = {
  isGenuine: (header, body, secret) => isSignedByProvider(header('stripe-signature'), body, secret),
  read(body) {
    const json = parseJson(body);
    const parsed = eventSchema.safeParse(json);
    if (!parsed.success) return { problem: invalid(parsed.error, 'the body') };
    const { id: eventId, type, created } = parsed.data;
    const session = sessionSchema.safeParse(json);
    const { metadata, last_error } = session.data?.data.object ?? {};
    const named = metadata?.attempt_id;
    const attemptId = typeof named === 'string' && isUuid(named) ? named : null;
    const status = VERDICTS[type];
    if (!status) return { eventId, attemptId, ignored: movesNothing(type) };
    if (!session.success) return { problem: invalid(session.error, 'the body') };
    if (!attemptId) return { eventId, attemptId, ignored: 'its session names no attempt' };
    const occurredAt = new Date(created * 1000).toISOString();
    return { event: { eventId, attemptId, status, occurredAt, reason: reasonFrom(last_error?.reason) } };
  },
};
