import type { CallbackAdapter } from './adapter.ts';
import { stripeAdapter } from './stripe.ts';
import { sumsubAdapter } from './sumsub.ts';
import { webhookAdapter } from './webhook.ts';

/** By the name in `KYC_PROVIDER` and in the path that the provider calls. */
export const ADAPTERS = {
  webhook: webhookAdapter,
  stripe: stripeAdapter,
  sumsub: sumsubAdapter,
} satisfies Record<string, CallbackAdapter>;

export type CallbackProvider = keyof typeof ADAPTERS;
export const CALLBACK_PROVIDERS = Object.keys(ADAPTERS) as CallbackProvider[];

export const hasCallbacks = (provider: string): provider is CallbackProvider => Object.hasOwn(ADAPTERS, provider);
