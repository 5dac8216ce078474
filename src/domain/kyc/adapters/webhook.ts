import { z } from 'zod';
import { uuid } from '../../ids.ts';
import { isSignedByProvider } from '../callback-signature.ts';
import { invalid } from '../invalid.ts';
import { DECISIONS } from '../messages.ts';
import { type CallbackAdapter, parseJson } from './adapter.ts';

/** What the built-in `webhook` provider sends. */
export const callbackSchema = z.strictObject({
  event_id: z.string().min(1).max(128),
  attempt_id: uuid,
  status: z.enum(DECISIONS),
  occurred_at: z.iso.datetime({ offset: true }),
  reason: z.string().trim().min(1).max(500).optional(),
});

/** Waybill's own scheme (product contract, "KYC"), for a provider that is written for it. */
export const webhookAdapter: CallbackAdapter = {
  isGenuine: (header, body, secret) => isSignedByProvider(header('x-provider-signature'), body, secret),
  read(body) {
    const parsed = callbackSchema.safeParse(parseJson(body));
    if (!parsed.success) return { problem: invalid(parsed.error, 'the body') };
    const { event_id, attempt_id, status, occurred_at, reason } = parsed.data;
    return { event: { eventId: event_id, attemptId: attempt_id, status, occurredAt: occurred_at, reason } };
  },
};
