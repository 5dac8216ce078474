import { type JobsOptions, Queue, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Alarm, AlarmQueue } from '../domain/messages/emit.ts';
import { currentTime } from '../services/clock.ts';
import type { Logger } from '../services/logger.ts';
import { type Service, withDeadline } from '../services/service.ts';
import { within } from './deadline.ts';
import type { AlarmWorker } from './worker.ts';

export const ALARM_QUEUES: AlarmQueue[] = ['email', 'webhooks'];

/**
 * An alarm that could not be answered (PostgreSQL away) rings again each second, half a minute long: from then on the
 * row is overdue, and the reconciler's sweep sees to it.
 */
const JOB: JobsOptions = {
  removeOnComplete: true,
  removeOnFail: true,
  attempts: 30,
  backoff: { type: 'fixed', delay: 1000 },
};

/** A job id may hold no colon; an equal id that still waits is the same alarm. */
const jobId = (alarm: Alarm): string => `${alarm.id}-${alarm.attempt}-${alarm.generation}`;

/**
 * Alarm clocks in Redis for rows in PostgreSQL. Losing one loses nothing: the row still says when it is due, and the
 * reconciler sets the alarm again.
 */
export class Alarms {
  readonly #connection: Redis;
  readonly #queues: Map<AlarmQueue, Queue>;
  #connecting: Promise<void> | undefined;

  constructor(connection: Redis, namespace: string) {
    this.#connection = connection;
    this.#queues = new Map(
      ALARM_QUEUES.map((name) => {
        const queue = new Queue(name, { connection, prefix: namespace, skipVersionCheck: true });
        queue.on('error', () => undefined); // the client logs its own outages
        return [name, queue];
      }),
    );
  }

  /**
   * Sets alarms, many in one round trip. Rejects at once while Redis is away, within 5 s when it does not answer: BullMQ
   * would keep each call, with its jobs, until Redis is back.
   */
  async set(alarms: Alarm[]): Promise<void> {
    if (alarms.length > 0) await this.#connected();
    for (const [name, queue] of this.#queues) {
      const mine = alarms.filter((alarm) => alarm.queue === name);
      if (mine.length === 0) continue;
      const now = currentTime();
      const jobs = mine.map((alarm) => ({
        name,
        data: { id: alarm.id },
        opts: { ...JOB, jobId: jobId(alarm), delay: Math.max(0, alarm.at - now) },
      }));
      await withDeadline(queue.addBulk(jobs), 5000, 'setting alarms');
    }
  }

  /**
   * Sets the alarms of rows that are long due. One that lies in Redis for a later time rings now: it was set by a process
   * whose clock was ahead, or when the clocks of all were set back.
   */
  async ringNow(alarms: Alarm[]): Promise<void> {
    await this.set(alarms);
    for (const [name, queue] of this.#queues) {
      const ids = alarms.filter((alarm) => alarm.queue === name).map(jobId);
      if (ids.length === 0) continue;
      const scores = await withDeadline(
        this.#connection.zmscore(queue.toKey('delayed'), ids),
        5000,
        'looking at delayed alarms',
      );
      const late = ids.filter((_, i) => scores[i] !== null);
      for (const id of late) await (await queue.getJob(id))?.promote().catch(() => undefined); // it has rung meanwhile
    }
  }

  /** A process that has just started waits a moment for its first connection. */
  async #connected(): Promise<void> {
    const { status } = this.#connection;
    if (status === 'ready') return;
    if (!['wait', 'connecting', 'connect'].includes(status)) throw new Error('Redis is out of reach');
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = undefined;
    });
    await this.#connecting;
  }

  async #connect(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const lost = () => reject(new Error('Redis is out of reach'));
    this.#connection.once('ready', resolve).once('close', lost);
    try {
      await withDeadline(promise, 1000, 'connecting to Redis');
    } finally {
      this.#connection.off('ready', resolve).off('close', lost);
    }
  }

  /** Jobs by state, for the pool view. */
  async counts(name: AlarmQueue): Promise<{ waiting: number; delayed: number; active: number }> {
    const counts = await this.#queues.get(name)?.getJobCounts('waiting', 'prioritized', 'delayed', 'active');
    return {
      waiting: (counts?.waiting ?? 0) + (counts?.prioritized ?? 0),
      delayed: counts?.delayed ?? 0,
      active: counts?.active ?? 0,
    };
  }

  /** Removes every key of the queues. For tests and for the demo, which own their namespace. */
  async remove(): Promise<void> {
    for (const queue of this.#queues.values()) await queue.obliterate({ force: true });
  }

  async close(): Promise<void> {
    for (const queue of this.#queues.values())
      await withDeadline(queue.close(), 1000, 'closing a job queue').catch(() => undefined);
  }
}

interface AlarmOptions {
  connection: Redis;
  namespace: string;
  concurrency: number;
  measure: (worker: string, outcome: string, ms: number) => void;
}

/**
 * Answers the alarms of one queue with a worker's `handle`.
 *
 *   idle ──start──► answering ──pause──► paused ──resume──► answering
 *   answering ──another concurrency──► answering, by a new job worker
 *       any ──stop──► stopped
 *
 * Whoever leaves `answering` retires its job worker: it takes nothing new, finishes what it holds and closes. (Setting
 * `concurrency` on a busy one would show only when one of its jobs ends.) Only `#open` and `#retire` change `#bull`.
 */
export class AlarmConsumer implements Service {
  readonly name: string;
  readonly #worker: AlarmWorker;
  readonly #options: AlarmOptions;
  readonly #log: Logger;
  /** Retired job workers that are not closed yet. */
  readonly #retired = new Map<Worker, Promise<void>>();
  #bull: Worker | undefined;
  #concurrency: number;
  #started = false;
  #paused = false;
  #answering = 0;

  constructor(worker: AlarmWorker, options: AlarmOptions, log: Logger) {
    this.name = `alarms of ${worker.takes}`;
    this.#worker = worker;
    this.#options = options;
    this.#concurrency = options.concurrency;
    this.#log = log.child({ worker: worker.name });
  }

  get inFlight(): number {
    return this.#answering + (this.#worker.beside?.inFlight() ?? 0);
  }

  async start(): Promise<void> {
    this.#started = true;
    this.#open();
  }

  /** Takes nothing new until `resume`; what is in flight is finished. */
  pause(): void {
    this.#paused = true;
    this.#retire();
    void this.#worker.beside?.rest();
  }

  resume(): void {
    this.#paused = false;
    this.#worker.beside?.resume();
    this.#open();
  }

  /** Alarms answered at once from now on; those of before come on top until they are finished. */
  setConcurrency(concurrency: number): void {
    if (concurrency === this.#concurrency) return;
    this.#concurrency = concurrency;
    this.#retire();
    this.#open();
  }

  async stop(deadlineMs: number): Promise<void> {
    this.#started = false;
    this.#retire();
    await withDeadline(
      Promise.all([...this.#retired.values(), this.#worker.beside?.rest()]),
      deadlineMs,
      this.name,
    ).catch(() =>
      Promise.all(
        [...this.#retired.keys()].map((bull) => withDeadline(bull.close(true), 1000, this.name).catch(() => undefined)),
      ),
    );
  }

  #open(): void {
    if (!this.#started || this.#paused || this.#bull) return;
    this.#bull = new Worker(this.#worker.takes, (job) => this.#answer(job.data), {
      connection: this.#options.connection,
      prefix: this.#options.namespace,
      concurrency: this.#concurrency,
      // An alarm whose process was killed rings again when its lock has run out and a check has seen it: within 20 s.
      lockDuration: 15_000,
      stalledInterval: 5000,
      maxStalledCount: 10,
      skipVersionCheck: true,
    });
    this.#bull.on('error', (error) => this.#log.debug({ error: error.message }, 'job worker error'));
  }

  #retire(): void {
    const bull = this.#bull;
    if (!bull) return;
    this.#bull = undefined;
    const closed = bull.close().then(
      () => void this.#retired.delete(bull),
      () => void this.#retired.delete(bull),
    );
    this.#retired.set(bull, closed);
  }

  async #answer(data: unknown): Promise<void> {
    const id = (data as { id?: unknown } | undefined)?.id;
    if (typeof id !== 'string') {
      this.#log.warn('dropped an alarm without a row id');
      return;
    }
    const began = performance.now();
    this.#answering += 1;
    try {
      await within(this.#worker.timeoutMs, this.#worker.name, (signal) =>
        this.#worker.handle(id, { log: this.#log, signal }),
      );
      this.#options.measure(this.#worker.name, 'done', performance.now() - began);
    } catch (error) {
      this.#log.error({ err: error, row: id }, 'an alarm could not be answered');
      this.#options.measure(this.#worker.name, 'failed', performance.now() - began);
      throw error; // the row is still due or leased: the alarm rings again
    } finally {
      this.#answering -= 1;
    }
  }
}
