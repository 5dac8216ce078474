import type { EntityManager } from '@mikro-orm/postgresql';
import { type AuditEntry, type AuditFilter, list } from './list.ts';
import type { AuditKeys } from './sealing.ts';

export type ExportFormat = 'ndjson' | 'csv';

const COLUMNS: [name: string, pick: (entry: AuditEntry) => unknown][] = [
  ['id', (entry) => entry.id],
  ['occurred_at', (entry) => entry.occurred_at],
  ['recorded_at', (entry) => entry.recorded_at],
  ['action', (entry) => entry.action],
  ['outcome', (entry) => entry.outcome],
  ['actor_type', (entry) => entry.actor.type],
  ['actor_id', (entry) => entry.actor.id],
  ['targets', (entry) => JSON.stringify(entry.targets)],
  ['ip', (entry) => entry.context.ip],
  ['user_agent', (entry) => entry.context.user_agent],
  ['request_id', (entry) => entry.context.request_id],
  ['operation_id', (entry) => entry.context.operation_id],
  ['metadata', (entry) => JSON.stringify(entry.metadata)],
  ['tenant', (entry) => entry.tenant],
  ['checkpoint', (entry) => entry.checkpoint],
  ['leaf_index', (entry) => entry.leaf_index],
];

/** RFC 4180; a text that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV injection). */
export function csvCell(value: unknown): string {
  if (value === null || value === undefined) return '';
  const text = String(value);
  const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const csvLine = (cells: unknown[]) => `${cells.map(csvCell).join(',')}\r\n`;

/** The rows that match, newest first, a page in memory at a time. `limit` is of no effect; `cursor` continues a list. */
export async function* exportRows(em: EntityManager, filter: AuditFilter, keys: AuditKeys): AsyncGenerator<AuditEntry> {
  let cursor = filter.cursor;
  do {
    const { rows, next_cursor } = await list(em, { ...filter, limit: 1000, cursor }, keys);
    yield* rows;
    cursor = next_cursor ?? undefined;
  } while (cursor);
}

/** `exportRows` as text, line by line: NDJSON, or CSV (RFC 4180) with a header. */
export async function* exportText(
  em: EntityManager,
  filter: AuditFilter,
  keys: AuditKeys,
  format: ExportFormat,
): AsyncGenerator<string> {
  if (format === 'csv') yield csvLine(COLUMNS.map(([name]) => name));
  for await (const entry of exportRows(em, filter, keys)) {
    yield format === 'csv' ? csvLine(COLUMNS.map(([, pick]) => pick(entry))) : `${JSON.stringify(entry)}\n`;
  }
}
