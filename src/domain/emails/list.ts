import { type RawBuilder, sql } from 'kysely';
import { type EntityManager, iso, isoOrNull } from '../../services/database.ts';

export const EMAIL_STATUSES = ['pending', 'sent', 'failed'] as const;
export type EmailStatus = (typeof EMAIL_STATUSES)[number];

/** An e-mail as an operator sees it; its content is not kept. */
export interface EmailRecord {
  id: string;
  user_id: string | null;
  to: string;
  template: string;
  subject: string;
  status: EmailStatus;
  attempts: number;
  last_error: string | null;
  next_attempt_at: string | null;
  sent_at: string | null;
  created_at: string;
}

export type EmailRow = Omit<EmailRecord, 'to'> & { recipient: string };

export const EMAIL_COLUMNS = sql`id, user_id, recipient, template, subject, status, attempts, last_error, next_attempt_at, sent_at, created_at`;

export const emailRecord = (row: EmailRow): EmailRecord => ({
  id: row.id,
  user_id: row.user_id,
  to: row.recipient,
  template: row.template,
  subject: row.subject,
  status: row.status,
  attempts: row.attempts,
  last_error: row.last_error,
  next_attempt_at: isoOrNull(row.next_attempt_at),
  sent_at: isoOrNull(row.sent_at),
  created_at: iso(row.created_at),
});

export interface EmailFilter {
  status?: EmailStatus | undefined;
  template?: string | undefined;
  userId?: string | undefined;
  /** Exclusive bounds, RFC 3339. */
  createdAfter?: string | undefined;
  createdBefore?: string | undefined;
}

/** Newest first: at most `limit` e-mails older than the e-mail `before`. Ids are UUIDv7, so they sort by age. */
export async function listEmails(
  em: EntityManager,
  filter: EmailFilter,
  limit: number,
  before?: string,
): Promise<EmailRecord[]> {
  const where: RawBuilder<unknown>[] = [sql`true`];
  if (filter.status) where.push(sql`status = ${filter.status}`);
  if (filter.template) where.push(sql`template = ${filter.template}`);
  if (filter.userId) where.push(sql`user_id = ${filter.userId}`);
  if (filter.createdAfter) where.push(sql`created_at > ${new Date(filter.createdAfter)}`);
  if (filter.createdBefore) where.push(sql`created_at < ${new Date(filter.createdBefore)}`);
  if (before) where.push(sql`id < ${before}`);
  const { rows } = await sql<EmailRow>`
    select ${EMAIL_COLUMNS} from emails where ${sql.join(where, sql` and `)} order by id desc limit ${limit}`.execute(
    em.getKysely(),
  );
  return rows.map(emailRecord);
}
