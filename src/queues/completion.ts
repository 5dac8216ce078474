import { randomUUID } from 'node:crypto';
import type { Redis } from 'ioredis';
import type { Contract } from '../domain/messages/contracts.ts';
import { envelope } from '../domain/messages/contracts.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import { findOperations, type OperationRow } from '../domain/operations/operations.ts';
import type { Database } from '../services/database.ts';
import { connectSoon } from '../services/redis.ts';
import { type Service, TimeoutError, withDeadline } from '../services/service.ts';
import type { CommandAnswer, CommandGateway } from './gateway.ts';
import { HEADERS } from './incoming.ts';
import type { Publisher } from './publisher.ts';
import type { Topology } from './topology.ts';

/** The broker has this long to confirm a command before its caller gets a 503. */
const CONFIRM_MS = 1800;
/** When to look at the row without having been called, in ms after the start of a wait; then each second. */
const LOOKS = [100, 500, 1000];
/** The first look while Redis would have called: at 100 ms every command of a busy moment cost one more query. */
const FIRST_LOOK_MS = 300;
/** A look at the very end of a wait still gets this long, so a wait may be as much longer while PostgreSQL is slow. */
const LAST_LOOK_MS = 100;

/**
 * Sends commands and waits for their workers. One Redis channel per process carries finished operation ids, several in one message; the answer
 * itself is read from the row. The row is also looked at now and then, so Redis away costs latency and nothing else.
 */
export class Completions implements CommandGateway, Service {
  readonly name = 'command gateway';
  readonly #publisher: Publisher;
  readonly #topology: Topology;
  readonly #database: Database;
  readonly #subscriber: Redis;
  readonly #replyTo: string;
  readonly #waiters = new Map<string, Set<() => void>>();
  /** The next query, and the ids that it is to ask for. */
  #reading: Promise<Map<string, OperationRow>> | undefined;
  #asked: string[] = [];
  #released = false;

  constructor(deps: { publisher: Publisher; topology: Topology; database: Database; subscriber: Redis }) {
    this.#publisher = deps.publisher;
    this.#topology = deps.topology;
    this.#database = deps.database;
    this.#subscriber = deps.subscriber;
    this.#replyTo = `${deps.topology.namespace}:done:${randomUUID()}`;
  }

  async start(): Promise<void> {
    this.#subscriber.on('message', (channel: string, ids: string) => {
      if (channel !== this.#replyTo) return;
      for (const id of ids.split(' ')) for (const wake of this.#waiters.get(id) ?? []) wake();
    });
    connectSoon(this.#subscriber);
    // ioredis subscribes again after a reconnect; the first time it waits for the connection by itself.
    this.#subscriber.subscribe(this.#replyTo).catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.release();
  }

  /** Ends every wait at once, with what there is now; from here on nobody waits for a worker. */
  release(): void {
    this.#released = true;
    for (const wakes of this.#waiters.values()) for (const wake of wakes) wake();
  }

  async send<T>(
    contract: Contract<T>,
    data: T,
    context: RequestContext,
    options: { operationId: string; waitMs: number; repeat?: boolean },
  ): Promise<CommandAnswer> {
    const message = {
      ...envelope(contract, data, context, { id: options.operationId }),
      ...(context.ip ? { clientip: context.ip } : {}),
      ...(context.userAgent ? { useragent: context.userAgent } : {}),
    };
    const wait = options.waitMs > 0 ? this.#watch(options.operationId, options.waitMs) : undefined;
    try {
      await this.#publisher.publish(
        {
          exchange: this.#topology.commands,
          routingKey: contract.type,
          body: Buffer.from(JSON.stringify(message)),
          messageId: options.operationId,
          type: contract.type,
          headers: { [HEADERS.replyTo]: this.#replyTo, ...(options.repeat ? { [HEADERS.repeat]: true } : {}) },
        },
        CONFIRM_MS,
      );
    } catch (error) {
      wait?.cancel();
      throw error;
    }
    const row = await wait?.result;
    return { operationId: options.operationId, operation: isFinished(row) ? row : undefined };
  }

  async await(operationId: string, waitMs: number, withinMs = waitMs): Promise<OperationRow | undefined> {
    const began = performance.now();
    const now = await (withinMs > 0 ? this.#readWithin(operationId, withinMs) : this.#read(operationId));
    const left = waitMs - (performance.now() - began);
    if (isFinished(now) || left <= 0) return now;
    return (await this.#watch(operationId, left).result) ?? now;
  }

  /** `undefined` also when the query takes longer than `ms`; it goes on, and nobody waits for it. */
  async #readWithin(id: string, ms: number): Promise<OperationRow | undefined> {
    try {
      return await withDeadline(this.#read(id), ms, 'reading an operation');
    } catch (error) {
      if (error instanceof TimeoutError) return undefined;
      throw error;
    }
  }

  /** What is asked for in one turn of the event loop is one query: a worker's group tells of many at once. */
  async #read(id: string): Promise<OperationRow | undefined> {
    this.#reading ??= new Promise<string[]>((resolve) => {
      const ids: string[] = [];
      this.#asked = ids;
      setImmediate(() => {
        this.#reading = undefined;
        resolve(ids);
      });
    }).then((ids) => findOperations(this.#database.em.fork(), ids));
    this.#asked.push(id);
    return (await this.#reading).get(id.toLowerCase());
  }

  /** Watches a row until it is finished, `waitMs` are over or the watch is cancelled; gives it as it was seen last. */
  #watch(id: string, waitMs: number): { result: Promise<OperationRow | undefined>; cancel: () => void } {
    const began = performance.now();
    let cancelled = false;
    let wake = () => {};
    const wakes = this.#waiters.get(id) ?? new Set();
    this.#waiters.set(id, wakes);
    // A call that comes while the row is being read counts for the next look.
    let called = false;
    const onCall = () => {
      called = true;
      wake();
    };
    wakes.add(onCall);
    const look = async (): Promise<OperationRow | undefined> => {
      let seen: OperationRow | undefined;
      try {
        for (let n = 0; !cancelled; n += 1) {
          const elapsed = performance.now() - began;
          const left = waitMs - elapsed;
          if (left <= 0) return seen;
          const mayBeCalled = this.#subscriber.status === 'ready';
          const next = n === 0 && mayBeCalled ? FIRST_LOOK_MS : (LOOKS[n] ?? elapsed + 1000);
          if (!called && !this.#released) {
            await new Promise<void>((resolve) => {
              const timer = setTimeout(resolve, Math.max(0, Math.min(next - elapsed, left)));
              wake = () => {
                clearTimeout(timer);
                resolve();
              };
            });
          }
          called = false;
          if (cancelled) return seen;
          const most = Math.max(LAST_LOOK_MS, waitMs - (performance.now() - began));
          seen = (await this.#readWithin(id, most).catch(() => undefined)) ?? seen;
          if (isFinished(seen) || this.#released) return seen;
        }
        return seen;
      } finally {
        wakes.delete(onCall);
        if (wakes.size === 0) this.#waiters.delete(id);
      }
    };
    return {
      result: look(),
      cancel: () => {
        cancelled = true;
        wake();
      },
    };
  }
}

const isFinished = (row: OperationRow | undefined): boolean => row !== undefined && row.status !== 'running';
