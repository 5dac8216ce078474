import { sql } from 'kysely';
import { iso, isoOrNull } from '../../services/database.ts';
import { type Envelope, envelopeSchema } from '../messages/envelope.ts';
import { type Hop, type HopSource, ofScope, READ, type Scope } from './hop.ts';

/** Events that the fan-out has stored; the duration is their way from the change to there. */
export const eventHops: HopSource = async (em, scope) => {
  const { rows } = await sql<{ id: string; type: string; time: string; created_at: string; correlation_id: string }>`
    select id, type, time, created_at, correlation_id from events e where ${ofScope(scope)} order by time limit ${READ}`.execute(
    em.getKysely(),
  );
  return rows.map((row) => ({
    at: iso(row.time),
    kind: 'event.published',
    status: 'published',
    ref: row.id,
    detail: { type: row.type, ...(scope.event ? { correlation_id: row.correlation_id } : {}) },
    duration_ms: Math.max(0, Date.parse(iso(row.created_at)) - Date.parse(iso(row.time))),
  }));
};

/** How much of a backlog is looked through: nearly always the outbox is empty, in an outage it is not. */
const OUTBOX_LOOK = 20_000;

/** Events that wait for the broker, or were set aside because no queue takes them. */
export const waitingEventHops: HopSource = async (em, scope, full) => {
  const wanted = scope.event
    ? sql`message_id = ${scope.event.id}`
    : sql`position(${`"correlationid":${JSON.stringify(scope.correlationId)}`} in body) > 0`;
  const { rows } = await sql<{ body: string; set_aside_at: string | null; error: string | null }>`
    select body, set_aside_at, error
    from (select * from outbox where transport = 'rabbitmq' order by id limit ${OUTBOX_LOOK}) o
    where target = 'events' and ${wanted} order by id limit ${READ}`.execute(em.getKysely());
  return rows.flatMap((row): Hop[] => {
    const message = envelopeOf(row.body);
    if (!message || !belongs(message, scope)) return [];
    return [
      {
        at: iso(message.time),
        kind: 'event.published',
        status: row.set_aside_at ? 'set_aside' : 'waiting',
        ref: message.id,
        detail: { type: message.type, ...(full && row.error ? { error: row.error } : {}) },
      },
    ];
  });
};

const belongs = (message: Envelope, scope: Scope): boolean =>
  scope.event
    ? message.id === scope.event.id && (message.tenant ?? 'default') === scope.event.tenant
    : message.correlationid === scope.correlationId;

function envelopeOf(body: string): Envelope | undefined {
  try {
    return envelopeSchema.safeParse(JSON.parse(body)).data as Envelope | undefined;
  } catch {
    return undefined;
  }
}

interface EmailRow {
  id: string;
  template: string;
  recipient: string;
  status: 'pending' | 'sent' | 'failed';
  attempts: number;
  last_error: string | null;
  next_attempt_at: string | null;
  sent_at: string | null;
  created_at: string;
}

/** Each e-mail as it was queued, and as it ended. The time of a last failed attempt is not kept, so that hop has the queueing's. */
export const emailHops: HopSource = async (em, scope, full) => {
  if (scope.event) return [];
  const { rows } = await sql<EmailRow>`
    select id, template, recipient, status, attempts, last_error, next_attempt_at, sent_at, created_at
    from emails where correlation_id = ${scope.correlationId} order by created_at, id limit ${READ}`.execute(
    em.getKysely(),
  );
  return rows.flatMap((row): Hop[] => {
    const detail = { template: row.template, ...(full ? { recipient: row.recipient } : {}) };
    const waiting = { attempts: row.attempts, next_attempt_at: isoOrNull(row.next_attempt_at) };
    const error = row.last_error && full ? { error: row.last_error } : {};
    const queued: Hop = {
      at: iso(row.created_at),
      kind: 'email.queued',
      status: row.status,
      ref: row.id,
      detail: row.status === 'pending' ? { ...detail, ...waiting, ...error } : detail,
    };
    if (row.status === 'pending') return [queued];
    const at = iso(row.sent_at ?? row.created_at);
    const ended: Hop = {
      at,
      kind: row.status === 'sent' ? 'email.sent' : 'email.failed',
      status: row.status,
      ref: row.id,
      detail: { ...detail, attempts: row.attempts, ...error },
      ...(row.sent_at ? { duration_ms: Math.max(0, Date.parse(at) - Date.parse(queued.at)) } : {}),
    };
    return [queued, ended];
  });
};

interface DeadLetterRow {
  id: string;
  message_type: string | null;
  queue: string;
  worker: string | null;
  reason: string;
  attempts: number;
  status: string;
  created_at: string;
  body: Buffer | null;
}

/** Of an event, its own letters: only the envelope inside tells its tenant. */
export const deadLetterHops: HopSource = async (em, scope, full) => {
  const { where, body } = scope.event
    ? { where: sql`message_id = ${scope.event.id}`, body: sql`body` }
    : { where: sql`correlation_id = ${scope.correlationId}`, body: sql`null::bytea` };
  const { rows } = await sql<DeadLetterRow>`
    select id, message_type, queue, worker, reason, attempts, status, created_at, ${body} as body
    from dead_letters where ${where} order by created_at, id limit ${scope.event ? LETTERS_OF_EVENT : READ}`.execute(
    em.getKysely(),
  );
  const mine = rows.filter((row) => {
    const message = row.body && envelopeOf(row.body.toString());
    return !scope.event || (message && belongs(message, scope));
  });
  return mine.map((row) => ({
    at: iso(row.created_at),
    kind: 'dead_letter.recorded',
    status: row.status,
    ref: row.id,
    detail: {
      type: row.message_type,
      attempts: row.attempts,
      ...(full ? { queue: row.queue, worker: row.worker, reason: row.reason } : {}),
    },
  }));
};

/** Their bodies are read, so not many at once. */
const LETTERS_OF_EVENT = 20;

interface AuditRow {
  id: string;
  recorded_at: string;
  checkpoint: string;
  leaf_index: number;
  action: string;
  outcome: string;
  actor_type: string;
  actor_id: string | null;
  targets: unknown;
}

/** Audit rows with the checkpoint that seals them; what they say is for admins and operators. */
export const auditHops: HopSource = async (em, scope, full) => {
  if (scope.event) return [];
  const { rows } = await sql<AuditRow>`
    select id, recorded_at, checkpoint, leaf_index, action, outcome, actor_type, actor_id, targets
    from audit_events where operation_id = ${scope.correlationId}
    order by recorded_at, checkpoint, leaf_index limit ${READ}`.execute(em.getKysely());
  return rows.map((row) => ({
    at: iso(row.recorded_at),
    kind: 'audit.recorded',
    status: 'sealed',
    ref: row.id,
    detail: {
      checkpoint: Number(row.checkpoint),
      ...(full
        ? {
            leaf_index: row.leaf_index,
            action: row.action,
            outcome: row.outcome,
            actor: { type: row.actor_type, id: row.actor_id },
            targets: row.targets,
          }
        : {}),
    },
  }));
};
