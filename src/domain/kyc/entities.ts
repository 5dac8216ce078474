import { defineEntity, p } from '@mikro-orm/postgresql';
import { User } from '../users/entities.ts';

/** One identity check of one user. Birth date and document number are in `sealed_document` alone. */
export const KycAttempt = defineEntity({
  name: 'KycAttempt',
  tableName: 'kyc_attempts',
  properties: {
    id: p.uuid().primary(),
    user: () => p.manyToOne(User).joinColumn('user_id').deleteRule('cascade'),
    /** The attempt before this one, when there was one. */
    previous_id: p.uuid().nullable(),
    status: p.text(),
    provider: p.text(),
    country: p.text().nullable(),
    document_type: p.text().nullable(),
    sealed_document: p.blob().nullable(),
    expires_on: p.date().nullable(),
    reason: p.text().nullable(),
    comment: p.text().nullable(),
    version: p.integer().default(1),
    /** A reviewer's; of no account any more once `claimed_until` is over. */
    claimed: () => p.manyToOne(User).joinColumn('claimed_by').deleteRule('set null').nullable(),
    claimed_until: p.datetime().nullable(),
    submitted_at: p.datetime().nullable(),
    decided_at: p.datetime().nullable(),
    /** When `kyc.expiring` went out. */
    reminded_at: p.datetime().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
    updated_at: p.datetime().defaultRaw('now()'),
  },
  indexes: [
    {
      name: 'idx_kyc_attempts_open',
      expression:
        "create unique index idx_kyc_attempts_open on kyc_attempts (user_id) where status in ('awaiting_input', 'processing', 'in_review')",
    },
    {
      name: 'idx_kyc_attempts_user',
      expression: 'create index idx_kyc_attempts_user on kyc_attempts (user_id, created_at desc)',
    },
    {
      name: 'idx_kyc_attempts_previous',
      expression: 'create index idx_kyc_attempts_previous on kyc_attempts (previous_id) where previous_id is not null',
    },
    {
      name: 'idx_kyc_attempts_claimed',
      expression: 'create index idx_kyc_attempts_claimed on kyc_attempts (claimed_by) where claimed_by is not null',
    },
    { name: 'idx_kyc_attempts_status', properties: ['status', 'id'] },
    {
      name: 'idx_kyc_attempts_expiry',
      expression: "create index idx_kyc_attempts_expiry on kyc_attempts (expires_on) where status = 'approved'",
    },
    {
      name: 'idx_kyc_attempts_idle',
      expression: "create index idx_kyc_attempts_idle on kyc_attempts (updated_at) where status = 'awaiting_input'",
    },
  ],
});

/** One move of one attempt; rows are only ever added. */
export const KycTransition = defineEntity({
  name: 'KycTransition',
  tableName: 'kyc_transitions',
  properties: {
    id: p.uuid().primary(),
    attempt: () => p.manyToOne(KycAttempt).joinColumn('attempt_id').deleteRule('cascade'),
    from_status: p.text().nullable(),
    to_status: p.text(),
    /** `user:<id>`, `provider:<name>`, `clock` or `system`. */
    actor: p.text(),
    reason: p.text().nullable(),
    comment: p.text().nullable(),
    correlation_id: p.text().nullable(),
    at: p.datetime().defaultRaw('now()'),
  },
  indexes: [{ name: 'idx_kyc_transitions_attempt', properties: ['attempt', 'at'] }],
});

/** One signed call of a provider, as it came (encrypted) and what became of it. */
export const KycCallback = defineEntity({
  name: 'KycCallback',
  tableName: 'kyc_callbacks',
  properties: {
    id: p.uuid().primary(),
    provider: p.text(),
    event_id: p.text().nullable(),
    attempt_id: p.uuid().nullable(),
    status: p.text().nullable(),
    reason: p.text().nullable(),
    occurred_at: p.datetime().nullable(),
    sealed_body: p.blob(),
    /** `received`, then one of `applied`, `stale` and `refused`; `malformed` and `ignored` from the start. */
    outcome: p.text().default('received'),
    detail: p.text().nullable(),
    received_at: p.datetime().defaultRaw('now()'),
    handled_at: p.datetime().nullable(),
  },
  uniques: [{ name: 'kyc_callbacks_provider_event_id_key', properties: ['provider', 'event_id'] }],
  indexes: [
    { name: 'idx_kyc_callbacks_attempt', properties: ['attempt_id', 'occurred_at'] },
    { name: 'idx_kyc_callbacks_received_at', properties: ['received_at'] },
  ],
});
