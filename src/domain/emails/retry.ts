const MINUTE = 60_000;

/** Waits between the attempts of one e-mail, in ms: four waits are five attempts. */
const LADDER = [10_000, MINUTE, 10 * MINUTE, 60 * MINUTE];

/**
 * How long to wait after the `attempts`-th failed attempt, in ms with ±10 % jitter, so that a mail server that comes
 * back is not met by everything at once; `undefined` when there is no further attempt.
 */
export function retryDelay(attempts: number, random: () => number = Math.random): number | undefined {
  const base = LADDER[attempts - 1];
  return base === undefined ? undefined : Math.round(base * (0.9 + random() * 0.2));
}

/** A 5yz reply is permanent (RFC 5321, section 4.2.1); everything else may be tried again. */
export const isPermanent = (response: string): boolean => /^5\d\d\b/.test(response.trim());
