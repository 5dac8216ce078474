import { Migration } from '@mikro-orm/migrations';

/**
 * Every delivery at once pays for every index of three tables: those that another one can stand in for go. The uniqueness
 * of a delivery begins with the event, so that it also finds the deliveries of one; what is purged is found by the time
 * in its UUIDv7 or per tenant; an attempt is the nth of its delivery.
 */
export class Migration20261101001700_fewer_indexes extends Migration {
  override up(): void {
    this.addSql(
      `alter table webhook_deliveries add constraint webhook_deliveries_event_id_endpoint_id_key unique (event_id, endpoint_id)`,
    );
    this.addSql(`alter table webhook_deliveries drop constraint webhook_deliveries_endpoint_id_event_id_key`);
    this.addSql(
      `drop index idx_webhook_deliveries_event, idx_webhook_deliveries_purge, idx_webhook_attempts_purge, idx_events_purge`,
    );
    this.addSql(
      `alter table webhook_attempts drop constraint webhook_attempts_pkey, drop constraint webhook_attempts_delivery_id_number_key`,
    );
    this.addSql(`alter table webhook_attempts add primary key (delivery_id, number)`);
  }

  override down(): void {
    this.addSql(`alter table webhook_attempts drop constraint webhook_attempts_pkey`);
    this.addSql(
      `alter table webhook_attempts add primary key (id), add constraint webhook_attempts_delivery_id_number_key unique (delivery_id, number)`,
    );
    this.addSql(`create index idx_events_purge on events (created_at)`);
    this.addSql(`create index idx_webhook_attempts_purge on webhook_attempts (started_at)`);
    this.addSql(`create index idx_webhook_deliveries_purge on webhook_deliveries (created_at)`);
    this.addSql(`create index idx_webhook_deliveries_event on webhook_deliveries (event_id)`);
    this.addSql(
      `alter table webhook_deliveries add constraint webhook_deliveries_endpoint_id_event_id_key unique (endpoint_id, event_id)`,
    );
    this.addSql(`alter table webhook_deliveries drop constraint webhook_deliveries_event_id_endpoint_id_key`);
  }
}
