/*
 * When a failed webhook is tried again, and what an answer means for it. Pure: the clock and the dice are handed in.
 */

const DAY_MS = 86_400_000;
const JITTER = 0.1;

/** The longest wait that a `Retry-After` can ask for: 24 hours, in ms. */
export const MAX_RETRY_AFTER_MS = DAY_MS;

/** Delays in ms: after the first attempt, after the second … n delays make n + 1 attempts. */
export type Schedule = readonly number[];

/** What an attempt means for its delivery and its endpoint. */
export type Outcome = 'delivered' | 'failed' | 'throttled' | 'gone';

/**
 * The wait in ms after attempt number `attemptNumber` of a schedule (the first is 1) failed, spread by ±10 % so that the retries of
 * one outage do not return at one instant; `null` when the schedule is used up. `random` gives a number in [0, 1).
 */
export function nextDelay(
  schedule: Schedule,
  attemptNumber: number,
  random: () => number = Math.random,
): number | null {
  if (!Number.isInteger(attemptNumber) || attemptNumber < 1) {
    throw new RangeError(`attempts are numbered from 1, not ${attemptNumber}`);
  }
  const delay = schedule[attemptNumber - 1];
  if (delay === undefined) return null;
  return Math.round(delay * (1 - JITTER + 2 * JITTER * random()));
}

/**
 * The wait in ms that a `Retry-After` header asks for, counted from `now` (ms since 1970): seconds or an HTTP date in
 * any of the three forms of RFC 9110 (sections 10.2.3 and 5.6.7). 0 for a date that has passed, `null` for no or an
 * unreadable header.
 */
export function retryAfterMs(header: string | null, now: number): number | null {
  const value = header?.trim() ?? '';
  if (/^\d+$/.test(value)) return Number(value) * 1_000;
  const at = httpDate(value);
  return at === null ? null : Math.max(0, at - now);
}

/**
 * The wait when both sides have asked for one, in ms: never earlier than `scheduledMs`, and a `Retry-After` beyond
 * `MAX_RETRY_AFTER_MS` (24 h) counts as 24 h, so that no subscriber can park its deliveries for ever.
 */
export function boundedDelay(scheduledMs: number, askedMs: number | null): number {
  return askedMs === null ? scheduledMs : Math.max(scheduledMs, Math.min(askedMs, MAX_RETRY_AFTER_MS));
}

const THROTTLED: ReadonlySet<number> = new Set([429, 502, 503, 504]);

/**
 * Judges an attempt (Standard Webhooks 1.0.0, "Responding to webhooks"): 2xx received to its end is `delivered`, 410
 * `gone`, 429, 502, 503 and 504 `throttled`, everything else, redirects included, `failed`. A status that came before
 * the connection broke still throttles or disables; a broken 2xx counts as failed, because sending twice is the lesser
 * harm.
 */
export function classify({ statusCode, error }: { statusCode: number | null; error: string | null }): Outcome {
  if (statusCode === null) return 'failed';
  if (statusCode === 410) return 'gone';
  if (THROTTLED.has(statusCode)) return 'throttled';
  return error === null && statusCode >= 200 && statusCode < 300 ? 'delivered' : 'failed';
}

const MONTH = '(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)';
const TIME = '\\d{2}:\\d{2}:\\d{2}';
const IMF_FIXDATE = new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \\d{2} ${MONTH} \\d{4} ${TIME} GMT$`);
const RFC850_DATE = new RegExp(
  `^(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday), \\d{2}-${MONTH}-\\d{2} ${TIME} GMT$`,
);
const ASCTIME_DATE = new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ${MONTH} [ \\d]\\d ${TIME} \\d{4}$`);

function httpDate(value: string): number | null {
  let text: string;
  if (IMF_FIXDATE.test(value) || RFC850_DATE.test(value)) text = value;
  // Date.parse takes asctime for local time; the RFC says UTC.
  else if (ASCTIME_DATE.test(value)) text = `${value} GMT`;
  else return null;
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : at;
}
