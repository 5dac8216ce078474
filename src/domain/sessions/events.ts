import { z } from 'zod';
import { uuid } from '../ids.ts';
import { event } from '../messages/contracts.ts';

const time = z.iso.datetime();

/** Why a session ended. */
export const REVOCATION_REASONS = [
  'logout',
  'revoked',
  'reuse_detected',
  'password_reset',
  'password_changed',
  'password_withdrawn',
  'email_changed',
  'second_factor_changed',
  'user_disabled',
  'user_deleted',
] as const;
export type RevocationReason = (typeof REVOCATION_REASONS)[number];

/** `subject` of each is the user's id, `sequence` the user's version. */
export const sessionCreated = event(
  'session.created',
  z.object({ session_id: uuid, user_id: uuid, created_at: time, expires_at: time }),
);

export const sessionRevoked = event(
  'session.revoked',
  z.object({ session_id: uuid, user_id: uuid, reason: z.enum(REVOCATION_REASONS), revoked_at: time }),
);

export const sessionReuseDetected = event(
  'session.reuse_detected',
  z.object({ session_id: uuid, user_id: uuid, detected_at: time }),
);

export const SESSION_EVENTS = [sessionCreated, sessionRevoked, sessionReuseDetected] as const;
