import { Migration } from '@mikro-orm/migrations';

/** Change of e-mail, second factor, disabling for a time, erasure, and the rotation of signing keys. */
export class Migration20261101000900_accounts extends Migration {
  override up(): void {
    this.addSql(`
      alter table users
        add column disabled_reason text,
        add column disabled_until timestamptz,
        add column erased_at timestamptz,
        add column totp_secret bytea,
        add column totp_enabled_at timestamptz,
        add column totp_last_step bigint,
        add column recovery_codes bytea[] not null default '{}'`);
    this.addSql(
      `create index idx_users_disabled_until on users (disabled_until) where disabled_until is not null and not is_active`,
    );
    this.addSql(
      `create index idx_users_erasure on users (deleted_at) where deleted_at is not null and erased_at is null`,
    );
    this.addSql(`create index idx_users_erased_at on users (erased_at) where erased_at is not null`);
    this.addSql(`alter table user_tokens add column email text, add column session_id uuid`);
    this.addSql(`alter table user_tokens drop constraint user_tokens_purpose_check`);
    this.addSql(`
      alter table user_tokens
        add constraint user_tokens_purpose_check check (purpose in ('verify-email', 'reset-password', 'change-email')),
        add constraint user_tokens_email_check check ((purpose = 'change-email') = (email is not null))`);
    this.addSql(`alter table sessions add column amr text[] not null default '{pwd}'`);
    this.addSql(`alter table signing_keys add column signs_at timestamptz not null default now()`);
    // What an erasure and an export look for; only the platform's own events have a person as their subject.
    this.addSql(`create index idx_events_subject on events (subject) where source = 'waybill' and subject is not null`);
  }

  override down(): void {
    this.addSql(`drop index idx_events_subject`);
    this.addSql(`alter table signing_keys drop column signs_at`);
    this.addSql(`alter table sessions drop column amr`);
    this.addSql(`delete from user_tokens where purpose = 'change-email'`);
    this.addSql(`alter table user_tokens drop constraint user_tokens_email_check`);
    this.addSql(`alter table user_tokens drop constraint user_tokens_purpose_check`);
    this.addSql(`
      alter table user_tokens
        add constraint user_tokens_purpose_check check (purpose in ('verify-email', 'reset-password'))`);
    this.addSql(`alter table user_tokens drop column email, drop column session_id`);
    this.addSql(`
      alter table users
        drop column disabled_reason, drop column disabled_until, drop column erased_at, drop column totp_secret,
        drop column totp_enabled_at, drop column totp_last_step, drop column recovery_codes`);
  }
}
