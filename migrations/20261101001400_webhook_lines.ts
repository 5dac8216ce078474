import { Migration } from '@mikro-orm/migrations';

/**
 * From which attempt on a delivery's schedule counts; the lines of what is parked for busy endpoints; until when an
 * endpoint asked to be left alone; and who made an endpoint, to be told of what happens to it.
 */
export class Migration20261101001400_webhook_lines extends Migration {
  override up(): void {
    this.addSql(`set local lock_timeout = '5s'`);
    this.addSql(`alter table webhook_deliveries add column schedule_from int not null default 0`);
    this.addSql(
      `create index if not exists idx_webhook_deliveries_parked on webhook_deliveries (endpoint_id, (cause not in ('manual', 'test')), id)
       where status = 'pending' and reason = 'endpoint busy'`,
    );
    this.addSql(
      `alter table webhook_breakers add column paused_until timestamptz, add column pause_ms int not null default 0`,
    );
    this.addSql(`alter table webhook_endpoints add column created_by text`);
  }

  override down(): void {
    this.addSql(`set local lock_timeout = '5s'`);
    this.addSql(`alter table webhook_endpoints drop column created_by`);
    this.addSql(`alter table webhook_breakers drop column paused_until, drop column pause_ms`);
    this.addSql(`drop index idx_webhook_deliveries_parked`);
    this.addSql(`alter table webhook_deliveries drop column schedule_from`);
  }
}
