import { defineEntity, p } from '@mikro-orm/postgresql';

/** What became of one command; its row is the command's inbox too. */
export const Operation = defineEntity({
  name: 'Operation',
  tableName: 'operations',
  properties: {
    id: p.uuid().primary(),
    type: p.text(),
    status: p.enum(['running', 'succeeded', 'failed']),
    caller: p.text(),
    request_id: p.text().nullable(),
    result: p.json<unknown>().nullable(),
    http_status: p.integer().nullable(),
    error: p.json<Record<string, unknown>>().nullable(),
    attempts: p.integer().default(0),
    created_at: p.datetime(),
    started_at: p.datetime().nullable(),
    finished_at: p.datetime().nullable().index('idx_operations_finished_at'),
  },
  indexes: [
    {
      name: 'idx_operations_created_at',
      expression: 'create index idx_operations_created_at on operations (created_at desc)',
    },
  ],
});

/** The operation that an idempotency key stands for. */
export const IdempotencyKey = defineEntity({
  name: 'IdempotencyKey',
  tableName: 'idempotency_keys',
  properties: {
    scope: p.text().primary(),
    key: p.text().primary(),
    fingerprint: p.blob(),
    operation_id: p.uuid(),
    created_at: p.datetime().defaultRaw('now()').index('idx_idempotency_keys_created_at'),
    repeats: p.integer().default(0),
    kid: p.text().nullable(),
  },
});

/** A message that waits for its publication, written with the change that it tells of. */
export const OutboxMessage = defineEntity({
  name: 'OutboxMessage',
  tableName: 'outbox',
  properties: {
    id: p.bigint().primary().generated('identity'),
    transport: p.enum(['rabbitmq', 'bullmq']),
    target: p.text(),
    routing_key: p.text(),
    message_id: p.text(),
    body: p.text(),
    created_at: p.datetime().defaultRaw('now()'),
    set_aside_at: p.datetime().nullable(),
    error: p.text().nullable(),
  },
  indexes: [
    {
      name: 'idx_outbox_waiting',
      expression: 'create index idx_outbox_waiting on outbox (transport, id) where set_aside_at is null',
    },
  ],
});

/** That a consumer has handled an event. */
export const InboxMessage = defineEntity({
  name: 'InboxMessage',
  tableName: 'inbox',
  properties: {
    consumer: p.text().primary(),
    message_id: p.text().primary(),
    handled_at: p.datetime().defaultRaw('now()').index('idx_inbox_handled_at'),
  },
});

/** Counts up with every change of what processes keep in memory. */
export const Revision = defineEntity({
  name: 'Revision',
  tableName: 'revisions',
  properties: { name: p.text().primary(), revision: p.bigint().defaultRaw('0') },
});

/** What the installation knows of itself: one row, with a check of SECRETS_KEY. */
export const Installation = defineEntity({
  name: 'Installation',
  tableName: 'installation',
  properties: {
    id: p.boolean().primary().default(true),
    secrets_check: p.text(),
    created_at: p.datetime().defaultRaw('now()'),
  },
  checks: [{ name: 'installation_id_check', expression: 'id' }],
});
