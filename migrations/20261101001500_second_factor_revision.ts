import { Migration } from '@mikro-orm/migrations';

const trigger = (more: string): string => `
  create or replace trigger users_revision after update on users for each row
  when (old.role is distinct from new.role or old.is_active is distinct from new.is_active
    or old.deleted_at is distinct from new.deleted_at${more})
  execute function advance_session_revision()`;

/** What a session is good for also hangs on whether its user has a second factor, so turning one on or off moves the revision. */
export class Migration20261101001500_second_factor_revision extends Migration {
  override up(): void {
    this.addSql(trigger(' or old.totp_enabled_at is distinct from new.totp_enabled_at'));
  }

  override down(): void {
    this.addSql(trigger(''));
  }
}
