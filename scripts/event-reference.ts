/**
 * Writes the types in docs/reference/events.md from the catalogue: `node scripts/event-reference.ts`, with `--check` only
 * compares and exits 1 when the page is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EVENT_TYPES } from '../src/domain/events/catalogue.ts';
import { between } from './generated.ts';

const PAGE = join(import.meta.dirname, '../docs/reference/events.md');
const MARKERS = ['<!-- events:begin (node scripts/event-reference.ts) -->', '<!-- events:end -->'] as const;

/** `page` with a section per type: name, description, example of `data`. */
export const withEvents = (page: string): string =>
  between(
    page,
    MARKERS,
    EVENT_TYPES.map(
      ({ name, description, example }) =>
        `## \`${name}\`\n\n${description}\n\n\`\`\`json\n${JSON.stringify(example, null, 2)}\n\`\`\``,
    ).join('\n\n'),
  );

if (import.meta.main) {
  const page = readFileSync(PAGE, 'utf8');
  const current = withEvents(page);
  if (!process.argv.includes('--check')) writeFileSync(PAGE, current);
  else if (page !== current) {
    console.error('docs/reference/events.md is out of date: run node scripts/event-reference.ts');
    process.exitCode = 1;
  }
}
