import { defineEntity, type InferEntity, p } from '@mikro-orm/postgresql';

export const ROLES = ['user', 'admin', 'operator', 'reviewer'] as const;
export type Role = (typeof ROLES)[number];

export const KYC_STATUSES = ['unverified', 'pending', 'verified', 'rejected', 'expired'] as const;
export type KycStatus = (typeof KYC_STATUSES)[number];

/** An account. `email` is unique among the living, whatever its case; `version` is the sequence of its events. */
export const User = defineEntity({
  name: 'User',
  tableName: 'users',
  properties: {
    id: p.uuid().primary(),
    email: p.text(),
    password_hash: p.text().nullable(),
    full_name: p.text(),
    avatar_url: p.text().nullable(),
    role: p.text().$type<Role>().default('user'),
    is_verified: p.boolean().default(false),
    is_active: p.boolean().default(true),
    kyc_status: p.text().$type<KycStatus>().default('unverified'),
    terms_accepted_at: p.datetime().nullable(),
    version: p.integer().default(1),
    created_at: p.datetime().defaultRaw('now()'),
    updated_at: p.datetime().defaultRaw('now()'),
    deleted_at: p.datetime().nullable(),
    disabled_reason: p.text().nullable(),
    /** When a disabled account comes back by itself. */
    disabled_until: p.datetime().nullable(),
    /** The row stays, so that its id is not given to anybody else; nothing personal is in it any more. */
    erased_at: p.datetime().nullable(),
    /** Encrypted, bound to the user. Counts once `totp_enabled_at` is set. */
    totp_secret: p.blob().nullable(),
    totp_enabled_at: p.datetime().nullable(),
    /** The time step of the last code that was taken: none works twice. */
    totp_last_step: p.bigint().nullable(),
    /** SHA-256 of each recovery code that is left. */
    recovery_codes: p.array().columnType('bytea[]').default([]),
  },
  indexes: [
    {
      name: 'idx_users_email',
      expression: 'create unique index idx_users_email on users (lower(email)) where deleted_at is null',
    },
    {
      name: 'idx_users_created_at',
      expression: 'create index idx_users_created_at on users (created_at desc, id desc)',
    },
    {
      name: 'idx_users_is_active',
      expression: 'create index idx_users_is_active on users (is_active) where deleted_at is null',
    },
    {
      name: 'idx_users_disabled_until',
      expression:
        'create index idx_users_disabled_until on users (disabled_until) where disabled_until is not null and not is_active',
    },
    {
      name: 'idx_users_erasure',
      expression:
        'create index idx_users_erasure on users (deleted_at) where deleted_at is not null and erased_at is null',
    },
    {
      name: 'idx_users_erased_at',
      expression: 'create index idx_users_erased_at on users (erased_at) where erased_at is not null',
    },
  ],
});
export type User = InferEntity<typeof User>;

export const TOKEN_PURPOSES = ['verify-email', 'reset-password', 'change-email'] as const;
export type TokenPurpose = (typeof TOKEN_PURPOSES)[number];

/** A link sent by e-mail, usable once. Only the SHA-256 of its token is kept. */
export const UserToken = defineEntity({
  name: 'UserToken',
  tableName: 'user_tokens',
  properties: {
    id: p.uuid().primary(),
    user: () => p.manyToOne(User).joinColumn('user_id').deleteRule('cascade'),
    purpose: p.text().$type<TokenPurpose>(),
    token_hash: p.blob().unique(),
    expires_at: p.datetime().index('idx_user_tokens_expires_at'),
    used_at: p.datetime().nullable(),
    /** The address that `change-email` confirms. */
    email: p.text().nullable(),
    /** The session that asked for the change: it alone outlives it. */
    session_id: p.uuid().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
  },
  indexes: [{ name: 'idx_user_tokens_user', properties: ['user', 'purpose'] }],
});
