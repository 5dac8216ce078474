import { sql } from 'kysely';
import { newId } from '../domain/ids.ts';
import { type Contract, type EnvelopeOptions, envelope } from '../domain/messages/contracts.ts';
import type { Alarm, AuditInput, Emit, Transact } from '../domain/messages/emit.ts';
import { actorText, type RequestContext } from '../domain/messages/envelope.ts';
import { currentTime } from '../services/clock.ts';
import type { Database, EntityManager } from '../services/database.ts';
import { tableOf } from '../services/rows.ts';

/** A message that waits for its publication, in the transaction of the change that it tells of. */
interface OutboxRow {
  transport: 'rabbitmq' | 'bullmq';
  /** `events` or `audit` on RabbitMQ, the job queue on BullMQ. */
  target: string;
  routing_key: string;
  message_id: string;
  body: string;
}

/** The type of the envelopes on the audit exchange. */
export const AUDIT_MESSAGE = 'audit.record';

/** Collects what a use case emits; `flush` writes it as outbox rows, at the end of the transaction. */
export class OutboxEmit implements Emit {
  readonly context: RequestContext;
  readonly #rows: OutboxRow[] = [];

  constructor(context: RequestContext) {
    this.context = context;
  }

  get empty(): boolean {
    return this.#rows.length === 0;
  }

  /** How much was emitted, and back to it: what was emitted since is forgotten with its savepoint. */
  mark(): number {
    return this.#rows.length;
  }

  rewind(mark: number): void {
    this.#rows.length = mark;
  }

  event<T>(contract: Contract<T>, data: T, options: EnvelopeOptions = {}): void {
    const message = envelope(contract, data, this.context, { tenant: 'default', ...options });
    this.#rows.push({
      transport: 'rabbitmq',
      target: 'events',
      routing_key: contract.type,
      message_id: message.id,
      body: JSON.stringify(message),
    });
  }

  audit(input: AuditInput): void {
    const { context } = this;
    const actor = input.actor ?? context.actor;
    const id = newId();
    const subject = input.subject ?? (actor.type === 'user' && actor.id ? actor.id : undefined);
    const record = {
      id,
      occurred_at: new Date(currentTime()).toISOString(),
      action: input.action,
      actor: { type: actor.type, id: actor.id },
      targets: input.targets ?? [],
      context: {
        ...(context.ip ? { ip: context.ip } : {}),
        ...(context.userAgent ? { user_agent: context.userAgent } : {}),
        request_id: context.requestId,
        operation_id: context.correlationId,
      },
      metadata: input.metadata ?? {},
      outcome: input.outcome ?? 'success',
      ...(subject ? { subject } : {}),
    };
    const message = {
      specversion: '1.0',
      id,
      source: 'waybill',
      type: AUDIT_MESSAGE,
      time: record.occurred_at,
      data: record,
      correlationid: context.correlationId,
      requestid: context.requestId,
      ...(context.traceparent ? { traceparent: context.traceparent } : {}),
      actor: actorText(context.actor),
    };
    this.#rows.push({
      transport: 'rabbitmq',
      target: 'audit',
      routing_key: AUDIT_MESSAGE,
      message_id: id,
      body: JSON.stringify(message),
    });
  }

  alarm(alarm: Alarm): void {
    this.#rows.push({
      transport: 'bullmq',
      target: alarm.queue,
      routing_key: '',
      message_id: alarm.id,
      body: JSON.stringify(alarm),
    });
  }

  /** Writes all of it in one statement, in the order emitted. */
  flush(em: EntityManager): Promise<void> {
    return OutboxEmit.flushAll(em, [this]);
  }

  /** Writes what several have emitted in one statement, one after the other. */
  static async flushAll(em: EntityManager, emits: readonly OutboxEmit[]): Promise<void> {
    const rows = emits.flatMap((emit) => emit.#rows);
    if (rows.length === 0) return;
    const columns = {
      transport: 'text',
      target: 'text',
      routing_key: 'text',
      message_id: 'text',
      body: 'text',
    } as const;
    await sql`
      insert into outbox (transport, target, routing_key, message_id, body)
      select transport, target, routing_key, message_id, body
      from ${tableOf(rows, columns)} with ordinality as r (transport, target, routing_key, message_id, body, n)
      order by n`.execute(em.getKysely());
  }
}

/** `Transact` over a database: the change and its outbox rows in one transaction, then `wake` for the relay. */
export function createTransact(database: Database, wake: () => void): Transact {
  return async (context, work) => {
    const emit = new OutboxEmit(context);
    const result = await database.em.fork().transactional(async (em) => {
      const value = await work({ em, emit });
      await emit.flush(em);
      return value;
    });
    if (!emit.empty) wake();
    return result;
  };
}
