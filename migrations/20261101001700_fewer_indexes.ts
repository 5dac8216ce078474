import { Migration } from '@mikro-orm/migrations';

/**
 * Every delivery at once pays for every index of three tables: those that another one can stand in for go. The uniqueness
 * of a delivery begins with the event, so that it also finds the deliveries of one; what is purged is found by the time
 * in its UUIDv7 or per tenant; an attempt is the nth of its delivery. The indexes of the new constraints come first and only
 * if they are not there, so that they can be built `concurrently` by hand before.
 */
export class Migration20261101001700_fewer_indexes extends Migration {
  override up(): void {
    this.addSql(`set local lock_timeout = '5s'`);
    this.addSql(
      `create unique index if not exists webhook_deliveries_event_id_endpoint_id_key on webhook_deliveries (event_id, endpoint_id)`,
    );
    this.addSql(`create unique index if not exists webhook_attempts_nth on webhook_attempts (delivery_id, number)`);
    this.addSql(
      `alter table webhook_deliveries
       add constraint webhook_deliveries_event_id_endpoint_id_key unique using index webhook_deliveries_event_id_endpoint_id_key,
       drop constraint webhook_deliveries_endpoint_id_event_id_key`,
    );
    // The index takes the name of its constraint.
    this.addSql(
      `alter table webhook_attempts
       drop constraint webhook_attempts_pkey,
       drop constraint webhook_attempts_delivery_id_number_key,
       add constraint webhook_attempts_pkey primary key using index webhook_attempts_nth`,
    );
    this.addSql(
      `drop index idx_webhook_deliveries_event, idx_webhook_deliveries_purge, idx_webhook_attempts_purge, idx_events_purge`,
    );
  }

  override down(): void {
    this.addSql(`set local lock_timeout = '5s'`);
    this.addSql(`create unique index if not exists webhook_attempts_id on webhook_attempts (id)`);
    this.addSql(
      `create unique index if not exists webhook_attempts_delivery_id_number_key on webhook_attempts (delivery_id, number)`,
    );
    this.addSql(
      `create unique index if not exists webhook_deliveries_endpoint_id_event_id_key on webhook_deliveries (endpoint_id, event_id)`,
    );
    this.addSql(`create index if not exists idx_events_purge on events (created_at)`);
    this.addSql(`create index if not exists idx_webhook_attempts_purge on webhook_attempts (started_at)`);
    this.addSql(`create index if not exists idx_webhook_deliveries_purge on webhook_deliveries (created_at)`);
    this.addSql(`create index if not exists idx_webhook_deliveries_event on webhook_deliveries (event_id)`);
    this.addSql(
      `alter table webhook_attempts
       drop constraint webhook_attempts_pkey,
       add constraint webhook_attempts_pkey primary key using index webhook_attempts_id,
       add constraint webhook_attempts_delivery_id_number_key unique using index webhook_attempts_delivery_id_number_key`,
    );
    this.addSql(
      `alter table webhook_deliveries
       add constraint webhook_deliveries_endpoint_id_event_id_key unique using index webhook_deliveries_endpoint_id_event_id_key,
       drop constraint webhook_deliveries_event_id_endpoint_id_key`,
    );
  }
}
