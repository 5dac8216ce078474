import { Migration } from '@mikro-orm/migrations';

/** Breakers, the order of an endpoint's deliveries, why an attempt was made, and since when an endpoint only fails. */
export class Migration20261101000800_engine extends Migration {
  override up(): void {
    this.addSql(`
      create table webhook_breakers (
        endpoint_id uuid primary key,
        state text not null default 'closed' check (state in ('closed', 'open')),
        window_started_at timestamptz not null default now(),
        attempts int not null default 0,
        failures int not null default 0,
        open_until timestamptz,
        backoff_ms int not null default 0,
        probe_until timestamptz,
        updated_at timestamptz not null default now()
      )`);
    this.addSql(`insert into revisions (name) values ('breakers')`);
    this.addSql(`alter table webhook_endpoints add column failing_since timestamptz`);
    // Only deliveries that keep an order have these two; the sequence counts over all of them.
    this.addSql(`alter table webhook_deliveries add column ordering_key text, add column position bigint`);
    this.addSql(`create sequence webhook_delivery_position`);
    this.addSql(
      `create index idx_webhook_deliveries_order on webhook_deliveries (endpoint_id, ordering_key, position)
       where ordering_key is not null and status in ('pending', 'held')`,
    );
    this.addSql(
      `create index idx_webhook_deliveries_waiting on webhook_deliveries (endpoint_id, created_at, id)
       where status in ('pending', 'held')`,
    );
    for (const table of ['webhook_deliveries', 'webhook_attempts'])
      this.addSql(
        `alter table ${table} add column cause text not null default 'schedule'
         check (cause in ('schedule', 'manual', 'recover', 'test'))`,
      );
  }

  override down(): void {
    for (const table of ['webhook_attempts', 'webhook_deliveries'])
      this.addSql(`alter table ${table} drop column cause`);
    this.addSql(`drop index idx_webhook_deliveries_waiting`);
    this.addSql(`drop index idx_webhook_deliveries_order`);
    this.addSql(`drop sequence webhook_delivery_position`);
    this.addSql(`alter table webhook_deliveries drop column ordering_key, drop column position`);
    this.addSql(`alter table webhook_endpoints drop column failing_since`);
    this.addSql(`delete from revisions where name = 'breakers'`);
    this.addSql(`drop table webhook_breakers`);
  }
}
