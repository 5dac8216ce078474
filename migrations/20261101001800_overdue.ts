import { Migration } from '@mikro-orm/migrations';

/** What has lost its alarm is found past any number of deliveries that are parked for busy endpoints. */
export class Migration20261101001800_overdue extends Migration {
  override up(): void {
    this.addSql(`set local lock_timeout = '5s'`);
    this.addSql(
      `create index if not exists idx_webhook_deliveries_overdue on webhook_deliveries (next_attempt_at)
       where status = 'pending' and reason is distinct from 'endpoint busy'`,
    );
  }

  override down(): void {
    this.addSql(`drop index idx_webhook_deliveries_overdue`);
  }
}
