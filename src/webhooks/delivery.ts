import type { Redis } from 'ioredis';
import { sql } from 'kysely';
import type { Registry } from 'prom-client';
import { newId } from '../domain/ids.ts';
import type { Alarm, Transact } from '../domain/messages/emit.ts';
import { SYSTEM } from '../domain/messages/envelope.ts';
import { currentTime } from '../services/clock.ts';
import type { Database } from '../services/database.ts';
import type { Keyring } from '../services/keyring.ts';
import type { Logger } from '../services/logger.ts';
import { attempt, isOurs, type Sent } from './attempt.ts';
import { type Awaited, advanceOldest, Breakers, bringBack, type Turned } from './breakers.ts';
import { Budget } from './budget.ts';
import { type Chunk, mayBeRecorded } from './chunk.ts';
import type { AttemptRecord } from './deliveries.ts';
import type { ActiveEndpoint, EndpointDirectory } from './directory.ts';
import { DISABLE_AFTER_MS, FailureWatch } from './failing.ts';
import { Gate, isByHand } from './gate.ts';
import { BUSY } from './holds.ts';
import { Lanes } from './lanes.ts';
import { disableAndTell } from './owner.ts';
import { fresh, type Parcel } from './parcel.ts';
import { type Pulled, Pump } from './pump.ts';
import { EndpointRates } from './rate.ts';
import { type DeliveryRow, Recorder } from './recorder.ts';
import { boundedDelay, nextDelay, retryAfterMs, type Schedule } from './schedule.ts';
import type { Sender } from './sender.ts';
import { Throttles } from './throttle.ts';
import { claimDue, claimInOrder, claimParked, findWaiting, LEASE_MARGIN_MS, postpone } from './waiting.ts';

export interface DeliveryDeps {
  database: Database;
  directory: EndpointDirectory;
  sender: Sender;
  transact: Transact;
  setAlarms: (alarms: Alarm[]) => Promise<void>;
  /** Sends at once in this process. */
  concurrency: number;
  schedule: Schedule;
  keyring: Keyring;
  /** Where the rates of endpoints are counted. */
  redis: Redis;
  namespace: string;
  /** An endpoint that only fails for so long is disabled, in ms. Default 5 days. */
  disableAfterMs?: number;
  metrics?: Registry;
  log: Logger;
}

/** Deliveries in memory for each send at once: enough to keep every slot busy, few enough to leave a backlog where it is. */
const AHEAD = 12;
/** Parked deliveries that are claimed and not recorded, for each send at once. */
const CLAIMED_AHEAD = 6;
/** A claimed delivery that has waited longer for its endpoint goes back: its lease must outlast its attempt, in ms. */
const STALE_MS = 5000;

const NOTHING: ReadonlySet<string> = new Set();

/**
 * Signs, posts, records. Fresh deliveries are posted from memory and written once, when they are over; what must wait
 * (a failed attempt, the overflow of a busy, throttled, rate limited or broken endpoint, a disabled endpoint) becomes a
 * row with an alarm.
 */
export class Deliveries {
  readonly #deps: DeliveryDeps;
  readonly #recorder: Recorder;
  readonly #lanes: Lanes;
  readonly #pump: Pump<Parcel>;
  readonly #throttles = new Throttles();
  readonly #breakers: Breakers;
  readonly #gate: Gate;
  readonly #posting: { sender: Sender; throttles: Throttles };
  readonly #failures: FailureWatch;
  readonly #budget = new Budget(() => AHEAD * this.#concurrency);
  /** Fresh deliveries that are begun and not over, by `endpoint\nevent`. */
  readonly #running = new Map<string, Promise<void>>();
  #concurrency: number;

  constructor(deps: DeliveryDeps) {
    const { database, setAlarms, log } = deps;
    this.#deps = deps;
    this.#breakers = new Breakers(database, log, {
      metrics: deps.metrics,
      onPaused: (pauses) => this.#throttles.learn(pauses),
    });
    this.#recorder = new Recorder({
      transact: deps.transact,
      setAlarms,
      breakers: this.#breakers,
      onTurned: (turned) => this.#turned(turned),
      log,
    });
    this.#lanes = new Lanes(deps.concurrency, (endpointId) => this.#pump.look(endpointId));
    this.#pump = new Pump({
      lanes: this.#lanes,
      pull: (endpointId, limit) => this.#pull(endpointId, limit),
      deliver: (parcel, onLong) => this.#deliver(parcel, onLong),
      most: () => CLAIMED_AHEAD * this.#concurrency,
      log,
    });
    const throttles = this.#throttles;
    const rates = new EndpointRates(deps.redis, deps.namespace);
    this.#gate = new Gate({ breakers: this.#breakers, throttles, rates, lanes: this.#lanes });
    this.#posting = { sender: deps.sender, throttles };
    this.#failures = new FailureWatch({ ...deps, disableAfterMs: deps.disableAfterMs ?? DISABLE_AFTER_MS });
    this.#concurrency = deps.concurrency;
  }

  /** Sends at once in this process from now on; those on their way are finished. */
  setConcurrency(concurrency: number): void {
    this.#concurrency = concurrency;
    this.#lanes.setConcurrency(concurrency);
  }

  /** What brings parked deliveries back. */
  get parked(): Pump<Parcel> {
    return this.#pump;
  }

  /**
   * Resolves when every delivery of the chunk is recorded, one way or another. Rejects with the first failure, and only
   * when the others are over: the chunk may be handed out again at once. A delivery that this process is at work on
   * already, since the broker handed its chunk out again meanwhile, is waited for and not sent.
   */
  async chunk(chunk: Chunk, redelivered: boolean): Promise<void> {
    const start = Promise.withResolvers<ReadonlySet<string>>();
    const own: Promise<void>[] = [];
    const others: Promise<void>[] = [];
    for (const event of chunk.events) {
      for (const [id, endpointId] of event.to) {
        const key = `${endpointId}\n${event.id}`;
        const running = this.#running.get(key);
        if (running) others.push(running);
        else own.push(this.#once(key, start.promise, fresh(event, id, endpointId)));
      }
    }
    const over = Promise.allSettled(own);
    if (own.length > 0) {
      await this.#budget.take(own.length);
      try {
        await Promise.all([this.#deps.directory.refresh(), this.#breakers.refresh()]);
        // Looked up as late as this: while it waited for room, others may have recorded it.
        start.resolve(mayBeRecorded(chunk, redelivered) ? await this.#recorded(chunk) : NOTHING);
      } catch (error) {
        start.reject(error);
      }
    }
    const failed = [...(await over), ...(await Promise.allSettled(others))].find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
  }

  /**
   * From here to its end the delivery is this process's one way to send this event to this endpoint. Resolves at its end,
   * or when it is kept.
   */
  #once(key: string, start: Promise<ReadonlySet<string>>, parcel: Parcel): Promise<void> {
    return new Promise((resolve, reject) => {
      const running = start
        .then((recorded) => (recorded.has(key) ? undefined : this.#deliver(parcel)))
        .finally(() => {
          this.#giveRoom(parcel);
          this.#running.delete(key);
        });
      this.#running.set(key, running);
      parcel.onKept = () => {
        this.#background(running);
        resolve();
      };
      running.then(resolve, reject);
    });
  }

  /** Nobody waits for it any more but the end of this process. */
  #background(delivery: Promise<void>): void {
    this.#pump.keep(
      delivery.catch((error: Error) => this.#deps.log.error({ err: error }, 'a delivery comes again after its lease')),
    );
  }

  /**
   * A fresh delivery whose answer takes long gets its row now, leased to this process: its chunk is not held up, and
   * whoever is handed the chunk again leaves it alone.
   */
  #keep(parcel: Parcel, { timeoutMs }: ActiveEndpoint): void {
    this.#giveRoom(parcel);
    const until = new Date(currentTime() + timeoutMs + LEASE_MARGIN_MS).toISOString();
    const row = {
      status: 'pending',
      reason: 'waits for an answer',
      next_attempt_at: until,
      lease_until: until,
    } as const;
    parcel.kept = this.#record(parcel, row).then(
      () => {
        parcel.kind = 'update';
        parcel.lease = until;
        parcel.onKept?.();
      },
      () => undefined, // its end is recorded as if it had not been tried
    );
  }

  /** Once for each delivery that took room. */
  #giveRoom(parcel: Parcel): void {
    if (!parcel.takesRoom) return;
    parcel.takesRoom = false;
    this.#budget.give();
  }

  /**
   * Answers an alarm. Resolves when the delivery is recorded, or once its answer takes long: the row is leased by then,
   * and alarms of others need the place.
   */
  alarm(id: string): Promise<void> {
    const long = Promise.withResolvers<void>();
    const over = this.#answer(id, () => {
      this.#background(over);
      long.resolve();
    });
    return Promise.race([over, long.promise]);
  }

  /** The row is claimed only when its endpoint's lane has room, so a lease never waits in a queue. */
  async #answer(id: string, onLong: () => void): Promise<void> {
    const em = this.#deps.database.em.fork();
    const waiting = await findWaiting(em, id);
    if (!waiting) return;
    const { endpointId, line, cause, parked } = waiting;
    await Promise.all([this.#deps.directory.refresh(), this.#breakers.refresh()]);
    const endpoint = this.#deps.directory.get(endpointId);
    const claim = async (): Promise<Parcel | undefined> => {
      const timeoutMs = endpoint?.timeoutMs ?? 0;
      const due = await (line ? claimInOrder(em, id, line, timeoutMs) : claimDue(em, id, timeoutMs));
      if (due && !('again' in due)) return { kind: 'update', line, ...due };
      if (due && due.again.length > 0) await this.#deps.setAlarms(due.again);
      return undefined;
    };
    if (!endpoint || endpoint.status === 'disabled') {
      const parcel = await claim();
      return parcel && this.#deliver(parcel, onLong);
    }
    await this.#recorder.whenReady();
    let made: { parcel: Parcel; sent: Sent } | undefined;
    const send = async (probe: boolean) => {
      const parcel = await claim();
      if (parcel) made = { parcel, sent: await attempt(parcel, endpoint, probe, this.#posting) };
      else if (probe && !isByHand(cause)) await this.#breakers.unclaim(endpoint.id);
      return made !== undefined;
    };
    const held = parked ? this.#gate.held(endpointId, cause) : undefined;
    if (parked && !held) return this.#pump.kick(endpointId); // its turn comes with its line
    const as = isByHand(cause) ? 'urgent' : 'due';
    const hold = held ?? (await this.#gate.through(endpoint, { as, cause, onLong }, send));
    if (made) return this.#settle(made.parcel, endpoint, made.sent);
    const put = hold && (await postpone(em, id, hold.until, hold.reason));
    if (put) await this.#deps.setAlarms(put.again);
    if (hold?.reason === BUSY) this.#pump.kick(endpointId);
  }

  /** The next ones of an endpoint's line, claimed. */
  async #pull(endpointId: string, limit: number): Promise<Pulled<Parcel>> {
    await Promise.all([this.#deps.directory.refresh(), this.#breakers.refresh(), this.#recorder.whenReady()]);
    const timeoutMs = this.#deps.directory.get(endpointId)?.timeoutMs ?? 0;
    const claimedAt = performance.now();
    const { parcels, again, more } = await claimParked(this.#deps.database.em.fork(), endpointId, { limit, timeoutMs });
    if (again.length > 0) await this.#deps.setAlarms(again);
    return { parcels: parcels.map(({ due, line }) => ({ kind: 'update', line, claimedAt, ...due })), more };
  }

  async #deliver(parcel: Parcel, claimedOnLong?: () => void): Promise<void> {
    const endpoint = this.#deps.directory.get(parcel.endpointId);
    if (!endpoint) return this.#record(parcel, { status: 'failed', reason: 'endpoint deleted' });
    if (endpoint.status === 'disabled') return this.#record(parcel, { status: 'held', reason: 'endpoint disabled' });
    await this.#recorder.whenReady();
    let sent: Sent | undefined;
    const as = parcel.claimedAt === undefined ? 'fresh' : 'parked';
    const onLong = claimedOnLong ?? (() => this.#keep(parcel, endpoint));
    const stale = () => parcel.claimedAt !== undefined && performance.now() - parcel.claimedAt >= STALE_MS;
    const hold = await this.#gate.through(endpoint, { as, cause: parcel.cause, onLong, stale }, async (probe) => {
      if (!stale()) sent = await attempt(parcel, endpoint, probe, this.#posting);
      else if (probe && !isByHand(parcel.cause)) await this.#breakers.unclaim(endpoint.id);
      return sent !== undefined;
    });
    this.#giveRoom(parcel);
    if (sent) return this.#settle(parcel, endpoint, sent);
    const { until, reason } = hold ?? this.#lanes.parkedHold(endpoint.id);
    await this.#record(parcel, {
      status: 'pending',
      reason,
      next_attempt_at: new Date(until).toISOString(),
      generation: parcel.generation + 1,
    });
    if (reason === BUSY) this.#pump.kick(endpoint.id);
  }

  async #settle(parcel: Parcel, endpoint: ActiveEndpoint, sent: Sent): Promise<void> {
    const { startedAt, attempted, outcome } = sent;
    const number = parcel.attempts + 1;
    const attempt: AttemptRecord = {
      id: newId(),
      number,
      started_at: startedAt.toISOString(),
      duration_ms: attempted.durationMs,
      status_code: attempted.statusCode,
      error: attempted.error,
      response_body: attempted.responseBody,
      cause: parcel.cause,
    };
    const record = (change: Change, exhausted = false) =>
      this.#record(parcel, { attempts: number, ...change }, { attempt, sent, exhausted });
    if (outcome === 'delivered') {
      await record({ status: 'delivered', reason: null, delivered_at: attempted.finishedAt.toISOString() });
      return this.#failures.succeeded(endpoint.id);
    }
    if (outcome === 'gone') {
      await record({ status: 'failed', reason: 'endpoint gone (410)' });
      return this.#disable(endpoint, { reason: 'it answered 410 Gone', why: 'it answered 410 Gone' });
    }
    const why = attempted.error?.replaceAll('no_usable_secret', 'no usable secret') ?? `status ${attempted.statusCode}`;
    const scheduled = nextDelay(this.#deps.schedule, number - parcel.scheduleFrom);
    if (scheduled === null) {
      await record({ status: 'failed', reason: `gave up after ${number} attempts: ${why}` }, true);
    } else {
      const at = currentTime() + boundedDelay(scheduled, retryAfterMs(attempted.retryAfter, currentTime()));
      await record({ status: 'pending', reason: why, next_attempt_at: new Date(at).toISOString() });
    }
    if (!isOurs(attempted)) await this.#failures.failed(endpoint.id);
  }

  async #disable(endpoint: ActiveEndpoint, told: { reason: string; why: string }): Promise<void> {
    const id = newId();
    await this.#deps.transact({ requestId: id, correlationId: id, actor: SYSTEM }, (unit) =>
      disableAndTell(unit, endpoint.id, told, this.#deps.keyring),
    );
    this.#deps.log.warn({ endpoint: endpoint.id, reason: told.reason }, 'an endpoint is disabled');
  }

  #turned(turned: Turned): void {
    this.#breakers.taken(turned);
    const em = () => this.#deps.database.em.fork();
    const alarm = (rows: Awaited[]) =>
      this.#deps.setAlarms(
        rows.map(({ attempts, ...row }): Alarm => ({ queue: 'webhooks', attempt: attempts, ...row })),
      );
    const later = (error: Error) =>
      this.#deps.log.debug({ error: error.message }, 'deliveries behind a breaker come in their own time');
    for (const endpointId of turned.closed)
      bringBack(em(), endpointId, this.#lanes.stepMs(endpointId), alarm).catch(later);
    for (const { endpointId, until } of turned.opened)
      advanceOldest(em(), endpointId, until)
        .then((oldest) => oldest && alarm([oldest]))
        .catch(later);
  }

  async #record(
    parcel: Parcel,
    change: Change,
    made: { attempt: AttemptRecord; sent: Sent; exhausted: boolean } | null = null,
  ): Promise<void> {
    const delivery: DeliveryRow = {
      id: parcel.id,
      tenant: parcel.tenant,
      endpoint_id: parcel.endpointId,
      event_id: parcel.eventId,
      event_type: parcel.eventType,
      correlation_id: parcel.correlation,
      attempts: parcel.attempts,
      generation: parcel.generation,
      next_attempt_at: null,
      lease_until: null,
      delivered_at: null,
      ...change,
    };
    if (parcel.kept) await parcel.kept;
    return this.#recorder.record({
      kind: parcel.kind,
      lease: parcel.lease,
      delivery,
      attempt: made?.attempt ?? null,
      exhausted: made?.exhausted ? { ...parcel, attempts: delivery.attempts, last: made.sent.attempted } : undefined,
      line: parcel.line,
      verdict:
        made && !isOurs(made.sent.attempted)
          ? {
              endpointId: parcel.endpointId,
              failed: made.sent.outcome !== 'delivered',
              probe: made.sent.probe,
              pause: made.sent.pause,
            }
          : undefined,
    });
  }

  /** Which deliveries of a chunk that was handed out before are recorded already, as `endpoint\nevent`. */
  async #recorded(chunk: Chunk): Promise<Set<string>> {
    const pairs = chunk.events.flatMap((event) =>
      event.to.map(([, endpointId]) => ({ endpointId, eventId: event.id })),
    );
    const { rows } = await sql<{ endpoint_id: string; event_id: string }>`
      select d.endpoint_id, d.event_id from webhook_deliveries d
      join unnest(${pairs.map((p) => p.endpointId)}::uuid[], ${pairs.map((p) => p.eventId)}::text[]) as k (endpoint_id, event_id) using (endpoint_id, event_id)`.execute(
      this.#deps.database.em.fork().getKysely(),
    );
    return new Set(rows.map((row) => `${row.endpoint_id}\n${row.event_id}`));
  }
}

type Change = Partial<DeliveryRow> & Pick<DeliveryRow, 'status' | 'reason'>;
