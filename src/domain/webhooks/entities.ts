import { defineEntity, p } from '@mikro-orm/postgresql';

/** The hot tables are written by native SQL; the mapping is for reading them, and for the diagram of the database. */

/** Where a subscriber wants its events. `event_types` empty: all of them. Deleted softly. */
export const WebhookEndpoint = defineEntity({
  name: 'WebhookEndpoint',
  tableName: 'webhook_endpoints',
  properties: {
    id: p.uuid().primary(),
    tenant: p.text().default('default'),
    url: p.text(),
    description: p.text().default(''),
    event_types: p.array().columnType('text[]').default([]),
    channels: p.array().columnType('text[]').default([]),
    headers: p.json<Record<string, string>>().defaultRaw(`'{}'`),
    rate_limit: p.integer().nullable(),
    ordered: p.boolean().default(false),
    timeout_ms: p.integer().default(15_000),
    status: p.enum(['enabled', 'disabled']).default('enabled'),
    disabled_reason: p.text().nullable(),
    signature: p.enum(['v1', 'v1a', 'v1,v1a']).default('v1'),
    hex_signature: p.boolean().default(false),
    metadata: p.json<Record<string, string>>().defaultRaw(`'{}'`),
    version: p.integer().default(1),
    failing_since: p.datetime().nullable(),
    /** Who made it, as `user:<id>` or `api_key:<id>`. */
    created_by: p.text().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
    updated_at: p.datetime().defaultRaw('now()'),
    deleted_at: p.datetime().nullable(),
  },
  indexes: [
    {
      name: 'idx_webhook_endpoints_tenant',
      expression:
        'create index idx_webhook_endpoints_tenant on webhook_endpoints (tenant, created_at desc, id desc) where deleted_at is null',
    },
  ],
});

/** A secret, sealed and bound to its endpoint. `expires_at` null: the current one; otherwise it signs until then. */
export const WebhookSecret = defineEntity({
  name: 'WebhookSecret',
  tableName: 'webhook_secrets',
  properties: {
    id: p.uuid().primary(),
    endpoint: () =>
      p
        .manyToOne(WebhookEndpoint)
        .joinColumn('endpoint_id')
        .deleteRule('cascade')
        .updateRule('no action')
        .foreignKeyName('webhook_secrets_endpoint_id_fkey'),
    scheme: p.enum(['v1', 'v1a']),
    sealed: p.blob(),
    public_key: p.text().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
    expires_at: p.datetime().nullable(),
  },
  indexes: [
    {
      name: 'idx_webhook_secrets_endpoint',
      expression: 'create index idx_webhook_secrets_endpoint on webhook_secrets (endpoint_id, created_at desc)',
    },
  ],
});

/** One event for one endpoint. Without foreign keys: one that succeeds at once is a single insert. */
export const WebhookDelivery = defineEntity({
  name: 'WebhookDelivery',
  tableName: 'webhook_deliveries',
  properties: {
    id: p.uuid().primary(),
    tenant: p.text(),
    endpoint_id: p.uuid(),
    event_id: p.text(),
    event_type: p.text(),
    status: p.enum(['pending', 'delivered', 'failed', 'held']),
    reason: p.text().nullable(),
    attempts: p.integer().default(0),
    generation: p.integer().default(0),
    next_attempt_at: p.datetime().nullable(),
    lease_until: p.datetime().nullable(),
    delivered_at: p.datetime().nullable(),
    correlation_id: p.text().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
    /** Both only where an order is kept; see webhooks/order.ts. */
    ordering_key: p.text().nullable(),
    position: p.bigint('string').nullable(),
    cause: p.enum(['schedule', 'manual', 'recover', 'test']).default('schedule'),
    /** Attempts that were made before its present schedule began. */
    schedule_from: p.integer().default(0),
  },
  uniques: [{ name: 'webhook_deliveries_event_id_endpoint_id_key', properties: ['event_id', 'endpoint_id'] }],
  indexes: [
    {
      name: 'idx_webhook_deliveries_created_at',
      expression:
        'create index idx_webhook_deliveries_created_at on webhook_deliveries (tenant, created_at desc, id desc)',
    },
    {
      name: 'idx_webhook_deliveries_endpoint',
      expression:
        'create index idx_webhook_deliveries_endpoint on webhook_deliveries (endpoint_id, created_at desc, id desc)',
    },
    {
      name: 'idx_webhook_deliveries_due',
      expression: `create index idx_webhook_deliveries_due on webhook_deliveries (next_attempt_at) where status = 'pending'`,
    },
    {
      name: 'idx_webhook_deliveries_overdue',
      expression: `create index idx_webhook_deliveries_overdue on webhook_deliveries (next_attempt_at) where status = 'pending' and reason is distinct from 'endpoint busy'`,
    },
    {
      name: 'idx_webhook_deliveries_unfinished',
      expression: `create index idx_webhook_deliveries_unfinished on webhook_deliveries (status, created_at desc) where status <> 'delivered'`,
    },
    {
      name: 'idx_webhook_deliveries_order',
      expression: `create index idx_webhook_deliveries_order on webhook_deliveries (endpoint_id, ordering_key, position) where ordering_key is not null and status in ('pending', 'held')`,
    },
    {
      name: 'idx_webhook_deliveries_waiting',
      expression: `create index idx_webhook_deliveries_waiting on webhook_deliveries (endpoint_id, created_at, id) where status in ('pending', 'held')`,
    },
    {
      name: 'idx_webhook_deliveries_parked',
      expression: `create index idx_webhook_deliveries_parked on webhook_deliveries (endpoint_id, (cause not in ('manual', 'test')), id) where status = 'pending' and reason = 'endpoint busy'`,
    },
  ],
});

/** One POST of a delivery and what came back. */
export const WebhookAttempt = defineEntity({
  name: 'WebhookAttempt',
  tableName: 'webhook_attempts',
  properties: {
    delivery_id: p.uuid().primary(),
    number: p.integer().primary(),
    id: p.uuid(),
    started_at: p.datetime(),
    duration_ms: p.integer(),
    status_code: p.integer().nullable(),
    error: p.text().nullable(),
    response_body: p.text().nullable(),
    cause: p.enum(['schedule', 'manual', 'recover', 'test']).default('schedule'),
  },
});

/** The breaker of an endpoint that has failed at least once. */
export const WebhookBreaker = defineEntity({
  name: 'WebhookBreaker',
  tableName: 'webhook_breakers',
  properties: {
    endpoint_id: p.uuid().primary(),
    state: p.enum(['closed', 'open']).default('closed'),
    window_started_at: p.datetime().defaultRaw('now()'),
    attempts: p.integer().default(0),
    failures: p.integer().default(0),
    open_until: p.datetime().nullable(),
    backoff_ms: p.integer().default(0),
    probe_until: p.datetime().nullable(),
    /** Until when it asked to be left alone, and for how long that was. */
    paused_until: p.datetime().nullable(),
    pause_ms: p.integer().default(0),
    updated_at: p.datetime().defaultRaw('now()'),
  },
});
