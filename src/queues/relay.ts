import { type Kysely, sql } from 'kysely';
import type { Alarm } from '../domain/messages/emit.ts';
import type { Envelope } from '../domain/messages/envelope.ts';
import type { Database } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { backoffMs, pause, type Service } from '../services/service.ts';
import type { Alarms } from './alarms.ts';
import { Bell } from './bell.ts';
import { type OrderedMessage, type Publisher, Run, Unroutable } from './publisher.ts';
import { ORDERED_HEADER, type Topology } from './topology.ts';
import type { Wake } from './wake.ts';

/** Session advisory lock of the one relay that publishes; its holder's death frees it. */
const RELAY_LOCK = 7_120_002;
/** The net under the wake-up signals. */
const POLL_MS = 100;
/** Two batches of 500 reach 36 % of a bare confirmed publish, of 1,000 and overlapped more than half (November 2026). */
const BATCH = 1000;

interface Row {
  id: string;
  target: string;
  routing_key: string;
  message_id: string;
  body: string;
}

/** What came of a batch: gone out; unpublishable; what held the rest up. */
interface Handed {
  done: string[];
  aside: { id: string; why: string }[];
  error?: Error;
}

/**
 * The first rows that are not under way. Always from the lowest id on: ids are taken before they are committed, so one may
 * come late, and of its aggregate nothing later may go before it. What is under way is an array, which PostgreSQL hashes:
 * as a join it had the planner sort the whole outbox for each batch (6,600 rows/s, 15,000 so; November 2026).
 */
async function nextRows(connection: Kysely<object>, transport: string, underWay: readonly Row[]): Promise<Row[]> {
  const { rows } = await sql<Row>`
    select id, target, routing_key, message_id, body from outbox
    where transport = ${transport} and set_aside_at is null
      and id <> all(${underWay.map(({ id }) => id)}::bigint[])
    order by id limit ${BATCH}`.execute(connection);
  return rows;
}

/**
 * Publishes the outbox. One process leads, the others stand by.
 *
 *   standby ──got the advisory lock──► leading ──connection lost, stop──► standby | stopped
 *
 * RabbitMQ rows are handed out in id order with many confirms in flight on one channel, but of one aggregate (an event's
 * `subject`) a row goes out only when the one before it is confirmed: the broker may refuse a single message and take
 * those behind it, and what has gone out has gone out. Ids of one aggregate are in its order, since its row is locked
 * before they are taken. After a failure nothing more is handed out; what is confirmed is deleted, and the rest is
 * published again on a new run: the same id twice is the consumers' to ignore. BullMQ rows have a lane of their own, so
 * Redis away does not hold RabbitMQ up.
 */
export class Relay implements Service {
  readonly name = 'outbox relay';
  readonly #deps: {
    database: Database;
    publisher: Publisher;
    alarms: Alarms;
    topology: Topology;
    wake: Wake;
    log: Logger;
  };
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  /** One per lane: the call that an idle lane has heard may be news to the busy one. */
  readonly #bells = { rabbitmq: new Bell(), bullmq: new Bell() };
  #unsubscribe: (() => void) | undefined;
  /** The rows that no queue took when they were published last. */
  readonly #unroutable = new Set<string>();
  leading = false;

  constructor(deps: {
    database: Database;
    publisher: Publisher;
    alarms: Alarms;
    topology: Topology;
    wake: Wake;
    log: Logger;
  }) {
    this.#deps = { ...deps, log: deps.log.child({ service: 'relay' }) };
  }

  async start(): Promise<void> {
    this.#unsubscribe ??= this.#deps.wake.onWake(() => {
      for (const bell of Object.values(this.#bells)) bell.ring();
    });
    this.#running ??= this.#supervise();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#unsubscribe?.();
    await this.#running;
  }

  async #supervise(): Promise<void> {
    for (let failures = 0; !this.#stopping.signal.aborted; ) {
      try {
        await this.#term();
        failures = 0;
      } catch (error) {
        if (failures === 0) this.#deps.log.warn({ error: (error as Error).message }, 'the relay lost its connection');
        failures += 1;
      }
      this.leading = false;
      await pause(failures === 0 ? 1000 : backoffMs(failures, 100, 2000), this.#stopping.signal);
    }
  }

  /** One try to lead: returns at once when another process leads, else when the process stops; rejects when the connection breaks. */
  async #term(): Promise<void> {
    const pool = this.#deps.database.em.fork().getKysely<object>();
    await pool.connection().execute(async (connection) => {
      const { rows } = await sql<{ got: boolean }>`select pg_try_advisory_lock(${RELAY_LOCK}) as got`.execute(
        connection,
      );
      if (!rows[0]?.got) return;
      this.leading = true;
      this.#deps.log.debug('leading');
      const lanes = new AbortController();
      const stop = AbortSignal.any([lanes.signal, this.#stopping.signal]);
      try {
        const lane = (transport: 'rabbitmq' | 'bullmq') =>
          this.#lane(transport, connection, stop).finally(() => lanes.abort());
        // Lock and connection are given back only when neither lane works with them any more.
        const ends = await Promise.allSettled([lane('rabbitmq'), lane('bullmq')]);
        for (const end of ends) if (end.status === 'rejected') throw end.reason;
      } finally {
        // A broken connection has let go of the lock by itself, and the pool discards it.
        await sql`select pg_advisory_unlock(${RELAY_LOCK})`.execute(connection).catch(() => undefined);
      }
    });
  }

  /**
   * One transport's rows in id order. The next batch is read and handed over while the answers of the one before come
   * in; when those tell of a failure both are begun again from the first row that is left.
   */
  async #lane(transport: 'rabbitmq' | 'bullmq', connection: Kysely<object>, stop: AbortSignal): Promise<void> {
    const bell = this.#bells[transport];
    let run = new Run();
    stop.addEventListener('abort', () => {
      run.broken ??= new Error('the relay stops');
    });
    let underWay: Promise<Handed> | undefined;
    const hand = (rows: Row[]) => {
      if (!underWay) run = new Run(); // nothing is on its way that it could overtake
      return transport === 'rabbitmq' ? this.#publish(rows, run) : this.#schedule(rows);
    };
    let handedOut: Row[] = [];
    let failures = 0;
    while (!stop.aborted) {
      bell.quiet();
      const rows = await nextRows(connection, transport, handedOut);
      const next = rows.length > 0 ? hand(rows) : undefined;
      if (underWay) {
        const handed: Handed = await underWay;
        const error = await this.#settle(handed, connection);
        underWay = undefined;
        if (!error) failures = 0;
        else {
          if (failures === 0 && !stop.aborted)
            this.#deps.log.warn({ error: error.message, transport }, 'the outbox waits');
          // Where some of it is dealt with, the broker is not away.
          failures = handed.done.length + handed.aside.length > 0 ? 1 : failures + 1;
          if (next) await this.#settle(await next, connection);
          handedOut = [];
          await pause(backoffMs(failures, 50, 1000), stop);
          continue;
        }
      } else if (!next) {
        await bell.heard(POLL_MS, stop);
        continue;
      }
      underWay = next;
      handedOut = rows;
    }
    if (underWay) await this.#settle(await underWay, connection);
  }

  /** Deletes what went out, sets aside what cannot, and returns what held the rest up. */
  async #settle({ done, aside, error }: Handed, connection: Kysely<object>): Promise<Error | undefined> {
    if (done.length > 0) await sql`delete from outbox where id = any(${done}::bigint[])`.execute(connection);
    for (const { id, why } of aside) {
      this.#deps.log.error({ outbox_id: id, why }, 'an outbox row cannot be published and is set aside');
      await sql`update outbox set set_aside_at = now(), error = ${why} where id = ${id}`.execute(connection);
    }
    // Behind a row that was set aside everything is handed over again, as behind any failure.
    return error ?? (aside.length > 0 ? new Error('a row was set aside') : undefined);
  }

  async #publish(rows: Row[], run: Run): Promise<Handed> {
    const handed: Handed = { done: [], aside: [] };
    const messages: OrderedMessage[] = [];
    const ids: string[] = [];
    for (const row of rows) {
      try {
        messages.push(this.#message(row));
        ids.push(row.id);
      } catch (error) {
        handed.aside.push({ id: row.id, why: (error as Error).message });
      }
    }
    const results = await this.#deps.publisher.publishInOrder(messages, run, 5000);
    for (const [i, result] of results.entries()) {
      const id = ids[i] as string;
      // Once may be a queue that was gone until just now; the same row twice is not.
      const before = this.#unroutable.delete(id);
      if (result.status === 'fulfilled') handed.done.push(id);
      else if (result.reason instanceof Unroutable && before) handed.aside.push({ id, why: result.reason.message });
      else {
        if (result.reason instanceof Unroutable) this.#unroutable.add(id);
        handed.error ??= run.broken ?? (result.reason as Error);
      }
    }
    return handed;
  }

  /** An audit record has no order to keep: it says itself when it happened. Throws when the body is no JSON. */
  #message({ target, routing_key, message_id, body }: Row): OrderedMessage {
    const { topology } = this.#deps;
    const message = { routingKey: routing_key, body: Buffer.from(body), messageId: message_id, type: routing_key };
    if (target === 'audit') return { ...message, exchange: topology.audit, keys: [] };
    const { subject, orderingkey } = JSON.parse(body) as Partial<Envelope>;
    return {
      ...message,
      exchange: topology.events,
      keys: [
        ...(subject === undefined ? [] : [`subject ${subject}`]),
        ...(orderingkey === undefined ? [] : [`key ${orderingkey}`]),
      ],
      ...(orderingkey === undefined ? {} : { headers: ORDERED_HEADER }),
    };
  }

  async #schedule(rows: Row[]): Promise<Handed> {
    const alarms: Alarm[] = [];
    const good: string[] = [];
    const aside: { id: string; why: string }[] = [];
    for (const row of rows) {
      try {
        alarms.push(JSON.parse(row.body) as Alarm);
        good.push(row.id);
      } catch (error) {
        aside.push({ id: row.id, why: (error as Error).message });
      }
    }
    try {
      await this.#deps.alarms.set(alarms);
      return { done: good, aside };
    } catch (error) {
      return { done: [], aside, error: error as Error };
    }
  }
}
