import { defineEntity, p } from '@mikro-orm/postgresql';

/** A message that could not be handled, as it was. Written by native SQL. */
export const DeadLetter = defineEntity({
  name: 'DeadLetter',
  tableName: 'dead_letters',
  properties: {
    id: p.uuid().primary(),
    queue: p.text(),
    worker: p.text().nullable(),
    message_type: p.text().nullable(),
    message_id: p.text().nullable().index('idx_dead_letters_message'),
    correlation_id: p.text().nullable().index('idx_dead_letters_correlation'),
    reason: p.text(),
    attempts: p.integer().default(0),
    first_error: p.text().nullable(),
    last_error: p.text().nullable(),
    body: p.blob(),
    headers: p.json<Record<string, unknown>>().defaultRaw(`'{}'`),
    status: p.enum(['dead', 'replayed', 'discarded']).default('dead'),
    created_at: p.datetime().defaultRaw('now()'),
    resolved_at: p.datetime().nullable(),
  },
  indexes: [
    {
      name: 'idx_dead_letters_created_at',
      expression: 'create index idx_dead_letters_created_at on dead_letters (created_at desc, id desc)',
    },
    { name: 'idx_dead_letters_queue', properties: ['queue', 'status'] },
  ],
});
