import { defineEntity, p } from '@mikro-orm/postgresql';

/** What operators set of a pool while it runs. Written by native SQL. */
export const PoolSetting = defineEntity({
  name: 'PoolSetting',
  tableName: 'pool_settings',
  properties: {
    pool: p.text().primary(),
    concurrency: p.integer().nullable(),
    paused: p.boolean().default(false),
    updated_at: p.datetime().defaultRaw('now()'),
    updated_by: p.text(),
  },
  checks: [{ name: 'pool_settings_concurrency_check', expression: 'concurrency > 0' }],
});
