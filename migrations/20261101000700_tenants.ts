import { Migration } from '@mikro-orm/migrations';

/** API keys and the tenants' own event types; channels of events and endpoints. */
export class Migration20261101000700_tenants extends Migration {
  override up(): void {
    this.addSql(`
      create table api_keys (
        id uuid primary key,
        tenant text not null,
        name text not null,
        prefix text not null,
        key_hash bytea not null unique,
        scopes text[] not null,
        created_by text not null,
        expires_at timestamptz,
        last_used_at timestamptz,
        revoked_at timestamptz,
        created_at timestamptz not null default now()
      )`);
    this.addSql(`create index idx_api_keys_created_at on api_keys (created_at desc, id desc) where revoked_at is null`);
    this.addSql(`
      create table event_types (
        tenant text not null,
        name text not null,
        version int not null,
        description text not null,
        schema json not null,
        example json,
        deprecated boolean not null default false,
        created_at timestamptz not null default now(),
        primary key (tenant, name, version)
      )`);
    this.addSql(`alter table events add column channels text[] not null default '{}'`);
    this.addSql(`alter table webhook_endpoints add column channels text[] not null default '{}'`);
    this.addSql(`insert into revisions (name) values ('api_keys'), ('event_types')`);
  }

  override down(): void {
    this.addSql(`delete from revisions where name in ('api_keys', 'event_types')`);
    this.addSql(`alter table webhook_endpoints drop column channels`);
    this.addSql(`alter table events drop column channels`);
    this.addSql(`drop table event_types`);
    this.addSql(`drop table api_keys`);
  }
}
