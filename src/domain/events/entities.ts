import { defineEntity, p } from '@mikro-orm/postgresql';

/** An event as the fan-out stored it. `payload` is the exact body that is signed and sent. Written by native SQL. */
export const StoredEvent = defineEntity({
  name: 'StoredEvent',
  tableName: 'events',
  properties: {
    tenant: p.text().primary().default('default'),
    id: p.text().primary(),
    type: p.text(),
    source: p.text(),
    subject: p.text().nullable(),
    payload: p.text(),
    time: p.datetime(),
    sequence: p.integer().nullable(),
    ordering_key: p.text().nullable(),
    channels: p.array().columnType('text[]').default([]),
    correlation_id: p.text().nullable().index('idx_events_correlation'),
    actor: p.text().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
  },
  indexes: [
    {
      name: 'idx_events_created_at',
      expression: 'create index idx_events_created_at on events (tenant, created_at desc, id desc)',
    },
  ],
});

/** A tenant's own type of event, one row per version of it; the newest counts. The built-in ones are in the code. */
export const EventTypeVersion = defineEntity({
  name: 'EventTypeVersion',
  tableName: 'event_types',
  properties: {
    tenant: p.text().primary(),
    name: p.text().primary(),
    version: p.integer().primary(),
    description: p.text(),
    schema: p.json<Record<string, unknown>>().columnType('json'),
    example: p.json<Record<string, unknown>>().columnType('json').nullable(),
    deprecated: p.boolean().default(false),
    created_at: p.datetime().defaultRaw('now()'),
  },
});
