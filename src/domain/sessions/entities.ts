import { defineEntity, p } from '@mikro-orm/postgresql';
import { User } from '../users/entities.ts';

/** One sign-in on one device: a family of refresh tokens of which only the newest is good. Only hashes are kept. */
export const Session = defineEntity({
  name: 'Session',
  tableName: 'sessions',
  properties: {
    id: p.uuid().primary(),
    user: () => p.manyToOne(User).joinColumn('user_id').deleteRule('cascade'),
    family_hash: p.blob().unique(),
    current_hash: p.blob().unique(),
    previous_hash: p.blob().nullable(),
    rotated_at: p.datetime().nullable(),
    generation: p.integer().default(1),
    ip: p.text().nullable(),
    user_agent: p.text().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
    last_seen_at: p.datetime().defaultRaw('now()'),
    expires_at: p.datetime().index('idx_sessions_expires_at'),
    idle_expires_at: p.datetime(),
    revoked_at: p.datetime().nullable(),
    revoked_reason: p.text().nullable(),
    /** How its owner signed in (RFC 8176). */
    amr: p.array().columnType('text[]').default(['pwd']),
  },
  indexes: [
    {
      name: 'idx_sessions_user',
      expression: 'create index idx_sessions_user on sessions (user_id) where revoked_at is null',
    },
  ],
});

/** Failed sign-ins of one address or network. The key is an HMAC, so the table names nobody. */
export const SigninLock = defineEntity({
  name: 'SigninLock',
  tableName: 'signin_locks',
  properties: {
    key: p.blob().primary(),
    failures: p.integer(),
    locked_until: p.datetime().nullable(),
    last_failure_at: p.datetime().defaultRaw('now()').index('idx_signin_locks_last'),
  },
});

/** An Ed25519 key that signs access tokens; its private half is sealed. */
export const SigningKey = defineEntity({
  name: 'SigningKey',
  tableName: 'signing_keys',
  properties: {
    kid: p.text().primary(),
    algorithm: p.text(),
    public_jwk: p.json<Record<string, unknown>>(),
    sealed_private: p.blob(),
    created_at: p.datetime().defaultRaw('now()'),
    retired_at: p.datetime().nullable(),
    /** It stands in the key set before it signs. */
    signs_at: p.datetime().defaultRaw('now()'),
  },
});
