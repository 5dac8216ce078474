import type { EntityManager } from '../../services/database.ts';
import { timeOfId } from '../ids.ts';
import { type Hop, KINDS, MAX_HOPS, type Scope } from './hop.ts';
import type { OperationRow } from './operations.ts';
import { auditHops, deadLetterHops, emailHops, eventHops, waitingEventHops } from './trail-of-messages.ts';
import { attemptHops, undeliveredHops } from './trail-of-webhooks.ts';

export type { Hop, HopKind } from './hop.ts';

export interface TrailQuery {
  /** Everything that one request caused. */
  correlationId?: string;
  /** What became of one event. */
  event?: { tenant: string; id: string };
  /** The operation's id and, once a worker has written of it, its row: its first two hops. */
  operation?: { id: string; row?: OperationRow | undefined };
  /** For admins and operators: with addresses, endpoints and the content of audit rows. */
  full: boolean;
}

export interface Trail {
  hops: Hop[];
  /** There are more than 500; these are the earliest. */
  truncated: boolean;
}

/** Every hop that is on record, in the order of time. */
export async function trail(fork: () => EntityManager, query: TrailQuery): Promise<Trail> {
  const { correlationId, event, full } = query;
  const scope: Scope = event ? { event } : { correlationId: correlationId ?? '' };
  const sources = [eventHops, waitingEventHops, attemptHops, undeliveredHops, deadLetterHops];
  if (!event) sources.push(emailHops, auditHops);
  const found = await Promise.all(sources.map((source) => source(fork(), scope, full)));
  const hops = [...(query.operation ? ownHops(query.operation) : []), ...found.flat()].toSorted(inOrder);
  return { hops: hops.slice(0, MAX_HOPS), truncated: hops.length > MAX_HOPS };
}

function inOrder(a: Hop, b: Hop): number {
  return a.at === b.at ? KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind) : a.at < b.at ? -1 : 1;
}

/** The request as its operation id tells of it, and its command's handling. */
function ownHops({ id, row }: NonNullable<TrailQuery['operation']>): Hop[] {
  const accepted: Hop = {
    at: new Date(timeOfId(id)).toISOString(),
    kind: 'request.accepted',
    status: 'accepted',
    ref: id,
    detail: row ? { type: row.type, request_id: row.requestId } : {},
  };
  if (!row?.startedAt) return [accepted];
  const duration = row.finishedAt ? { duration_ms: Date.parse(row.finishedAt) - Date.parse(row.startedAt) } : {};
  const handled: Hop = {
    at: row.startedAt,
    kind: 'command.handled',
    status: row.status,
    ref: id,
    detail: {
      type: row.type,
      attempts: row.attempts,
      ...(row.httpStatus ? { http_status: row.httpStatus } : {}),
      ...(row.error ? { error_code: row.error.code } : {}),
    },
    ...duration,
  };
  return [accepted, handled];
}
