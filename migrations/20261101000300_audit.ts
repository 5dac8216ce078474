import { Migration } from '@mikro-orm/migrations';

/**
 * The sealed audit log. Rows and checkpoints can only be added: triggers refuse the rest, for superusers and in
 * replica mode too (`enable always`). Old rows leave by dropping a monthly partition; checkpoints stay.
 */
export class Migration20261101000300_audit extends Migration {
  override up(): void {
    this.addSql(`
      create table audit_keys (
        kid text primary key,
        public_key text not null,
        sealed_private bytea not null,
        created_at timestamptz(3) not null
      )`);
    this.addSql(`
      create table audit_subject_keys (
        subject uuid primary key,
        wrapped bytea null,
        kid text null,
        created_at timestamptz(3) not null,
        destroyed_at timestamptz(3) null
      )`);
    this.addSql(`create index audit_subject_keys_kid_index on audit_subject_keys (kid)`);
    this.addSql(`
      create table audit_checkpoints (
        n bigint primary key,
        size int not null,
        root bytea not null,
        previous_hash bytea not null,
        hash bytea not null,
        kid text not null,
        signature bytea not null,
        created_at timestamptz(3) not null
      )`);
    // A key over id alone is impossible on a partitioned table; the sealer, the only writer, sees to it under its lock.
    this.addSql(`
      create table audit_events (
        id uuid not null,
        recorded_at timestamptz(3) not null,
        checkpoint bigint not null,
        leaf_index int not null,
        leaf bytea not null,
        occurred_at timestamptz(3) not null,
        action text not null,
        actor_type text not null,
        actor_id text null,
        targets jsonb not null,
        subject uuid null,
        tenant text null,
        request_id text null,
        operation_id text null,
        metadata json not null,
        personal jsonb not null,
        outcome text not null,
        constraint audit_events_pkey primary key (id, recorded_at)
      ) partition by range (recorded_at)`);
    this.addSql(
      `create unique index audit_events_position_unique on audit_events (checkpoint, leaf_index, recorded_at)`,
    );
    this.addSql(`create index audit_events_occurred_index on audit_events (occurred_at, id)`);
    this.addSql(`create index audit_events_actor_index on audit_events (actor_id, occurred_at, id)`);
    this.addSql(`create index audit_events_action_index on audit_events (action, occurred_at, id)`);
    this.addSql(`create index audit_events_operation_index on audit_events (operation_id, occurred_at, id)`);
    this.addSql(`create index audit_events_targets_index on audit_events using gin (targets jsonb_path_ops)`);

    this.addSql(`
      create function audit_refuse_change() returns trigger language plpgsql as $$
      begin
        raise exception '% on % refused: the audit log can only be added to', tg_op, tg_table_name
          using errcode = 'insufficient_privilege',
                hint = 'Retention drops whole monthly partitions of audit_events.';
      end $$`);
    // Row triggers reach every partition by themselves. Statement triggers do not, and a detached partition loses the
    // row triggers: so each partition also gets its own.
    this.addSql(`
      create function audit_guard_table(target regclass) returns void language plpgsql as $$
      begin
        execute format('create trigger audit_refuse_statement before update or delete or truncate on %s
          for each statement execute function audit_refuse_change()', target);
        execute format('alter table %s enable always trigger audit_refuse_statement', target);
      end $$`);
    for (const table of ['audit_events', 'audit_checkpoints']) {
      this.addSql(`
        create trigger audit_refuse_row before update or delete on ${table}
        for each row execute function audit_refuse_change()`);
      this.addSql(`alter table ${table} enable always trigger audit_refuse_row`);
      this.addSql(`select audit_guard_table('${table}')`);
    }

    this.addSql(`create table audit_events_default partition of audit_events default`);
    this.addSql(`select audit_guard_table('audit_events_default')`);
    // Gives up after 100 ms rather than wait behind a long reader of the default partition, a dump for one: the row
    // then lands in the default partition. A month that has rows there stays there.
    this.addSql(`
      create function audit_ensure_partition(at timestamptz) returns boolean language plpgsql
      set lock_timeout = '100ms' set timezone = 'UTC' as $$
      declare
        first timestamptz := date_trunc('month', at);
        name text := 'audit_events_' || to_char(first, 'YYYY_MM');
      begin
        if to_regclass(name) is not null then return true; end if;
        if exists (select from audit_events_default
                   where recorded_at >= first and recorded_at < first + interval '1 month') then
          return false;
        end if;
        execute format('create table %I (like audit_events including defaults including constraints)', name);
        execute format('alter table audit_events attach partition %I for values from (%L) to (%L)',
          name, first, first + interval '1 month');
        perform audit_guard_table(name::regclass);
        return true;
      exception when lock_not_available then
        return false;
      end $$`);
    this.addSql(`select audit_ensure_partition(now()), audit_ensure_partition(now() + interval '1 month')`);
  }

  override down(): void {
    this.addSql(`drop table audit_events`);
    this.addSql(`drop table audit_checkpoints`);
    this.addSql(`drop table audit_subject_keys`);
    this.addSql(`drop table audit_keys`);
    this.addSql(`drop function audit_ensure_partition(timestamptz)`);
    this.addSql(`drop function audit_guard_table(regclass)`);
    this.addSql(`drop function audit_refuse_change()`);
  }
}
