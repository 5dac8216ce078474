import { newId } from '../domain/ids.ts';
import { backoffMs, pause } from '../services/service.ts';
import type { Incoming } from './consumer.ts';
import { BrokerUnavailable } from './gateway.ts';
import { attemptsBefore, HEADERS, textHeader } from './incoming.ts';
import { letterId } from './letter-id.ts';
import type { Publisher } from './publisher.ts';
import { type Topology, tierFor } from './topology.ts';

/**
 * Where a message goes that was not handled. Each way publishes a confirmed copy; only then may
 * the original be acknowledged. Resolves with the confirm, however long the broker takes: a hand-out given back instead
 * would count against the message's delivery limit.
 */
export class Detour {
  readonly #publisher: Publisher;
  readonly #topology: Topology;
  readonly #queue: string;

  constructor(publisher: Publisher, topology: Topology, queue: string) {
    this.#publisher = publisher;
    this.#topology = topology;
    this.#queue = queue;
  }

  /** Back to this queue after at least `delayMs`. `attempts` counts the tries so far. */
  async retry(message: Incoming, delayMs: number, attempts: number, why: string): Promise<void> {
    const tier = tierFor(delayMs);
    await this.#send(message, this.#topology.delay(tier.name), this.#queue, {
      [HEADERS.attempt]: attempts,
      [HEADERS.repeat]: true,
      [HEADERS.firstError]: textHeader(message, HEADERS.firstError) ?? why.slice(0, 1000),
      [HEADERS.lastError]: why.slice(0, 1000),
    });
  }

  /** To the dead letters. The letter's id follows from the message, so a message that is buried twice is one letter. */
  async bury(message: Incoming, reason: string, worker?: string, attempts = attemptsBefore(message)): Promise<void> {
    await this.#send(message, this.#topology.dead, '', this.#letter(message, reason, worker, attempts));
  }

  /** To the dead letters, by a worker's decision: the command's operation fails with `reason`. */
  async discard(message: Incoming, reason: string, worker: string, attempts: number): Promise<void> {
    await this.#send(message, this.#topology.dead, '', {
      ...this.#letter(message, reason, worker, attempts),
      [HEADERS.verdict]: reason.slice(0, 1000),
    });
  }

  #letter(message: Incoming, reason: string, worker: string | undefined, attempts: number): Record<string, unknown> {
    return {
      [HEADERS.attempt]: attempts,
      [HEADERS.reason]: reason.slice(0, 2000),
      [HEADERS.queue]: this.#queue,
      [HEADERS.letter]: letterId(message, this.#queue, attempts),
      ...(worker ? { [HEADERS.worker]: worker } : {}),
    };
  }

  async #send(
    message: Incoming,
    exchange: string,
    routingKey: string,
    headers: Record<string, unknown>,
  ): Promise<void> {
    const kept = Object.fromEntries(
      Object.entries(message.headers).filter(
        ([name]) => !name.startsWith('x-death') && !name.startsWith('x-first-death') && name !== HEADERS.verdict,
      ),
    );
    const copy = {
      exchange,
      routingKey,
      body: message.body,
      messageId: message.messageId || newId(),
      type: message.type,
      headers: { ...kept, ...headers },
    };
    for (let tries = 0; ; tries += 1) {
      try {
        return await this.#publisher.publish(copy);
      } catch (error) {
        if (!(error instanceof BrokerUnavailable) || this.#publisher.stopped) throw error;
        await pause(backoffMs(tries, 100, 2000));
      }
    }
  }
}
