import { type Kysely, sql } from 'kysely';
import type { Alarm } from '../domain/messages/emit.ts';
import type { Database } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { backoffMs, pause, type Service } from '../services/service.ts';
import type { Alarms } from './alarms.ts';
import { type Publisher, type Run, Unroutable } from './publisher.ts';
import { ORDERED_HEADER, type Topology } from './topology.ts';
import type { Wake } from './wake.ts';

/** Session advisory lock of the one relay that publishes; its holder's death frees it. */
const RELAY_LOCK = 7_120_002;
/** The net under the wake-up signals. */
const POLL_MS = 100;
/** Two batches of 500 reach 36 % of a bare confirmed publish, of 1,000 and overlapped more than half (November 2026). */
const BATCH = 1000;
/** Every so many batches from the lowest id on. */
const RESTART = 20;

interface Row {
  id: string;
  target: string;
  routing_key: string;
  message_id: string;
  body: string;
}

/** What came of a batch: gone out, in order up to the first that did not; unpublishable; what held the rest up. */
interface Handed {
  done: string[];
  aside: { id: string; why: string }[];
  error?: Error;
}

async function nextRows(connection: Kysely<object>, transport: string, after: string): Promise<Row[]> {
  const { rows } = await sql<Row>`
    select id, target, routing_key, message_id, body from outbox
    where transport = ${transport} and set_aside_at is null and id > ${after}::bigint order by id limit ${BATCH}`.execute(
    connection,
  );
  return rows;
}

/**
 * Publishes the outbox. One process leads, the others stand by.
 *
 *   standby ──got the advisory lock──► leading ──connection lost, stop──► standby | stopped
 *
 * RabbitMQ rows go out strictly in id order with many confirms in flight on one channel. Only the confirmed head of a
 * batch is deleted: after a failure nothing behind it is handed out any more, and everything from it on is published
 * again on a new run, so order holds and the same id twice is the consumers' inbox to ignore. BullMQ rows have a lane of their own, so Redis away does not hold RabbitMQ up.
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
  #woken: (() => void)[] = [];
  #pending = false;
  #unsubscribe: (() => void) | undefined;
  /** The row that no queue took when it was published last. */
  #unroutable: string | undefined;
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
      this.#pending = true;
      for (const wake of this.#woken.splice(0)) wake();
    });
    this.#running ??= this.#supervise();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#unsubscribe?.();
    for (const wake of this.#woken.splice(0)) wake();
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
    let run: Run = {};
    let underWay: Promise<Handed> | undefined;
    const hand = (rows: Row[]) => {
      if (!underWay) run = {}; // nothing is on its way that it could overtake
      return transport === 'rabbitmq' ? this.#publish(rows, run) : this.#schedule(rows);
    };
    let after = '0';
    let failures = 0;
    for (let turn = 1; !stop.aborted; turn += 1) {
      this.#pending = false;
      const rows = await nextRows(connection, transport, after);
      const next = rows.length > 0 ? hand(rows) : undefined;
      if (underWay) {
        const error = await this.#settle(await underWay, connection);
        underWay = undefined;
        failures = error ? failures + 1 : 0;
        if (error) {
          if (failures === 1) this.#deps.log.warn({ error: error.message, transport }, 'the outbox waits');
          await next;
          after = '0';
          await pause(backoffMs(failures, 50, 1000), stop);
          continue;
        }
      } else if (!next) {
        await this.#idle(stop);
        continue;
      }
      underWay = next;
      after = rows.at(-1)?.id ?? '0';
      // Ids are taken before they are committed: one that comes late stands behind `after`, so now and then from the start.
      if (turn % RESTART === 0 && underWay) {
        await this.#settle(await underWay, connection);
        underWay = undefined;
        after = '0';
      }
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
    const messages = rows.map((row) => ({
      exchange: row.target === 'audit' ? this.#deps.topology.audit : this.#deps.topology.events,
      routingKey: row.routing_key,
      body: Buffer.from(row.body),
      messageId: row.message_id,
      type: row.routing_key,
      ...(keepsOrder(row) ? { headers: ORDERED_HEADER } : {}),
    }));
    const results = await this.#deps.publisher.publishInOrder(messages, run, 5000);
    const done: string[] = [];
    for (const [i, result] of results.entries()) {
      const row = rows[i] as Row;
      if (result.status === 'fulfilled') {
        done.push(row.id);
        continue;
      }
      const error = result.reason as Error;
      // Once may be a queue that was gone until just now; the same row twice is not.
      const twice = error instanceof Unroutable && this.#unroutable === row.id;
      this.#unroutable = error instanceof Unroutable ? row.id : undefined;
      return twice ? { done, aside: [{ id: row.id, why: error.message }] } : { done, aside: [], error };
    }
    return { done, aside: [] };
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

  /** Until a wake-up or the poll interval, whichever comes first. */
  async #idle(stop: AbortSignal): Promise<void> {
    if (this.#pending) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(wake, POLL_MS);
      function wake() {
        clearTimeout(timer);
        stop.removeEventListener('abort', wake);
        resolve();
      }
      stop.addEventListener('abort', wake, { once: true });
      this.#woken.push(wake);
    });
  }
}

/** Few events have an ordering key, so most are told by a look at their text and are not parsed. */
const keepsOrder = ({ target, body }: Row): boolean =>
  target === 'events' &&
  body.includes('"orderingkey"') &&
  (JSON.parse(body) as { orderingkey?: string }).orderingkey !== undefined;
