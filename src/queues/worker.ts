import type { z } from 'zod';
import type { Pool } from '../config.ts';
import type { Contract } from '../domain/messages/contracts.ts';
import type { AlarmQueue, Emit } from '../domain/messages/emit.ts';
import type { Envelope, RequestContext } from '../domain/messages/envelope.ts';
import type { Outcome } from '../domain/messages/outcome.ts';
import type { EntityManager } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';

/** How often a message is tried, and how long it waits in between: base × 2^(n−1), at most `maxMs`. */
export interface Retry {
  attempts: number;
  baseMs: number;
  maxMs: number;
  /** Tries that end in contention (`mayBeItsOwn`), which are counted apart; 20 when absent. */
  contentions?: number;
}

export const exponential = (retry: Retry): Retry => retry;

/** What `perform` sees: no transaction is open, so it may hash, send and call. */
export interface PerformContext<T> {
  data: T;
  envelope: Envelope<T>;
  context: RequestContext;
  /** 1 for the first try. */
  attempt: number;
  signal: AbortSignal;
  log: Logger;
}

/** What `handle` sees: one short transaction that holds the inbox row, the domain's changes and the outbox. */
export interface HandleContext<T, P> extends PerformContext<T> {
  performed: P;
  em: EntityManager;
  emit: Emit;
}

/**
 * Handles messages of one or several workers in one transaction, for what costs little more for fifty than for one.
 * Any failure takes all of it back, and each message is then handled alone by its worker's `handle`, so `together` and
 * `handle` must come to the same.
 */
export interface Together<R = unknown> {
  name: string;
  /** The most that are handled in one transaction. */
  size: number;
  timeoutMs: number;
  /**
   * One outcome for each request in its order, `done` or `reject`; of one that is rejected nothing may be written.
   * `undefined` leaves a request to be handled alone, one that would have to wait for a lock.
   */
  handle(requests: R[], em: EntityManager): Promise<(Outcome | undefined)[]>;
}

/** How a worker's messages take part in a `Together`. */
export interface TakesPart<T, P, R = unknown> {
  by: Together<R>;
  /** Two messages of one key are never in one transaction. */
  key(data: T): string;
  /** What is asked for; `undefined` when the message is one to handle alone. */
  request(context: { data: T; performed: P; emit: Emit }): R | undefined;
}

/** One message, one worker (architecture, "One worker, one declaration"). */
export interface MessageWorker<T = unknown, P = unknown> {
  kind: 'message';
  name: string;
  pool: Pool;
  takes: Contract<T>;
  retry: Retry;
  timeoutMs: number;
  perform?(context: PerformContext<T>): Promise<P>;
  handle(context: HandleContext<T, P>): Promise<Outcome>;
  /** Commands that nobody has begun yet may share a transaction. */
  together?: TakesPart<T, P>;
}

/** Messages taken together. `handle` owns its transactions; what it does must be safe to do again. */
export interface BatchWorker<T = unknown> {
  kind: 'batch';
  name: string;
  pool: Pool;
  /** Every message on the pool's queue is checked against this schema of its `data`. */
  schema: z.ZodType<T>;
  /** `parallel`: batches handled at a time in one process, 1 when absent; more only where their order does not matter. */
  batch: { size: number; waitMs: number; parallel?: number };
  /** Also takes the queue of events with an ordering key, in their order (see `OrderedConsumer`). */
  ordered?: boolean;
  /** Why an envelope cannot be handled at all; it is then buried with this reason. */
  refuses?(envelope: Envelope<T>): string | undefined | Promise<string | undefined>;
  timeoutMs: number;
  handle(items: BatchItem<T>[], log: Logger): Promise<void>;
}

export interface BatchItem<T> {
  envelope: Envelope<T>;
  /** The broker (or the retry ladder) has handed this message out before. */
  redelivered: boolean;
}

export interface Beside {
  /** Takes up nothing more; resolves when what was in hand is over or handed back. */
  rest(): Promise<void>;
  resume(): void;
  inFlight(): number;
}

/** Alarms for rows that wait: `handle` looks at the row, which alone decides whether anything is due. */
export interface AlarmWorker {
  kind: 'alarm';
  name: string;
  pool: Pool;
  takes: AlarmQueue;
  timeoutMs: number;
  /** What it does beside its alarms, and is paused and stopped with them. */
  beside?: Beside;
  handle(rowId: string, context: { log: Logger; signal: AbortSignal }): Promise<void>;
}

/** Messages handled one by one without a transaction of the pipeline's: acknowledged when `handle` resolves. */
export interface StreamWorker<T = unknown> {
  kind: 'stream';
  name: string;
  pool: Pool;
  schema: z.ZodType<T>;
  prefetch: number;
  /** Takes on another concurrency of its pool while it runs; returns the prefetch that goes with it. */
  resize?(concurrency: number): number;
  handle(message: T, context: { redelivered: boolean; log: Logger }): Promise<void>;
}

export type AnyWorker = MessageWorker | BatchWorker | AlarmWorker | StreamWorker;

export const defineWorker = <T, P = undefined>(worker: Omit<MessageWorker<T, P>, 'kind'>): MessageWorker =>
  ({ kind: 'message', ...worker }) as unknown as MessageWorker;
export const defineBatchWorker = <T>(worker: Omit<BatchWorker<T>, 'kind'>): BatchWorker =>
  ({ kind: 'batch', ...worker }) as unknown as BatchWorker;
export const defineAlarmWorker = (worker: Omit<AlarmWorker, 'kind'>): AlarmWorker => ({ kind: 'alarm', ...worker });
export const defineStreamWorker = <T>(worker: Omit<StreamWorker<T>, 'kind'>): StreamWorker =>
  ({ kind: 'stream', ...worker }) as unknown as StreamWorker;
