import { defineEntity, p } from '@mikro-orm/postgresql';

/** A row of the log. Partitioned by month of `recorded_at`; written and read by native SQL, described here. */
export const AuditEvent = defineEntity({
  name: 'AuditEvent',
  tableName: 'audit_events',
  properties: {
    id: p.uuid().primary(),
    recorded_at: p.datetime(3).primary(),
    checkpoint: p.bigint(),
    leaf_index: p.integer(),
    leaf: p.blob(),
    occurred_at: p.datetime(3),
    action: p.text(),
    actor_type: p.text(),
    actor_id: p.text().nullable(),
    targets: p.json(),
    subject: p.uuid().nullable(),
    tenant: p.text().nullable(),
    request_id: p.text().nullable(),
    operation_id: p.text().nullable(),
    metadata: p.json().columnType('json'),
    personal: p.json(),
    outcome: p.text(),
  },
  indexes: [
    { name: 'audit_events_occurred_index', properties: ['occurred_at', 'id'] },
    { name: 'audit_events_actor_index', properties: ['actor_id', 'occurred_at', 'id'] },
    { name: 'audit_events_action_index', properties: ['action', 'occurred_at', 'id'] },
    { name: 'audit_events_operation_index', properties: ['operation_id', 'occurred_at', 'id'] },
    {
      name: 'audit_events_targets_index',
      expression: 'create index "audit_events_targets_index" on "audit_events" using gin ("targets" jsonb_path_ops)',
    },
    {
      name: 'audit_events_position_unique',
      expression:
        'create unique index "audit_events_position_unique" on "audit_events" ("checkpoint", "leaf_index", "recorded_at")',
    },
  ],
});

/** One sealed batch: the Merkle root of its rows, chained to the checkpoint before it and signed. */
export const AuditCheckpoint = defineEntity({
  name: 'AuditCheckpoint',
  tableName: 'audit_checkpoints',
  properties: {
    n: p.bigint().primary().autoincrement(false),
    size: p.integer(),
    root: p.blob(),
    previous_hash: p.blob(),
    hash: p.blob(),
    kid: p.text(),
    signature: p.blob(),
    created_at: p.datetime(3),
  },
});

/** An Ed25519 key that signs checkpoints; its private half is sealed. */
export const AuditKey = defineEntity({
  name: 'AuditKey',
  tableName: 'audit_keys',
  properties: {
    kid: p.text().primary(),
    public_key: p.text(),
    sealed_private: p.blob(),
    created_at: p.datetime(3),
  },
});

/** The data key of one person's fields. Destroying `wrapped` erases the person from the log. */
export const AuditSubjectKey = defineEntity({
  name: 'AuditSubjectKey',
  tableName: 'audit_subject_keys',
  properties: {
    subject: p.uuid().primary(),
    wrapped: p.blob().nullable(),
    kid: p.text().nullable().index('audit_subject_keys_kid_index'),
    created_at: p.datetime(3),
    destroyed_at: p.datetime(3).nullable(),
  },
});

/** A verification of a large log that is under way; gone when it is finished. */
export const AuditVerification = defineEntity({
  name: 'AuditVerification',
  tableName: 'audit_verifications',
  properties: {
    operation_id: p.uuid().primary(),
    /** `user:<id>` or `api_key:<id>`. */
    caller: p.text(),
    sealed_position: p.blob().nullable(),
    updated_at: p.datetime().defaultRaw('now()'),
  },
  indexes: [
    { name: 'idx_audit_verifications_caller', properties: ['caller'] },
    { name: 'idx_audit_verifications_updated_at', properties: ['updated_at'] },
  ],
});
