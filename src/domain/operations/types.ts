/**
 * The commands that an operation id can name by itself, by their place in this list. Ids are kept by callers, so lines are
 * only ever added, at the end, 15 of them at most. A command that is not here has ids that do not name it.
 */
export const OPERATION_TYPES = [
  'user.register',
  'user.resend-verification',
  'user.forgot-password',
  'kyc.submit',
  'kyc.cancel',
  'kyc.decide',
  'kyc.apply_callback',
  'audit.verify',
] as const;
