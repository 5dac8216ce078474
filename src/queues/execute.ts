import { sql } from 'kysely';
import { timeOfId } from '../domain/ids.ts';
import { contextOf, type Envelope } from '../domain/messages/envelope.ts';
import type { Outcome } from '../domain/messages/outcome.ts';
import {
  claimOperation,
  findOperation,
  finishOperation,
  noteAttempt,
  type OperationStart,
} from '../domain/operations/operations.ts';
import { Refusal } from '../domain/problem.ts';
import { currentTime } from '../services/clock.ts';
import { type Database, type EntityManager, isTransient } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { backoffMs } from '../services/service.ts';
import type { Incoming } from './consumer.ts';
import { within } from './deadline.ts';
import type { Detour } from './detour.ts';
import type { Group } from './group.ts';
import {
  attemptsBefore,
  CONTENTION_TRIES,
  checkData,
  contentionsBefore,
  decodeEnvelope,
  HEADERS,
  mayBeItsOwn,
  mayBeRepeat,
  Poison,
  textHeader,
  withContentions,
} from './incoming.ts';
import { OutboxEmit } from './outbox.ts';
import type { MessageWorker } from './worker.ts';

export interface ExecuteDeps {
  database: Database;
  /** Takes the commands that may share a transaction. */
  group: Group;
  detour: Detour;
  /** The workers of this queue by the message type that each takes. */
  workers: Map<string, MessageWorker>;
  /** Tells a waiting caller that its operation is finished. */
  notify: (replyTo: string, operationId: string) => void;
  /** Wakes the relay after a commit that wrote to the outbox. */
  wake: () => void;
  measure: (worker: string, outcome: string, ms: number) => void;
  log: Logger;
}

/** One message on its way through the steps. */
interface Job {
  message: Incoming;
  envelope: Envelope;
  worker: MessageWorker;
  data: unknown;
  attempt: number;
  start: OperationStart;
  readonly log: Logger;
}

/** Thrown inside the savepoint to take back what a handler did before it refused. */
class Undo extends Error {
  readonly outcome: Outcome;
  constructor(outcome: Outcome) {
    super(outcome.kind);
    this.outcome = outcome;
  }
}

/**
 * The pipeline around every handler: decode → check against the contract → restore the request's context → already
 * done? → perform → begin → inbox → handle → outbox → commit → notify → (acknowledge, by the consumer) → measure.
 * Resolves when the message is dealt with: handled, on its way to a retry, or buried.
 */
export async function execute(message: Incoming, deps: ExecuteDeps): Promise<void> {
  const began = performance.now();
  let job: Job;
  try {
    job = prepare(message, deps);
  } catch (error) {
    if (!(error instanceof Poison)) throw error;
    deps.log.warn({ message_id: message.messageId, reason: error.message }, 'buried a message that cannot be handled');
    await deps.detour.bury(message, error.message);
    deps.measure('(none)', 'buried', performance.now() - began);
    return;
  }
  const outcome = await attempt(job, deps);
  deps.measure(job.worker.name, outcome, performance.now() - began);
}

/** decode → check against the contract → restore the request's context. Throws `Poison`. */
function prepare(message: Incoming, deps: ExecuteDeps): Job {
  const envelope = decodeEnvelope(message);
  const worker = deps.workers.get(envelope.type);
  if (!worker) throw new Poison(`no worker takes messages of type "${envelope.type}"`);
  const data = checkData(worker.takes.schema, envelope.data, worker.takes.type);
  const attempt = attemptsBefore(message) + 1;
  const context = contextOf(envelope);
  const issued = worker.takes.kind === 'command' ? timeOfId(envelope.id) : 0;
  let log: Logger | undefined;
  return {
    message,
    envelope,
    worker,
    data,
    attempt,
    start: {
      id: envelope.id,
      type: envelope.type,
      caller: envelope.actor ?? 'system',
      requestId: context.requestId,
      createdAt: new Date(issued > 0 && issued < 8.64e15 ? issued : currentTime()),
      startedAt: new Date(currentTime()),
    },
    get log() {
      // Made when it is first written to: most messages have nothing to say.
      log ??= deps.log.child({
        worker: worker.name,
        request_id: context.requestId,
        operation_id: context.correlationId,
        attempt,
      });
      return log;
    },
  };
}

/** One try, and what follows from it. Returns a word for the metrics. */
async function attempt(job: Job, deps: ExecuteDeps): Promise<string> {
  let outcome: Outcome | 'again';
  try {
    outcome = (await alreadyDone(job, deps)) ?? (await work(job, deps));
  } catch (error) {
    return failed(job, deps, error as Error);
  }
  if (outcome === 'again') {
    notify(job, deps);
    return 'again';
  }
  switch (outcome.kind) {
    case 'done':
      notify(job, deps);
      if (deps.log.isLevelEnabled('debug')) job.log.debug('handled');
      return 'done';
    case 'reject':
      notify(job, deps);
      job.log.info({ code: outcome.problem.code }, 'refused');
      return 'rejected';
    case 'discard':
      // Its operation fails with the burial, which also tells a waiting caller: a death in between loses nothing.
      await deps.detour.discard(job.message, outcome.reason, job.worker.name, job.attempt);
      return 'discarded';
    case 'retry':
      return retry(job, deps, outcome.delayMs, outcome.reason, true);
    case 'onward': {
      await note(job, deps, attemptsBefore(job.message));
      // What the part that is done had to contend with says nothing of the next.
      const next = withContentions(job.message, 0);
      await deps.detour.retry(next, outcome.delayMs, ownAttempts(job), outcome.reason);
      job.log.debug({ progress: outcome.reason }, 'goes on');
      return 'onward';
    }
  }
}

/** A command whose operation is finished is answered again; its work is not done again. */
async function alreadyDone(job: Job, deps: ExecuteDeps): Promise<'again' | undefined> {
  if (job.worker.takes.kind !== 'command' || !mayBeRepeat(job.message)) return undefined;
  const operation = await findOperation(deps.database.em.fork(), job.envelope.id);
  return operation && operation.status !== 'running' ? 'again' : undefined;
}

/** perform → begin → inbox → handle → outbox → commit, the transaction shared with other commands where it can be */
async function work(job: Job, deps: ExecuteDeps): Promise<Outcome | 'again'> {
  const { worker, data, envelope, attempt } = job;
  let performed: unknown;
  if (worker.perform) {
    const context = contextOf(envelope);
    const perform = async (signal: AbortSignal) =>
      worker.perform?.({
        data,
        envelope,
        context,
        attempt,
        signal,
        get log() {
          return job.log;
        },
      });
    try {
      performed = await within(worker.timeoutMs, worker.name, perform);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return settleRefused(job, deps, { kind: 'reject', problem: error.problem });
    }
  }
  return (await share(job, deps, performed)) ?? workAlone(job, deps, performed);
}

/** In a transaction with others. `undefined`: to be handled alone, like whatever may have been begun before. */
async function share(job: Job, deps: ExecuteDeps, performed: unknown): Promise<Outcome | undefined> {
  const { together } = job.worker;
  if (!together || job.worker.takes.kind !== 'command' || mayBeRepeat(job.message)) return undefined;
  const { data } = job;
  const emit = new OutboxEmit(contextOf(job.envelope));
  const request = together.request({ data, performed, emit });
  if (request === undefined) return undefined;
  return deps.group.take({ by: together.by, key: together.key(data), request, emit, start: job.start });
}

async function workAlone(job: Job, deps: ExecuteDeps, performed: unknown): Promise<Outcome | 'again'> {
  const { worker } = job;
  const context = contextOf(job.envelope);
  const base = { data: job.data, envelope: job.envelope, context, attempt: job.attempt, log: job.log };
  const emit = new OutboxEmit(context);
  const outcome = await deps.database.em
    .fork()
    .transactional(async (em) => {
      if (await claim(em, job)) return 'again' as const;
      let result: Outcome;
      const transaction = em.getTransactionContext();
      try {
        result = await em.transactional(async (inner) => {
          // A savepoint's own context outlives the transaction; this one refuses what a handler does after its time.
          inner.setTransactionContext(transaction);
          const said = await within(worker.timeoutMs, worker.name, (signal) =>
            worker.handle({ ...base, signal, performed, em: inner, emit }),
          );
          if (said.kind !== 'done') throw new Undo(said);
          return said;
        });
      } catch (error) {
        if (error instanceof Undo) result = error.outcome;
        else if (error instanceof Refusal) result = { kind: 'reject', problem: error.problem };
        else throw error;
        emit.rewind(0);
        // What is not finished leaves nothing: tried again or replayed, the message must be handled.
        if (result.kind !== 'done' && result.kind !== 'reject') throw new Undo(result);
      }
      await finish(em, job, result);
      await emit.flush(em);
      return result;
    })
    .catch((error: unknown) => {
      if (error instanceof Undo) return error.outcome;
      throw error;
    });
  if (!emit.empty) deps.wake();
  return outcome;
}

/** Inbox: for a command its operation row, for an event (consumer, message id). True when it was handled before. */
async function claim(em: EntityManager, job: Job): Promise<boolean> {
  if (job.worker.takes.kind === 'command') return (await claimOperation(em, job.start)) !== undefined;
  const { rows } = await sql`
    insert into inbox (consumer, message_id) values (${job.worker.name}, ${job.envelope.id})
    on conflict do nothing returning 1`.execute(em.getKysely());
  return rows.length === 0;
}

async function finish(em: EntityManager, job: Job, outcome: Outcome): Promise<void> {
  if (job.worker.takes.kind !== 'command') return;
  if (outcome.kind === 'done') {
    await finishOperation(
      em,
      job.envelope.id,
      { status: 'succeeded', result: outcome.result, httpStatus: outcome.status },
      job.attempt,
    );
  } else if (outcome.kind === 'reject') {
    await finishOperation(em, job.envelope.id, { status: 'failed', error: outcome.problem }, job.attempt);
  }
}

async function settleRefused(job: Job, deps: ExecuteDeps, outcome: Outcome): Promise<Outcome | 'again'> {
  return deps.database.em.fork().transactional(async (em) => {
    if (await claim(em, job)) return 'again' as const;
    await finish(em, job, outcome);
    return outcome;
  });
}

/** Tries before this one that failed by themselves, without contention. */
const ownAttempts = ({ message }: Job): number => attemptsBefore(message) - contentionsBefore(message);

/**
 * An exception is a retry with its reason. While PostgreSQL or a broker is out of reach no attempt is used up;
 * contention, which passes as a rule, has a larger budget.
 */
async function failed(job: Job, deps: ExecuteDeps, error: Error): Promise<string> {
  if (mayBeItsOwn(error)) return contended(job, deps, error);
  if (isTransient(error)) {
    job.log.warn({ error: error.message }, 'a service is out of reach, trying again');
    await deps.detour.retry(job.message, 1000, attemptsBefore(job.message), error.message);
    return 'postponed';
  }
  job.log.error({ err: error }, 'the handler failed');
  const { baseMs, maxMs } = job.worker.retry;
  return retry(job, deps, backoffMs(ownAttempts(job), baseMs * 2, maxMs), error.message, false);
}

async function contended(job: Job, deps: ExecuteDeps, error: Error): Promise<string> {
  const { baseMs, maxMs, contentions: budget = CONTENTION_TRIES } = job.worker.retry;
  const contentions = contentionsBefore(job.message) + 1;
  job.log.warn({ error: error.message, contentions }, 'the handler met contention or outlasted its time');
  if (contentions >= budget) return bury(job, deps, error.message);
  await note(job, deps, job.attempt);
  const delayMs = backoffMs(contentions - 1, baseMs * 2, maxMs);
  await deps.detour.retry(withContentions(job.message, contentions), delayMs, job.attempt, error.message);
  return 'retried';
}

async function retry(job: Job, deps: ExecuteDeps, delayMs: number, reason: string, wanted: boolean): Promise<string> {
  if (ownAttempts(job) + 1 >= job.worker.retry.attempts) return bury(job, deps, reason);
  await note(job, deps, job.attempt);
  await deps.detour.retry(job.message, delayMs, job.attempt, reason);
  if (wanted) job.log.info({ delay_ms: delayMs, reason }, 'postponed');
  return 'retried';
}

async function bury({ message, worker, attempt }: Job, deps: ExecuteDeps, reason: string): Promise<string> {
  await deps.detour.bury(message, `gave up after ${attempt} attempts: ${reason}`, worker.name, attempt);
  return 'buried';
}

/** Shows a command's operation as `running`; without the row it is merely followed less closely. */
async function note(job: Job, deps: ExecuteDeps, attempts: number): Promise<void> {
  if (job.worker.takes.kind !== 'command') return;
  await noteAttempt(deps.database.em.fork(), job.start, attempts).catch((error: Error) =>
    job.log.warn({ error: error.message }, 'the attempt is not noted'),
  );
}

function notify(job: Job, deps: ExecuteDeps): void {
  const replyTo = textHeader(job.message, HEADERS.replyTo, 128);
  if (replyTo && job.worker.takes.kind === 'command') deps.notify(replyTo, job.envelope.id);
}
