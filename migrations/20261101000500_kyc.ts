import { Migration } from '@mikro-orm/migrations';

/** Identity checks: attempts, every move they made, and what providers called back with. */
export class Migration20261101000500_kyc extends Migration {
  override up(): void {
    this.addSql(`
      create table kyc_attempts (
        id uuid primary key,
        user_id uuid not null references users (id) on delete cascade,
        previous_id uuid references kyc_attempts (id) on delete set null,
        status text not null check (status in ('awaiting_input', 'processing', 'in_review', 'approved', 'rejected', 'expired', 'cancelled')),
        provider text not null,
        country text,
        document_type text,
        sealed_document bytea,
        expires_on date,
        reason text,
        comment text,
        version int not null default 1,
        submitted_at timestamptz,
        decided_at timestamptz,
        reminded_at timestamptz,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now()
      )`);
    this.addSql(
      `create unique index idx_kyc_attempts_open on kyc_attempts (user_id) where status in ('awaiting_input', 'processing', 'in_review')`,
    );
    this.addSql(`create index idx_kyc_attempts_user on kyc_attempts (user_id, created_at desc)`);
    this.addSql(`create index idx_kyc_attempts_status on kyc_attempts (status, id)`);
    this.addSql(`create index idx_kyc_attempts_expiry on kyc_attempts (expires_on) where status = 'approved'`);
    this.addSql(`create index idx_kyc_attempts_idle on kyc_attempts (updated_at) where status = 'awaiting_input'`);
    this.addSql(`create index idx_kyc_attempts_previous on kyc_attempts (previous_id) where previous_id is not null`);
    this.addSql(`
      create table kyc_transitions (
        id uuid primary key,
        attempt_id uuid not null references kyc_attempts (id) on delete cascade,
        from_status text,
        to_status text not null,
        actor text not null,
        reason text,
        comment text,
        correlation_id text,
        at timestamptz not null default now()
      )`);
    this.addSql(`create index idx_kyc_transitions_attempt on kyc_transitions (attempt_id, at)`);
    this.addSql(`
      create table kyc_callbacks (
        id uuid primary key,
        provider text not null,
        event_id text,
        attempt_id uuid,
        status text,
        reason text,
        occurred_at timestamptz,
        sealed_body bytea not null,
        outcome text not null default 'received' check (outcome in ('received', 'applied', 'stale', 'refused', 'malformed')),
        detail text,
        received_at timestamptz not null default now(),
        handled_at timestamptz,
        unique (provider, event_id)
      )`);
    this.addSql(`create index idx_kyc_callbacks_attempt on kyc_callbacks (attempt_id, occurred_at)`);
    this.addSql(`create index idx_kyc_callbacks_received_at on kyc_callbacks (received_at)`);
  }

  override down(): void {
    this.addSql('drop table kyc_callbacks');
    this.addSql('drop table kyc_transitions');
    this.addSql('drop table kyc_attempts');
  }
}
