import type { CallbackProvider } from './adapters/index.ts';
import type { AttemptStatus } from './transitions.ts';

export type ProviderName = 'manual' | CallbackProvider;

/** Whoever checks what users hand in. */
export interface KycProvider {
  name: ProviderName;
  /** Where a fresh submission goes at once, in the transaction that took it; `null` leaves it to the provider's callback. */
  handsTo: AttemptStatus | null;
}

export const PROVIDERS: Record<ProviderName, KycProvider> = {
  /** People look at every submission. */
  manual: { name: 'manual', handsTo: 'in_review' },
  /** A service outside learns of `kyc.submitted` and answers by a signed callback. */
  webhook: { name: 'webhook', handsTo: null },
  stripe: { name: 'stripe', handsTo: null },
  sumsub: { name: 'sumsub', handsTo: null },
};
