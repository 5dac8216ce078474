import { z } from 'zod';

/** PostgreSQL holds no U+0000, and RFC 8785 has no form for a lone surrogate. */
const storable = (value: string) => value.isWellFormed() && !value.includes('\0');
const text = (max: number) => z.string().min(1).max(max).refine(storable, 'contains U+0000 or a lone surrogate');

/** What a stranger sends is cut to fit, never refused: otherwise a long header would keep a row out of the log. */
const cut = (max: number) => z.string().transform((value) => value.replaceAll('\0', '').slice(0, max).toWellFormed());

/** PostgreSQL and `Date` agree on these years. */
const inRange = (value: string) => Date.parse(value) >= 0 && Date.parse(value) < Date.UTC(9999, 0);

const uuid = z.uuid().toLowerCase();
const reference = z.strictObject({ type: text(64), id: text(255) });
const metadataValue = z.union([
  z.string().max(500).refine(storable, 'contains U+0000 or a lone surrogate'),
  z.int(),
  z.boolean(),
]);

/**
 * The message that becomes one row of the audit log. `id` is the message's id: a second record of the same id is
 * dropped, whatever it says. `subject` is the person whose key encrypts the personal fields; when it is absent and
 * the actor is a user, the actor. Actor and target ids stay readable for ever: they must be pseudonyms (UUIDs).
 */
export const auditRecord = z.strictObject({
  id: uuid,
  occurred_at: z.iso.datetime({ offset: true }).refine(inRange, 'outside the years 1970 to 9998'),
  action: text(100).regex(/^[a-z0-9_]+(\.[a-z0-9_]+)+$/),
  actor: z.strictObject({
    type: z.enum(['user', 'api_key', 'system', 'anonymous']),
    id: text(255).nullable(),
  }),
  targets: z.array(reference).max(10).default([]),
  context: z
    .strictObject({
      ip: cut(64).optional(),
      user_agent: cut(512).optional(),
      request_id: text(255).optional(),
      operation_id: text(255).optional(),
    })
    .default({}),
  metadata: z
    .record(z.string().regex(/^[A-Za-z0-9][\w.-]{0,39}$/), metadataValue)
    .refine((value) => Object.keys(value).length <= 50, 'more than 50 keys')
    .default({}),
  outcome: z.enum(['success', 'failure', 'denied']),
  subject: uuid.optional(),
  tenant: text(255).optional(),
});

export type AuditRecord = z.output<typeof auditRecord>;
export type AuditRecordInput = z.input<typeof auditRecord>;

const PERSONAL_KEYS = [
  'email',
  'full_name',
  'first_name',
  'last_name',
  'given_name',
  'family_name',
  'address',
  'ip',
  'phone',
  'phone_number',
  'date_of_birth',
  'birth_date',
  'document_number',
  'user_agent',
  'avatar_url',
];

/** Whether a metadata key holds personal data: one of the list, alone or after a prefix (`email`, `previous_email`). */
export function isPersonal(key: string): boolean {
  const name = key.toLowerCase();
  return PERSONAL_KEYS.some((personal) => name === personal || name.endsWith(`_${personal}`));
}

/** The person a record is about, or null when nobody known is. */
export function subjectOf(record: AuditRecord): string | null {
  if (record.subject) return record.subject;
  if (record.actor.type !== 'user') return null;
  const actor = uuid.safeParse(record.actor.id);
  return actor.success ? actor.data : null;
}
