import { Migration } from '@mikro-orm/migrations';

/**
 * Whoever remembers sessions does so under the revision `sessions`. It is moved by triggers, so that no way of ending a
 * session, of changing a role or of disabling an account can forget it; the row stays locked until the commit.
 */
export class Migration20261101001100_session_revision extends Migration {
  override up(): void {
    this.addSql(`
      create function advance_session_revision() returns trigger language plpgsql as $$
      begin
        update revisions set revision = revision + 1 where name = 'sessions';
        return null;
      end $$`);
    this.addSql(`
      create trigger sessions_revision after update on sessions for each row
      when (old.revoked_at is distinct from new.revoked_at or old.expires_at is distinct from new.expires_at)
      execute function advance_session_revision()`);
    this.addSql(`
      create trigger users_revision after update on users for each row
      when (old.role is distinct from new.role or old.is_active is distinct from new.is_active
        or old.deleted_at is distinct from new.deleted_at)
      execute function advance_session_revision()`);
    this.addSql(
      `create trigger users_deleted_revision after delete on users for each row execute function advance_session_revision()`,
    );
  }

  override down(): void {
    this.addSql('drop trigger users_deleted_revision on users');
    this.addSql('drop trigger users_revision on users');
    this.addSql('drop trigger sessions_revision on sessions');
    this.addSql('drop function advance_session_revision()');
  }
}
