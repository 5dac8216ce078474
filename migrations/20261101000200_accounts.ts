import { Migration } from '@mikro-orm/migrations';

/** Users, their one-time tokens, sessions, sign-in locks, and e-mails. */
export class Migration20261101000200_accounts extends Migration {
  override up(): void {
    this.addSql(`
      create table users (
        id uuid primary key,
        email text not null,
        password_hash text,
        full_name text not null,
        avatar_url text,
        role text not null default 'user' check (role in ('user', 'admin', 'operator', 'reviewer')),
        is_verified boolean not null default false,
        is_active boolean not null default true,
        kyc_status text not null default 'unverified' check (kyc_status in ('unverified', 'pending', 'verified', 'rejected', 'expired')),
        terms_accepted_at timestamptz,
        version int not null default 1,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        deleted_at timestamptz
      )`);
    this.addSql(`create unique index idx_users_email on users (lower(email)) where deleted_at is null`);
    this.addSql(`create index idx_users_created_at on users (created_at desc, id desc)`);
    this.addSql(`create index idx_users_is_active on users (is_active) where deleted_at is null`);
    this.addSql(`
      create table user_tokens (
        id uuid primary key,
        user_id uuid not null references users (id) on delete cascade,
        purpose text not null check (purpose in ('verify-email', 'reset-password')),
        token_hash bytea not null unique,
        expires_at timestamptz not null,
        used_at timestamptz,
        created_at timestamptz not null default now()
      )`);
    this.addSql(`create index idx_user_tokens_user on user_tokens (user_id, purpose)`);
    this.addSql(`create index idx_user_tokens_expires_at on user_tokens (expires_at)`);
    this.addSql(`
      create table sessions (
        id uuid primary key,
        user_id uuid not null references users (id) on delete cascade,
        family_hash bytea not null unique,
        current_hash bytea not null unique,
        previous_hash bytea,
        rotated_at timestamptz,
        generation int not null default 1,
        ip text,
        user_agent text,
        created_at timestamptz not null default now(),
        last_seen_at timestamptz not null default now(),
        expires_at timestamptz not null,
        idle_expires_at timestamptz not null,
        revoked_at timestamptz,
        revoked_reason text
      )`);
    this.addSql(`create index idx_sessions_user on sessions (user_id) where revoked_at is null`);
    this.addSql(`create index idx_sessions_expires_at on sessions (expires_at)`);
    this.addSql(`
      create table signin_locks (
        key bytea primary key,
        failures int not null,
        locked_until timestamptz,
        last_failure_at timestamptz not null default now()
      )`);
    this.addSql(`create index idx_signin_locks_last on signin_locks (last_failure_at)`);
    this.addSql(`
      create table emails (
        id uuid primary key,
        user_id uuid,
        recipient text not null,
        template text not null,
        subject text not null,
        sealed_data text,
        status text not null default 'pending' check (status in ('pending', 'sent', 'failed')),
        attempts int not null default 0,
        generation int not null default 0,
        next_attempt_at timestamptz,
        lease_until timestamptz,
        last_error text,
        message_id text not null,
        correlation_id text,
        sent_at timestamptz,
        created_at timestamptz not null default now()
      )`);
    this.addSql(`create index idx_emails_created_at on emails (created_at desc, id desc)`);
    this.addSql(`create index idx_emails_due on emails (next_attempt_at) where status = 'pending'`);
    this.addSql(`create index idx_emails_correlation on emails (correlation_id)`);
    this.addSql(`create index idx_emails_user on emails (user_id)`);
  }

  override down(): void {
    for (const table of ['emails', 'signin_locks', 'sessions', 'user_tokens', 'users'])
      this.addSql(`drop table ${table}`);
  }
}
