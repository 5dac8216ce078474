import { defineEntity, p } from '@mikro-orm/postgresql';

/** An e-mail from the moment it is owed. `sealed_data` holds its variables until it was sent. Written by native SQL. */
export const Email = defineEntity({
  name: 'Email',
  tableName: 'emails',
  properties: {
    id: p.uuid().primary(),
    user_id: p.uuid().nullable().index('idx_emails_user'),
    recipient: p.text(),
    template: p.text(),
    subject: p.text(),
    sealed_data: p.text().nullable(),
    status: p.enum(['pending', 'sent', 'failed']).default('pending'),
    attempts: p.integer().default(0),
    generation: p.integer().default(0),
    next_attempt_at: p.datetime().nullable(),
    lease_until: p.datetime().nullable(),
    last_error: p.text().nullable(),
    message_id: p.text(),
    correlation_id: p.text().nullable().index('idx_emails_correlation'),
    sent_at: p.datetime().nullable(),
    created_at: p.datetime().defaultRaw('now()'),
  },
  indexes: [
    {
      name: 'idx_emails_created_at',
      expression: 'create index idx_emails_created_at on emails (created_at desc, id desc)',
    },
    {
      name: 'idx_emails_due',
      expression: `create index idx_emails_due on emails (next_attempt_at) where status = 'pending'`,
    },
  ],
});
