import type { EntityManager } from '../../services/database.ts';
import type { Contract, EnvelopeOptions } from './contracts.ts';
import type { Actor, RequestContext } from './envelope.ts';

/** The job queues whose jobs are alarm clocks for rows. */
export type AlarmQueue = 'email' | 'webhooks';

/** An alarm for a row that waits: the row decides what is due, the alarm only says when to look. */
export interface Alarm {
  queue: AlarmQueue;
  id: string;
  attempt: number;
  generation: number;
  /** When to look, in ms since the epoch. */
  at: number;
}

/** What happened, for the audit log; who, when and from where are filled in from the request's context. */
export interface AuditInput {
  /** Dot separated, past tense: `user.registered`, `session.refused`. */
  action: string;
  outcome?: 'success' | 'failure' | 'denied';
  targets?: { type: string; id: string }[];
  metadata?: Record<string, string | number | boolean>;
  /** The user whose key encrypts the personal fields; the actor when it is a user. */
  subject?: string;
  actor?: Actor;
}

/**
 * What a use case is handed to tell the rest of the platform. Everything emitted is written to the outbox in the
 * same transaction as the change that it tells of, and published after the commit.
 */
export interface Emit {
  readonly context: RequestContext;
  event<T>(contract: Contract<T>, data: T, options?: EnvelopeOptions): void;
  audit(record: AuditInput): void;
  alarm(alarm: Alarm): void;
}

/** One transaction's hands: change the database through `em`, tell of it through `emit`. */
export interface Unit {
  em: EntityManager;
  emit: Emit;
}

/**
 * Runs `work` in one transaction together with the outbox rows of all it emits, and wakes the relay after the
 * commit. A `Refusal` thrown by `work` rolls everything back and reaches the caller.
 */
export type Transact = <T>(context: RequestContext, work: (unit: Unit) => Promise<T>) => Promise<T>;
