/** The states of one identity check (an attempt). */
export const ATTEMPT_STATUSES = [
  'awaiting_input',
  'processing',
  'in_review',
  'approved',
  'rejected',
  'expired',
  'cancelled',
] as const;
export type AttemptStatus = (typeof ATTEMPT_STATUSES)[number];

/** What the rest of the platform sees of a user: the projection of all of the user's attempts. */
export const KYC_STATUSES = ['unverified', 'pending', 'verified', 'rejected', 'expired'] as const;
export type KycStatus = (typeof KYC_STATUSES)[number];

/** Who may move an attempt. `reviewer` is an admin or reviewer who is not the subject; `system` is the platform itself, for an erasure. */
export const MOVERS = ['user', 'provider', 'reviewer', 'clock', 'system'] as const;
export type Mover = (typeof MOVERS)[number];

export interface Transition {
  /** `null` is an attempt that does not exist yet. */
  from: AttemptStatus | null;
  to: AttemptStatus;
  by: readonly Mover[];
  reason: 'required' | 'optional';
}

/** Every move there is (product contract, "KYC"); what is not listed is refused. */
export const TRANSITIONS: readonly Transition[] = [
  { from: null, to: 'awaiting_input', by: ['user'], reason: 'optional' },
  { from: 'awaiting_input', to: 'processing', by: ['user'], reason: 'optional' },
  { from: 'processing', to: 'in_review', by: ['provider', 'reviewer'], reason: 'optional' },
  { from: 'processing', to: 'approved', by: ['provider', 'reviewer'], reason: 'optional' },
  { from: 'processing', to: 'rejected', by: ['provider', 'reviewer'], reason: 'required' },
  { from: 'processing', to: 'awaiting_input', by: ['provider', 'reviewer'], reason: 'required' },
  { from: 'in_review', to: 'approved', by: ['provider', 'reviewer'], reason: 'optional' },
  { from: 'in_review', to: 'rejected', by: ['provider', 'reviewer'], reason: 'required' },
  { from: 'in_review', to: 'awaiting_input', by: ['provider', 'reviewer'], reason: 'required' },
  { from: 'approved', to: 'in_review', by: ['provider', 'reviewer'], reason: 'optional' },
  { from: 'approved', to: 'rejected', by: ['provider', 'reviewer'], reason: 'required' },
  { from: 'rejected', to: 'in_review', by: ['reviewer'], reason: 'required' },
  { from: 'approved', to: 'expired', by: ['clock'], reason: 'optional' },
  { from: 'awaiting_input', to: 'expired', by: ['clock'], reason: 'optional' },
  { from: 'awaiting_input', to: 'cancelled', by: ['user', 'provider', 'system'], reason: 'optional' },
  { from: 'processing', to: 'cancelled', by: ['user', 'provider', 'system'], reason: 'optional' },
  { from: 'in_review', to: 'cancelled', by: ['user', 'provider', 'system'], reason: 'optional' },
];

/** The table's row for a move, whoever makes it; `undefined` when there is no such move. */
export function findTransition(from: AttemptStatus | null, to: AttemptStatus): Transition | undefined {
  return TRANSITIONS.find((transition) => transition.from === from && transition.to === to);
}

export function canMove(from: AttemptStatus | null, to: AttemptStatus, by: Mover): boolean {
  return findTransition(from, to)?.by.includes(by) ?? false;
}

/** States in which a check is under way; a user has at most one such attempt (`idx_kyc_attempts_open`). */
const OPEN: readonly AttemptStatus[] = ['awaiting_input', 'processing', 'in_review'];
export const isOpen = (status: AttemptStatus): boolean => OPEN.includes(status);

/**
 * The user-level status of a user whose attempts have these states, newest first. An approval stands until it expires
 * or is taken back, whatever becomes of a newer attempt; a cancelled attempt counts as if it had never been.
 */
export function project(newestFirst: readonly AttemptStatus[]): KycStatus {
  if (newestFirst.includes('approved')) return 'verified';
  if (newestFirst.some(isOpen)) return 'pending';
  const last = newestFirst.find((status) => status !== 'cancelled');
  return last === 'rejected' || last === 'expired' ? last : 'unverified';
}
