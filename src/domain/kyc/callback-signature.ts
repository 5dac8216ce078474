import { createHmac, timingSafeEqual } from 'node:crypto';
import { currentTime } from '../../services/clock.ts';

/** How far the time of a signature may be from ours, in seconds. */
const TOLERANCE_S = 300;

/**
 * Whether `X-Provider-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">` was made with `secret` over these
 * bytes within the last 300 s (or the next, for clocks that differ). Several `v1` may stand while a secret rotates;
 * each is compared in constant time. The scheme is Stripe's (docs.stripe.com/webhooks/signature).
 */
export function isSignedByProvider(
  header: string | undefined,
  body: Buffer,
  secret: string,
  now = currentTime(),
): boolean {
  const parts = (header ?? '').split(',', 16).map((part) => part.trim());
  const time = parts.find((part) => /^t=\d{1,12}$/.test(part))?.slice(2);
  if (time === undefined || Math.abs(now / 1000 - Number(time)) > TOLERANCE_S) return false;
  const expected = createHmac('sha256', secret).update(`${time}.`).update(body).digest();
  return parts
    .filter((part) => /^v1=[0-9a-f]{64}$/i.test(part))
    .map((part) => timingSafeEqual(Buffer.from(part.slice(3), 'hex'), expected))
    .includes(true);
}
