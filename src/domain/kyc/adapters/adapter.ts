import type { Problem } from '../../problem.ts';
import type { Decision } from '../messages.ts';

/** What a provider can say of an attempt; a session that was called off there is `cancelled`. */
export type Verdict = Decision | 'cancelled';

/** A call that asks for a move of an attempt. `occurredAt` is RFC 3339. */
export interface ProviderEvent {
  eventId: string;
  attemptId: string;
  status: Verdict;
  occurredAt: string;
  /** Shown to the user. */
  reason?: string | undefined;
}

/** A call that moves no attempt, and why. The attempt that it names all the same, so that its erasure finds the call. */
export interface IgnoredCall {
  eventId: string;
  ignored: string;
  attemptId: string | null;
}

/** What a call says: something to apply, nothing to apply, or nothing that can be read. */
export type Reading = { event: ProviderEvent } | IgnoredCall | { problem: Problem };

/** A scheme of signed callbacks: how one provider proves who it is, and what its words mean here. */
export interface CallbackAdapter {
  /** Whether the call was made by whoever holds the secret. Compares in constant time. `header` looks one up by its name in lower case. */
  isGenuine(header: (name: string) => string | undefined, body: Buffer, secret: string): boolean;
  /** Reads the body of a genuine call. */
  read(body: Buffer): Reading;
}

export function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch {
    return undefined;
  }
}

const REASON_MAX = 500;
/** Control characters, and halves of characters: the database stores neither the null byte nor the latter. */
const UNFIT = /[\p{Cc}\p{Cs}]+/gu;

/** A provider's own words, fit to be kept and shown: on one line, 500 characters at most; `undefined` when nothing is left. */
export function reasonFrom(text: string | null | undefined): string | undefined {
  // Cut before it is cleaned: the cut may leave half a character.
  return (text ?? '').slice(0, REASON_MAX).replace(UNFIT, ' ').trim() || undefined;
}

/** Why a kind of call asks for nothing; its name is the provider's word. */
export const movesNothing = (type: string): string => `${type.replace(UNFIT, ' ')} moves no attempt`;
