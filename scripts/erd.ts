/**
 * Draws the diagrams in docs/database.md from the entities: `node scripts/erd.ts` writes them between the two markers,
 * `node scripts/erd.ts --check` only compares and exits 1 when the page is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type EntityMetadata, MikroORM } from '@mikro-orm/postgresql';
import { entities } from '../src/domain/entities.ts';
import { between } from './generated.ts';

export const PAGE = join(import.meta.dirname, '../docs/database.md');
const MARKERS = ['<!-- erd:begin (node scripts/erd.ts) -->', '<!-- erd:end -->'] as const;

/** The diagrams, in the order of the page. Every table belongs to one. */
const AREAS: [title: string, tables: RegExp][] = [
  ['Accounts and sessions', /^(users?|sessions?|signin|signing|api)(_|$)/],
  ['E-mail', /^emails$/],
  ['Identity checks', /^kyc_/],
  ['Events and webhooks', /^(events?|webhook)(_|$)/],
  ['Audit log', /^audit_/],
  ['Operations and messages', /^(operations|idempotency_keys|outbox|inbox|dead_letters)$/],
  ['The installation', /^(installation|revisions|pool_.*)$/],
];

/** References that the mapping does not know: `table.column` → table. Drawn dashed; few of them are foreign keys. */
export const REFERENCES: Record<string, string> = {
  'kyc_attempts.previous_id': 'kyc_attempts',
  'kyc_callbacks.attempt_id': 'kyc_attempts',
  'emails.user_id': 'users',
  'webhook_deliveries.endpoint_id': 'webhook_endpoints',
  'webhook_deliveries.event_id': 'events',
  'webhook_attempts.delivery_id': 'webhook_deliveries',
  'audit_events.checkpoint': 'audit_checkpoints',
  'audit_events.subject': 'audit_subject_keys',
  'audit_checkpoints.kid': 'audit_keys',
  'idempotency_keys.operation_id': 'operations',
};

/** The entities' metadata, sorted by table. Nothing connects. */
export async function tables(): Promise<EntityMetadata[]> {
  const orm = await MikroORM.init({ entities, dbName: 'none', logger: () => undefined });
  const all = [...orm.getMetadata().getAll().values()];
  await orm.close(true);
  return all.sort((a, b) => a.tableName.localeCompare(b.tableName));
}

function diagram(area: EntityMetadata[]): string {
  const lines = ['```mermaid', 'erDiagram'];
  const relations: string[] = [];
  for (const table of area) {
    const name = table.tableName;
    const unique = new Set(table.uniques.flatMap((key) => key.properties ?? []).map(String));
    lines.push(`  ${name} {`);
    for (const property of table.props) {
      const column = property.fieldNames[0] ?? property.name;
      const target = property.targetMeta?.tableName;
      const loose = REFERENCES[`${name}.${column}`];
      const keys = [
        property.primary && 'PK',
        (target || loose) && 'FK',
        (property.unique || unique.has(property.name)) && 'UK',
      ].filter(Boolean);
      const parts = [property.columnTypes[0], column, keys.join(', '), property.nullable && '"null"'];
      lines.push(`    ${parts.filter(Boolean).join(' ')}`);
      const many = `${property.nullable ? '|o' : '||'}${target ? '--' : '..'}o{`;
      if (target ?? loose) relations.push(`  ${target ?? loose} ${many} ${name} : ${column}`);
    }
    lines.push('  }');
  }
  return [...lines, ...relations, '```'].join('\n');
}

/** One Mermaid diagram per area. Throws when a table belongs to none. */
export async function renderErd(): Promise<string> {
  const all = await tables();
  const homeless = all.filter((table) => !AREAS.some(([, names]) => names.test(table.tableName)));
  if (homeless.length > 0)
    throw new Error(`no area in scripts/erd.ts for: ${homeless.map((table) => table.tableName).join(', ')}`);
  return AREAS.map(([title, names]) => ({ title, area: all.filter((table) => names.test(table.tableName)) }))
    .filter(({ area }) => area.length > 0)
    .map(({ title, area }) => `### ${title}\n\n${diagram(area)}`)
    .join('\n\n');
}

/** `page` with `erd` between the markers. */
export const withErd = (page: string, erd: string): string => between(page, MARKERS, erd);

if (import.meta.main) {
  const page = readFileSync(PAGE, 'utf8');
  const current = withErd(page, await renderErd());
  if (!process.argv.includes('--check')) writeFileSync(PAGE, current);
  else if (page !== current) {
    console.error('docs/database.md is out of date: run node scripts/erd.ts');
    process.exitCode = 1;
  }
}
