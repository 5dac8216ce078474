import { Migration } from '@mikro-orm/migrations';

/**
 * How far a long verification of the audit log has come; who has claimed an identity check, and until when; and calls of
 * providers that ask for nothing, which are stored as `ignored`.
 */
export class Migration20261101001600_long_work extends Migration {
  override up(): void {
    this.addSql(`
      create table audit_verifications (
        operation_id uuid primary key,
        caller text not null,
        sealed_position bytea,
        updated_at timestamptz not null default now()
      )`);
    this.addSql(`create index idx_audit_verifications_caller on audit_verifications (caller)`);
    this.addSql(`create index idx_audit_verifications_updated_at on audit_verifications (updated_at)`);
    this.addSql(`
      alter table kyc_attempts
        add column claimed_by uuid references users (id) on delete set null,
        add column claimed_until timestamptz`);
    this.addSql(`create index idx_kyc_attempts_claimed on kyc_attempts (claimed_by) where claimed_by is not null`);
    this.addSql(`alter table kyc_callbacks drop constraint kyc_callbacks_outcome_check`);
    this.addSql(`
      alter table kyc_callbacks add constraint kyc_callbacks_outcome_check
        check (outcome in ('received', 'applied', 'stale', 'refused', 'malformed', 'ignored'))`);
  }

  override down(): void {
    this.addSql(`alter table kyc_callbacks drop constraint kyc_callbacks_outcome_check`);
    // Nothing was done about these, which is what the older word says too.
    this.addSql(`update kyc_callbacks set outcome = 'refused' where outcome = 'ignored'`);
    this.addSql(`
      alter table kyc_callbacks add constraint kyc_callbacks_outcome_check
        check (outcome in ('received', 'applied', 'stale', 'refused', 'malformed'))`);
    this.addSql(`drop index idx_kyc_attempts_claimed`);
    this.addSql(`alter table kyc_attempts drop column claimed_until, drop column claimed_by`);
    this.addSql(`drop table audit_verifications`);
  }
}
