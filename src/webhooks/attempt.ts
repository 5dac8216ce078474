import { currentTime } from '../services/clock.ts';
import type { ActiveEndpoint } from './directory.ts';
import type { Parcel } from './parcel.ts';
import { type Attempted, notSent } from './response.ts';
import { classify, type Outcome, retryAfterMs } from './schedule.ts';
import type { Sender } from './sender.ts';
import { hexSignature, sign } from './signature.ts';
import type { Pause, Throttles } from './throttle.ts';

/** One attempt and what came of it. */
export interface Sent {
  startedAt: Date;
  attempted: Attempted;
  outcome: Outcome;
  /** It was let through an open breaker. */
  probe: boolean;
  /** The pause of its endpoint that it has begun. */
  pause: Pause | undefined;
}

/** Failures that say nothing about the endpoint. */
export const isOurs = ({ error }: Attempted): boolean =>
  error === 'no_usable_secret' || error === 'sender_closed' || error === 'proxy_unusable';

/** One attempt. Never rejects: whatever the other side does is a result. */
export async function attempt(
  parcel: Parcel,
  endpoint: ActiveEndpoint,
  probe: boolean,
  { sender, throttles }: { sender: Sender; throttles: Throttles },
): Promise<Sent> {
  const startedAt = new Date(currentTime());
  // Unsigned it would teach a subscriber to take what anyone sends.
  if (endpoint.keys.length === 0) return judge(endpoint, startedAt, notSent('no_usable_secret'), probe, throttles);
  const timestamp = Math.floor(startedAt.getTime() / 1000);
  const headers: Record<string, string> = {
    ...endpoint.headers,
    'content-type': 'application/json',
    'webhook-id': parcel.eventId,
    'webhook-timestamp': String(timestamp),
    'webhook-signature': sign(endpoint.keys, { id: parcel.eventId, timestamp, body: parcel.payload }),
  };
  if (endpoint.hexKey) headers['x-webhook-signature'] = hexSignature(endpoint.hexKey, parcel.payload);
  const attempted = await sender.send({
    url: endpoint.url,
    headers,
    body: parcel.payload,
    timeoutMs: endpoint.timeoutMs,
  });
  return judge(endpoint, startedAt, attempted, probe, throttles);
}

/** What an answer means for its endpoint counts before the next one has its place. */
function judge(
  { id }: ActiveEndpoint,
  startedAt: Date,
  attempted: Attempted,
  probe: boolean,
  throttles: Throttles,
): Sent {
  const outcome = classify(attempted);
  const began = startedAt.getTime();
  let pause: Pause | undefined;
  if (outcome === 'throttled')
    pause = throttles.throttled(id, began, retryAfterMs(attempted.retryAfter, currentTime()));
  else throttles.answered(id, began);
  return { startedAt, attempted, outcome, probe, pause };
}
