import { type RawBuilder, sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';

/** Also the order of hops of one and the same millisecond. */
export const KINDS = [
  'request.accepted',
  'command.handled',
  'event.published',
  'email.queued',
  'email.sent',
  'email.failed',
  'webhook.attempted',
  'webhook.pending',
  'webhook.held',
  'webhook.failed',
  'dead_letter.recorded',
  'audit.recorded',
] as const;
export type HopKind = (typeof KINDS)[number];

/** One thing that a request or an event caused. */
export interface Hop {
  /** RFC 3339. */
  at: string;
  kind: HopKind;
  status: string;
  /** The id of what the hop is about: operation, event, e-mail, delivery, dead letter or audit row. */
  ref: string;
  detail: Record<string, unknown>;
  duration_ms?: number;
}

export const MAX_HOPS = 500;
/** Each source reads one more than is shown, so that a trail knows when it is cut. */
export const READ = MAX_HOPS + 1;

/** What the hops are of: everything under one correlation id, or one event. */
export type Scope = { correlationId: string; event?: never } | { event: { tenant: string; id: string } };

/** Hops of one kind, the earliest first, at most `READ`. `full`: with what only admins and operators may see. */
export type HopSource = (em: EntityManager, scope: Scope, full: boolean) => Promise<Hop[]>;

/** The events of a scope, as a condition on `events e`. */
export const ofScope = (scope: Scope): RawBuilder<unknown> =>
  scope.event
    ? sql`e.tenant = ${scope.event.tenant} and e.id = ${scope.event.id}`
    : sql`e.correlation_id = ${scope.correlationId}`;
