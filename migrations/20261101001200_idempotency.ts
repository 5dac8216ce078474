import { Migration } from '@mikro-orm/migrations';

/**
 * `repeats` counts the requests besides the first that hold a key: only the last one to let go of it forgets it. `kid`
 * names the key of the fingerprint, so that a repeat after a rotation of SECRETS_KEY is recognised; rows from before
 * have none and are gone after 24 hours.
 */
export class Migration20261101001200_idempotency extends Migration {
  override up(): void {
    this.addSql(`alter table idempotency_keys add column repeats int not null default 0, add column kid text`);
  }

  override down(): void {
    this.addSql(`alter table idempotency_keys drop column repeats, drop column kid`);
  }
}
