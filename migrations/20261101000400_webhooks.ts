import { Migration } from '@mikro-orm/migrations';

/**
 * Events, endpoints, deliveries and attempts. The hot tables carry no foreign keys: a delivery that succeeds at once
 * is one insert and is never touched again.
 */
export class Migration20261101000400_webhooks extends Migration {
  override up(): void {
    this.addSql(`
      create table events (
        tenant text not null default 'default',
        id text not null,
        type text not null,
        source text not null,
        subject text,
        payload text not null,
        time timestamptz not null,
        sequence int,
        ordering_key text,
        correlation_id text,
        actor text,
        created_at timestamptz not null default now(),
        primary key (tenant, id)
      )`);
    this.addSql(`create index idx_events_created_at on events (tenant, created_at desc, id desc)`);
    this.addSql(`create index idx_events_correlation on events (correlation_id)`);
    this.addSql(`create index idx_events_purge on events (created_at)`);
    this.addSql(`
      create table webhook_endpoints (
        id uuid primary key,
        tenant text not null default 'default',
        url text not null,
        description text not null default '',
        event_types text[] not null default '{}',
        headers jsonb not null default '{}',
        rate_limit int,
        ordered boolean not null default false,
        timeout_ms int not null default 15000,
        status text not null default 'enabled' check (status in ('enabled', 'disabled')),
        disabled_reason text,
        signature text not null default 'v1' check (signature in ('v1', 'v1a', 'v1,v1a')),
        hex_signature boolean not null default false,
        metadata jsonb not null default '{}',
        version int not null default 1,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        deleted_at timestamptz
      )`);
    this.addSql(
      `create index idx_webhook_endpoints_tenant on webhook_endpoints (tenant, created_at desc, id desc) where deleted_at is null`,
    );
    this.addSql(`
      create table webhook_secrets (
        id uuid primary key,
        endpoint_id uuid not null references webhook_endpoints (id) on delete cascade,
        scheme text not null check (scheme in ('v1', 'v1a')),
        sealed bytea not null,
        public_key text,
        created_at timestamptz not null default now(),
        expires_at timestamptz
      )`);
    this.addSql(`create index idx_webhook_secrets_endpoint on webhook_secrets (endpoint_id, created_at desc)`);
    this.addSql(`
      create table webhook_deliveries (
        id uuid primary key,
        tenant text not null,
        endpoint_id uuid not null,
        event_id text not null,
        event_type text not null,
        status text not null check (status in ('pending', 'delivered', 'failed', 'held')),
        reason text,
        attempts int not null default 0,
        generation int not null default 0,
        next_attempt_at timestamptz,
        lease_until timestamptz,
        delivered_at timestamptz,
        correlation_id text,
        created_at timestamptz not null default now(),
        unique (endpoint_id, event_id)
      )`);
    this.addSql(
      `create index idx_webhook_deliveries_created_at on webhook_deliveries (tenant, created_at desc, id desc)`,
    );
    this.addSql(`create index idx_webhook_deliveries_event on webhook_deliveries (event_id)`);
    this.addSql(
      `create index idx_webhook_deliveries_endpoint on webhook_deliveries (endpoint_id, created_at desc, id desc)`,
    );
    this.addSql(
      `create index idx_webhook_deliveries_due on webhook_deliveries (next_attempt_at) where status = 'pending'`,
    );
    this.addSql(
      `create index idx_webhook_deliveries_unfinished on webhook_deliveries (status, created_at desc) where status <> 'delivered'`,
    );
    this.addSql(`create index idx_webhook_deliveries_purge on webhook_deliveries (created_at)`);
    this.addSql(`
      create table webhook_attempts (
        id uuid primary key,
        delivery_id uuid not null,
        number int not null,
        started_at timestamptz not null,
        duration_ms int not null,
        status_code int,
        error text,
        response_body text,
        unique (delivery_id, number)
      )`);
    this.addSql(`create index idx_webhook_attempts_purge on webhook_attempts (started_at)`);
  }

  override down(): void {
    for (const table of ['webhook_attempts', 'webhook_deliveries', 'webhook_secrets', 'webhook_endpoints', 'events'])
      this.addSql(`drop table ${table}`);
  }
}
