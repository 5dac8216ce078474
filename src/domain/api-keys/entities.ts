import { defineEntity, p } from '@mikro-orm/postgresql';

/** A machine client's key, as a hash. A revoked one stays, so that the audit log's ids still mean something. */
export const ApiKey = defineEntity({
  name: 'ApiKey',
  tableName: 'api_keys',
  properties: {
    id: p.uuid().primary(),
    tenant: p.text(),
    name: p.text(),
    prefix: p.text(),
    key_hash: p.blob().unique('api_keys_key_hash_key'),
    scopes: p.array().columnType('text[]'),
    created_by: p.text(),
    expires_at: p.datetime().nullable(),
    last_used_at: p.datetime().nullable(),
    revoked_at: p.datetime().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
  },
  indexes: [
    {
      name: 'idx_api_keys_created_at',
      expression:
        'create index idx_api_keys_created_at on api_keys (created_at desc, id desc) where revoked_at is null',
    },
  ],
});
