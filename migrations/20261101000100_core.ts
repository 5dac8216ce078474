import { Migration } from '@mikro-orm/migrations';

/** Operations, idempotency keys, outbox, inbox, dead letters, and what the installation knows of itself. */
export class Migration20261101000100_core extends Migration {
  override up(): void {
    this.addSql(`
      create table installation (
        id boolean primary key default true check (id),
        secrets_check text not null,
        created_at timestamptz not null default now()
      )`);
    this.addSql(`
      create table signing_keys (
        kid text primary key,
        algorithm text not null,
        public_jwk jsonb not null,
        sealed_private bytea not null,
        created_at timestamptz not null default now(),
        retired_at timestamptz
      )`);
    this.addSql(`
      create table revisions (
        name text primary key,
        revision bigint not null default 0
      )`);
    this.addSql(`insert into revisions (name) values ('endpoints'), ('sessions'), ('pools')`);
    this.addSql(`
      create table operations (
        id uuid primary key,
        type text not null,
        status text not null check (status in ('running', 'succeeded', 'failed')),
        caller text not null,
        request_id text,
        result jsonb,
        http_status int,
        error jsonb,
        attempts int not null default 0,
        created_at timestamptz not null,
        started_at timestamptz,
        finished_at timestamptz
      )`);
    this.addSql(`create index idx_operations_finished_at on operations (finished_at)`);
    this.addSql(`create index idx_operations_created_at on operations (created_at desc)`);
    this.addSql(`
      create table idempotency_keys (
        scope text not null,
        key text not null,
        fingerprint bytea not null,
        operation_id uuid not null,
        created_at timestamptz not null default now(),
        primary key (scope, key)
      )`);
    this.addSql(`create index idx_idempotency_keys_created_at on idempotency_keys (created_at)`);
    this.addSql(`
      create table outbox (
        id bigint generated always as identity primary key,
        transport text not null check (transport in ('rabbitmq', 'bullmq')),
        target text not null,
        routing_key text not null,
        message_id text not null,
        body text not null,
        created_at timestamptz not null default now(),
        set_aside_at timestamptz,
        error text
      )`);
    this.addSql(`create index idx_outbox_waiting on outbox (transport, id) where set_aside_at is null`);
    this.addSql(`
      create table inbox (
        consumer text not null,
        message_id text not null,
        handled_at timestamptz not null default now(),
        primary key (consumer, message_id)
      )`);
    this.addSql(`create index idx_inbox_handled_at on inbox (handled_at)`);
    this.addSql(`
      create table dead_letters (
        id uuid primary key,
        queue text not null,
        worker text,
        message_type text,
        message_id text,
        correlation_id text,
        reason text not null,
        attempts int not null default 0,
        first_error text,
        last_error text,
        body bytea not null,
        headers jsonb not null default '{}',
        status text not null default 'dead' check (status in ('dead', 'replayed', 'discarded')),
        created_at timestamptz not null default now(),
        resolved_at timestamptz
      )`);
    this.addSql(`create index idx_dead_letters_created_at on dead_letters (created_at desc, id desc)`);
    this.addSql(`create index idx_dead_letters_queue on dead_letters (queue, status)`);
    this.addSql(`create index idx_dead_letters_correlation on dead_letters (correlation_id)`);
  }

  override down(): void {
    for (const table of [
      'dead_letters',
      'inbox',
      'outbox',
      'idempotency_keys',
      'operations',
      'revisions',
      'signing_keys',
      'installation',
    ]) {
      this.addSql(`drop table ${table}`);
    }
  }
}
