import canonicalize from 'canonicalize';
import { type RawBuilder, sql } from 'kysely';
import { leafHash } from './merkle.ts';
import { type AuditRecord, isPersonal } from './record.ts';
import { type AuditKeys, decrypt, encrypt, pseudonym } from './sealing.ts';
import type { SubjectKey } from './subject-keys.ts';

export interface Reference {
  type: string;
  id: string;
}

/** What the leaf covers: the row as stored, without its place in the log. Times are RFC 3339 UTC with milliseconds. */
export interface StoredRow {
  id: string;
  occurred_at: string;
  action: string;
  actor_type: string;
  actor_id: string | null;
  targets: Reference[];
  subject: string | null;
  tenant: string | null;
  request_id: string | null;
  operation_id: string | null;
  metadata: Record<string, string | number | boolean>;
  /** By field (`context.ip`, `metadata.email`): base64 ciphertext, `hmac:…` without a subject, or `erased`. */
  personal: Record<string, string>;
  outcome: string;
}

export const ERASED = '[erased]';
export const UNREADABLE = '[unreadable]';
const NEVER_KEPT = 'erased';

/** RFC 8785. */
export function canonical(value: unknown): string {
  const text = canonicalize(value);
  if (text === undefined) throw new TypeError('has no JSON form');
  return text;
}

/** `SHA256(0x00 ‖ canonical JSON of the row)`. */
export const leafOf = (row: StoredRow): Buffer => leafHash(canonical(row));

const fieldAad = (id: string, field: string) => `${id} ${field}`;

/** The row a record becomes: personal fields encrypted under the subject's key, without a subject kept as HMACs. */
export function rowOf(
  record: AuditRecord,
  subject: string | null,
  subjectKey: SubjectKey | undefined,
  keys: AuditKeys,
): StoredRow {
  const personal: Record<string, string> = {};
  const keep = (field: string, value: string | number | boolean) => {
    if (subjectKey === undefined) personal[field] = pseudonym(keys, field, String(value));
    else if (typeof subjectKey === 'string') personal[field] = NEVER_KEPT;
    else {
      const sealed = encrypt(subjectKey, Buffer.from(JSON.stringify(value)), fieldAad(record.id, field));
      personal[field] = sealed.toString('base64');
    }
  };
  const { ip, user_agent, request_id, operation_id } = record.context;
  if (ip) keep('context.ip', ip);
  if (user_agent) keep('context.user_agent', user_agent);
  const metadata: StoredRow['metadata'] = {};
  for (const [key, value] of Object.entries(record.metadata)) {
    if (isPersonal(key)) keep(`metadata.${key}`, value);
    else metadata[key] = value;
  }
  return {
    id: record.id,
    occurred_at: new Date(record.occurred_at).toISOString(),
    action: record.action,
    actor_type: record.actor.type,
    actor_id: record.actor.id,
    targets: record.targets,
    subject,
    tenant: record.tenant ?? null,
    request_id: request_id ?? null,
    operation_id: operation_id ?? null,
    metadata,
    personal,
    outcome: record.outcome,
  };
}

/** A personal field in the clear; `[erased]` once the key is destroyed, `[unreadable]` when it cannot be opened. */
export function readField(
  row: Pick<StoredRow, 'id' | 'subject' | 'personal'>,
  field: string,
  subjectKey: SubjectKey | undefined,
): string | number | boolean | null {
  const stored = row.personal[field];
  if (stored === undefined) return null;
  if (row.subject === null) return stored;
  if (stored === NEVER_KEPT || subjectKey === 'destroyed') return ERASED;
  if (subjectKey === undefined || subjectKey === 'unreadable') return UNREADABLE;
  try {
    return JSON.parse(decrypt(subjectKey, Buffer.from(stored, 'base64'), fieldAad(row.id, field)).toString());
  } catch {
    return UNREADABLE;
  }
}

/** A row as `select ${rowColumns}` gives it, JSON as text so that no parser on the way can hide a change. */
export interface RawRow {
  id: string;
  checkpoint: string;
  leaf_index: number;
  leaf: Buffer;
  recorded_at: string;
  occurred_at: string;
  action: string;
  actor_type: string;
  actor_id: string | null;
  targets: string;
  subject: string | null;
  tenant: string | null;
  request_id: string | null;
  operation_id: string | null;
  metadata: string;
  personal: string;
  outcome: string;
}

/** A timestamptz(3) column as RFC 3339 UTC. */
export function rfc3339(column: string): RawBuilder<string> {
  return sql`to_char(${sql.ref(column)} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
}

export const rowColumns = sql`
  id::text, checkpoint::text, leaf_index, leaf, ${rfc3339('recorded_at')} as recorded_at,
  ${rfc3339('occurred_at')} as occurred_at, action, actor_type, actor_id, targets::text, subject::text, tenant,
  request_id, operation_id, metadata::text, personal::text, outcome`;

/** The row behind what was read. Throws SyntaxError or TypeError when a JSON column holds what was never written. */
export function parseRow(raw: RawRow): StoredRow {
  const metadata = JSON.parse(raw.metadata);
  // 5.0000000000000000001 parses as 5: only the text written counts.
  if (canonical(metadata) !== raw.metadata) throw new TypeError('metadata is not in the form it was written in');
  return {
    id: raw.id,
    occurred_at: raw.occurred_at,
    action: raw.action,
    actor_type: raw.actor_type,
    actor_id: raw.actor_id,
    targets: JSON.parse(raw.targets),
    subject: raw.subject,
    tenant: raw.tenant,
    request_id: raw.request_id,
    operation_id: raw.operation_id,
    metadata,
    personal: JSON.parse(raw.personal),
    outcome: raw.outcome,
  };
}

/** The leaf that the row's content has now, or undefined when it has none. */
export function leafNow(raw: RawRow): Buffer | undefined {
  try {
    return leafOf(parseRow(raw));
  } catch {
    return undefined;
  }
}
