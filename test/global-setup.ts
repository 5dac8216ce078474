import { sql } from 'kysely';
import type { TestProject } from 'vitest/node';
import { createDatabaseIfMissing, migrateUp, openDatabase } from '../src/services/database.ts';

declare module 'vitest' {
  interface ProvidedContext {
    databaseUrl: string;
    template: string;
  }
}

const server = process.env.DATABASE_URL || 'postgresql://postgres:postgres@localhost:5432/waybill';

/** One migrated template database per run; every test file clones it. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const template = `wb_template_${process.pid}`;
  const url = new URL(server);
  url.pathname = `/${template}`;
  await createDatabaseIfMissing(url.toString());
  const orm = await openDatabase(url.toString(), { entities: [] });
  await migrateUp(orm);
  await orm.close(true);
  project.provide('databaseUrl', server);
  project.provide('template', template);
  return async () => {
    url.pathname = '/postgres';
    const admin = await openDatabase(url.toString(), { entities: [], poolSize: 1 });
    await sql`drop database if exists ${sql.id(template)} with (force)`.execute(admin.em.fork().getKysely());
    await admin.close(true);
  };
}
