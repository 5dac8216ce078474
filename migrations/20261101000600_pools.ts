import { Migration } from '@mikro-orm/migrations';

/** What operators set of a pool while it runs; a pool without a row is as its processes were started. */
export class Migration20261101000600_pools extends Migration {
  override up(): void {
    this.addSql(`
      create table pool_settings (
        pool text primary key,
        concurrency int check (concurrency > 0),
        paused boolean not null default false,
        updated_at timestamptz not null default now(),
        updated_by text not null
      )`);
    // Discarding and replaying look for the other letters of the same message.
    this.addSql(`create index idx_dead_letters_message on dead_letters (message_id)`);
  }

  override down(): void {
    this.addSql(`drop index idx_dead_letters_message`);
    this.addSql(`drop table pool_settings`);
  }
}
