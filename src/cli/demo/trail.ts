import { styleText } from 'node:util';

export interface Hop {
  at: string;
  kind: string;
  status: string;
  ref: string;
  detail: Record<string, unknown>;
  duration_ms?: number;
}

const text = (value: unknown) => (value === undefined || value === null ? '' : String(value));

/** What a hop is about, in a few words. */
function about({ kind, detail, ref }: Hop): string {
  switch (kind) {
    case 'request.accepted':
      return `${text(detail.type)}  operation ${ref}`;
    case 'command.handled':
      return `${text(detail.type)}  attempt ${text(detail.attempts)}, would answer ${text(detail.http_status)}`;
    case 'event.published':
      return `${text(detail.type)}  event ${ref}`;
    case 'email.queued':
    case 'email.sent':
    case 'email.failed':
      return `${text(detail.template)}  to ${text(detail.recipient)}`;
    case 'webhook.attempted':
      return `${text(detail.type)}  attempt ${text(detail.attempt)}, ${text(detail.url)} answered ${text(detail.status_code)}`;
    case 'audit.recorded':
      return `${text(detail.action)}  sealed in checkpoint ${text(detail.checkpoint)}`;
    default:
      return ref;
  }
}

/** The hops as aligned lines: how long after the first, what, how it went, what it is about, how long it took. */
export function trailTable(hops: Hop[]): string[] {
  const start = Date.parse(hops[0]?.at ?? '');
  const rows = hops.map((hop) => [
    `+${Date.parse(hop.at) - start} ms`,
    hop.kind,
    hop.status,
    hop.duration_ms === undefined ? '' : `${hop.duration_ms} ms`,
    about(hop),
  ]);
  const table = [['after', 'hop', 'status', 'took', 'about'], ...rows];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  const rightAligned = [0, 3];
  const line = (row: string[]) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return rightAligned.includes(column) ? cell.padStart(width) : cell.padEnd(width);
      })
      .join('  ');
  return table.map((row, at) => `  ${at === 0 ? styleText('gray', line(row)) : line(row)}`);
}
