import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { isUuid } from '../../ids.ts';
import { invalid } from '../invalid.ts';
import { type CallbackAdapter, movesNothing, parseJson, reasonFrom, type Verdict } from './adapter.ts';

/** By the name in `X-Payload-Digest-Alg`. HMAC_SHA1_HEX, Sumsub's legacy algorithm, is left out: nobody needs it still. */
const ALGORITHMS: ReadonlyMap<string, { hash: string; bytes: number }> = new Map([
  ['HMAC_SHA256_HEX', { hash: 'sha256', bytes: 32 }],
  ['HMAC_SHA512_HEX', { hash: 'sha512', bytes: 64 }],
]);

/** `2026-11-20 10:15:30.123` is UTC; `createdAt` has an offset (`+0000`) and no milliseconds. */
const TIME = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d{1,6})?(?:Z|([+-]\d\d):?(\d\d))?$/;

function timeOf(text: string): string | undefined {
  const [, date, time, fraction = '', hours = '+00', minutes = '00'] = TIME.exec(text) ?? [];
  const at = new Date(`${date}T${time}${fraction}${hours}:${minutes}`);
  return Number.isNaN(at.getTime()) ? undefined : at.toISOString();
}

const occurredAt = z.string().transform((text, ctx) => {
  const at = timeOf(text);
  if (at === undefined) ctx.addIssue({ code: 'custom', message: 'must be a time such as 2026-11-20 10:15:30.123' });
  return at ?? '';
});

const callSchema = z.looseObject({
  type: z.string().min(1).max(128),
  externalUserId: z.string().nullish(),
});
const verdictSchema = z
  .looseObject({
    createdAtMs: occurredAt.optional(),
    createdAt: occurredAt.optional(),
    reviewResult: z
      .looseObject({
        reviewAnswer: z.string(),
        reviewRejectType: z.string().nullish(),
        moderationComment: z.string().nullish(),
      })
      .nullish(),
  })
  .refine(({ createdAtMs, createdAt }) => createdAtMs ?? createdAt, { path: ['createdAtMs'], message: 'is required' });

/** An answer that is neither is no verdict; a refusal that does not say whether it is final is for a person to look at. */
function verdictOf(type: string, review: z.infer<typeof verdictSchema>['reviewResult']): Verdict | undefined {
  if (type === 'applicantOnHold') return 'in_review';
  if (review?.reviewAnswer === 'GREEN') return 'approved';
  if (review?.reviewAnswer !== 'RED') return undefined;
  if (review.reviewRejectType === 'FINAL') return 'rejected';
  return review.reviewRejectType === 'RETRY' ? 'awaiting_input' : 'in_review';
}

/** Calls that may move an attempt; `applicantPending` for one says what its state says already. */
const TELLING = ['applicantReviewed', 'applicantOnHold'];

/**
 * Sumsub (docs.sumsub.com/docs/webhooks): `X-Payload-Digest`, the hex HMAC of the body under the webhook's secret, by the
 * algorithm in `X-Payload-Digest-Alg`. Applicants are made with the attempt's id as their `externalUserId`. A call has no
 * id of its own, but is sent again byte by byte, so its SHA-256 is its id. `moderationComment` is meant for the user.
 */
export const sumsubAdapter: CallbackAdapter = {
  isGenuine(header, body, secret) {
    const algorithm = ALGORITHMS.get(header('x-payload-digest-alg') ?? '');
    const digest = header('x-payload-digest') ?? '';
    if (!algorithm || !/^[0-9a-f]+$/i.test(digest) || digest.length !== 2 * algorithm.bytes) return false;
    return timingSafeEqual(Buffer.from(digest, 'hex'), createHmac(algorithm.hash, secret).update(body).digest());
  },
  read(body) {
    const json = parseJson(body);
    const eventId = createHash('sha256').update(body).digest('hex');
    const call = callSchema.safeParse(json);
    if (!call.success) return { problem: invalid(call.error, 'the body') };
    const { type, externalUserId } = call.data;
    const attemptId = externalUserId && isUuid(externalUserId) ? externalUserId : null;
    if (!TELLING.includes(type)) return { eventId, attemptId, ignored: movesNothing(type) };
    const parsed = verdictSchema.safeParse(json);
    if (!parsed.success) return { problem: invalid(parsed.error, 'the body') };
    const { createdAtMs, createdAt, reviewResult } = parsed.data;
    const status = verdictOf(type, reviewResult);
    if (!status) return { eventId, attemptId, ignored: 'its review has no answer that is known' };
    if (!attemptId) return { eventId, attemptId, ignored: 'its applicant names no attempt' };
    const reason = status === 'approved' ? undefined : reasonFrom(reviewResult?.moderationComment);
    return {
      event: { eventId, attemptId, status, occurredAt: createdAtMs ?? createdAt ?? '', reason },
    };
  },
};
