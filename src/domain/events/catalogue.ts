import { z } from 'zod';
import * as kyc from '../kyc/messages.ts';
import type { Contract } from '../messages/contracts.ts';
import { sessionCreated, sessionReuseDetected, sessionRevoked } from '../sessions/events.ts';
import {
  emailChanged,
  passwordChanged,
  userCreated,
  userDeleted,
  userDisabled,
  userEnabled,
  userErased,
  userRestored,
  userUpdated,
  userVerified,
} from '../users/events.ts';
import { paymentSucceeded, subscriptionExpired } from './samples.ts';
import type { Check } from './schema-check.ts';
import { webhookDeliveryExhausted, webhookEndpointDisabled } from './webhook-events.ts';

/** A type of event that endpoints can subscribe to. `platform` types are the platform's alone to publish. */
export interface EventType {
  name: string;
  description: string;
  /** Of `data`. */
  schema: z.ZodType;
  /** Of `data`. */
  example: unknown;
  source: 'platform' | 'sample' | 'tenant';
  contract: Contract<unknown>;
  deprecated?: boolean;
  /** Checks `data` in place of `schema`: the JSON Schema of a tenant's own type. */
  check?: Check;
}

const type = <T>(
  contract: Contract<T>,
  description: string,
  example: T,
  source: EventType['source'] = 'platform',
): EventType => ({
  name: contract.type,
  description,
  schema: contract.schema,
  example,
  source,
  contract: contract as unknown as Contract<unknown>,
});

const USER = '019a9f3e-6b00-7a11-8e22-3f4455667788';
const SESSION = '019a9f3e-6b10-7d3c-9a4b-5c6d7e8f9012';
const ENDPOINT = '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01';
const AT = '2026-11-20T10:15:30.000Z';
const CASE = { user_id: USER, attempt_id: '019a9f3e-6b20-7f5e-8b7a-9c8d7e6f5a43' };

/** Every built-in type of event, in the order in which a reader meets them. */
export const EVENT_TYPES: readonly EventType[] = [
  type(userCreated, 'An account was created.', {
    user_id: USER,
    email: 'ada@example.com',
    full_name: 'Ada Lovelace',
    created_at: AT,
  }),
  type(userVerified, 'The owner of an account confirmed the e-mail address.', {
    user_id: USER,
    email: 'ada@example.com',
    verified_at: AT,
  }),
  type(userUpdated, 'A profile was changed; `changed` names the fields.', {
    user_id: USER,
    full_name: 'Ada King',
    avatar_url: null,
    role: 'user',
    changed: ['full_name'],
    updated_at: AT,
  }),
  type(userDisabled, 'An account was disabled by an administrator.', { user_id: USER, disabled_at: AT }),
  type(userEnabled, 'A disabled account was enabled again.', { user_id: USER, enabled_at: AT }),
  type(userDeleted, 'An account was deleted.', { user_id: USER, deleted_at: AT }),
  type(userRestored, 'A deleted account came back.', { user_id: USER, restored_at: AT }),
  type(userErased, 'Nothing personal of a deleted account is left.', { user_id: USER, erased_at: AT }),
  type(emailChanged, 'The owner of an account confirmed another e-mail address.', {
    user_id: USER,
    email: 'ada.king@example.com',
    changed_at: AT,
  }),
  type(passwordChanged, 'A password was changed, by its owner or through a reset link.', {
    user_id: USER,
    how: 'reset',
    changed_at: AT,
  }),
  type(sessionCreated, 'Somebody signed in.', {
    session_id: SESSION,
    user_id: USER,
    created_at: AT,
    expires_at: '2026-12-20T10:15:30.000Z',
  }),
  type(sessionRevoked, 'A session ended before its time.', {
    session_id: SESSION,
    user_id: USER,
    reason: 'logout',
    revoked_at: AT,
  }),
  type(sessionReuseDetected, 'A refresh token was used twice, so its session was revoked.', {
    session_id: SESSION,
    user_id: USER,
    detected_at: AT,
  }),
  type(kyc.kycSubmitted, 'The data of an identity check was handed in.', {
    ...CASE,
    status: 'processing',
    kyc_status: 'pending',
  }),
  type(kyc.kycReviewRequired, 'An identity check waits for a reviewer.', {
    ...CASE,
    status: 'in_review',
    kyc_status: 'pending',
  }),
  type(kyc.kycResubmissionRequested, 'An identity check needs other input from its user.', {
    ...CASE,
    status: 'awaiting_input',
    kyc_status: 'pending',
    reason: 'The document is not legible.',
  }),
  type(kyc.kycApproved, 'An identity check was approved.', {
    ...CASE,
    status: 'approved',
    kyc_status: 'verified',
    expires_on: '2031-05-04',
  }),
  type(kyc.kycRejected, 'An identity check was rejected.', {
    ...CASE,
    status: 'rejected',
    kyc_status: 'rejected',
    reason: 'The document has expired.',
  }),
  type(kyc.kycExpiring, 'An approval ends soon.', {
    ...CASE,
    status: 'approved',
    kyc_status: 'verified',
    expires_on: '2026-12-20',
  }),
  type(kyc.kycExpired, 'An approval has ended.', { ...CASE, status: 'expired', kyc_status: 'expired' }),
  type(kyc.kycCancelled, 'An identity check was taken back.', {
    ...CASE,
    status: 'cancelled',
    kyc_status: 'unverified',
  }),
  type(webhookEndpointDisabled, 'An endpoint was disabled by the platform; its deliveries are held.', {
    endpoint_id: ENDPOINT,
    url: 'https://example.com/hooks',
    reason: 'answered 410',
    disabled_at: AT,
  }),
  type(webhookDeliveryExhausted, 'The last attempt of a delivery failed.', {
    endpoint_id: ENDPOINT,
    event_id: '019a9f3e-6c20-7aa1-8b3c-4d5e6f708192',
    event_type: 'user.created',
    delivery_id: '019a9f3e-6c21-7bb2-9c4d-5e6f708192a3',
    attempts: 10,
    last_status_code: 500,
    last_error: null,
  }),
  type(
    paymentSucceeded,
    'A sample: a payment went through.',
    { payment_id: 'pay_7f3a', amount: 19.9, currency: 'EUR' },
    'sample',
  ),
  type(subscriptionExpired, 'A sample: a subscription ended.', { subscription_id: 'sub_42', expired_at: AT }, 'sample'),
];

const byName = new Map(EVENT_TYPES.map((entry) => [entry.name, entry]));

export const findEventType = (name: string): EventType | undefined => byName.get(name);

/** The JSON Schema (2020-12) of a type's `data`. */
export const jsonSchemaOf = (entry: EventType): Record<string, unknown> =>
  z.toJSONSchema(entry.schema, { io: 'input' });

/** The catalogue as a document shows it: `schema` is the JSON Schema of `data`, `example` an example of it. */
export const documentedEvents = (): {
  type: string;
  description: string;
  schema: Record<string, unknown>;
  example: unknown;
}[] =>
  EVENT_TYPES.map((entry) => ({
    type: entry.name,
    description: entry.description,
    schema: jsonSchemaOf(entry),
    example: entry.example,
  }));
