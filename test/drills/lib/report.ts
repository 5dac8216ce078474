/** One row of the report: what clients were told, what came of it, and how long it took to be well again. */
export interface Row {
  drill: string;
  /** What was broken, and what else was measured, in a few words. */
  what: string;
  /** Requests answered 2xx. */
  accepted: number;
  refused: number;
  unknown: number;
  /** Webhooks and mails that arrived, each counted once. */
  delivered: number;
  /** Webhooks and mails that arrived more than once, under the same id. */
  duplicates: number;
  /** Accepted requests of which something is missing. */
  lost: number;
  /** Seconds until everything worked again; after kills, until the last of what was accepted had arrived. Null where nothing was away. */
  recovered: number | null;
  /** What must not be: empty when the drill passed. */
  problems: string[];
}

const COLUMNS: [string, (row: Row) => string][] = [
  ['Drill', (row) => row.drill],
  ['What was broken', (row) => row.what],
  ['Accepted', (row) => String(row.accepted)],
  ['Refused', (row) => String(row.refused)],
  ['Unknown', (row) => String(row.unknown)],
  ['Delivered', (row) => String(row.delivered)],
  ['Duplicates', (row) => String(row.duplicates)],
  ['Lost', (row) => String(row.lost)],
  ['Recovered in', (row) => (row.recovered === null ? '–' : `${row.recovered.toFixed(1)} s`)],
];
/** From here on columns hold numbers. */
const FIRST_NUMBER = 2;

/** The table as a person reads it in a terminal, with each row's problems below it. */
export function asText(rows: Row[]): string {
  const cells = [COLUMNS.map(([title]) => title), ...rows.map((row) => COLUMNS.map(([, cell]) => cell(row)))];
  const widths = COLUMNS.map((_, i) => Math.max(...cells.map((line) => (line[i] ?? '').length)));
  const pad = (text: string, i: number) =>
    i < FIRST_NUMBER ? text.padEnd(widths[i] ?? 0) : text.padStart(widths[i] ?? 0);
  const lines = cells.map((line) => line.map(pad).join('  ').trimEnd());
  const problems = rows.flatMap((row) => row.problems.map((problem) => `  ! ${row.drill} (${row.what}): ${problem}`));
  return [lines[0], widths.map((width) => '-'.repeat(width)).join('  '), ...lines.slice(1), ...problems].join('\n');
}

/** The same as a Markdown table. */
export function asMarkdown(rows: Row[]): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  return [
    line(COLUMNS.map(([title]) => title)),
    line(COLUMNS.map((_, i) => (i < FIRST_NUMBER ? '---' : '---:'))),
    ...rows.map((row) => line(COLUMNS.map(([, cell]) => cell(row).replaceAll('|', '\\|')))),
    '',
  ].join('\n');
}

export const asJson = (rows: Row[]): string => `${JSON.stringify({ rows }, null, 2)}\n`;

/** Whether every drill passed. */
export const passed = (rows: Row[]): boolean => rows.every((row) => row.lost === 0 && row.problems.length === 0);
