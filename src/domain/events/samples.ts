import { z } from 'zod';
import { event } from '../messages/contracts.ts';

/** Event types of a product that uses the platform, ready to be published. Further fields pass through. */

export const paymentSucceeded = event(
  'payment.succeeded',
  z.looseObject({
    payment_id: z.string().min(1).max(128),
    amount: z.number(),
    currency: z.string().min(1).max(64),
  }),
);

export const subscriptionExpired = event(
  'subscription.expired',
  z.looseObject({
    subscription_id: z.string().min(1).max(128),
    expired_at: z.iso.datetime({ offset: true, error: 'must be an RFC 3339 time' }).optional(),
  }),
);
