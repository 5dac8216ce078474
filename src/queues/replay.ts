import type { DeadLetterRecord } from '../domain/dead-letters/list.ts';
import {
  closeOperation,
  type LockedLetter,
  lockDeadLetters,
  mustBeDead,
  reopenOperation,
  resolveDeadLetters,
} from '../domain/dead-letters/resolve.ts';
import { isUuid } from '../domain/ids.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import { refuse } from '../domain/problem.ts';
import type { Database } from '../services/database.ts';
import { HEADERS } from './incoming.ts';
import type { Messaging } from './messaging.ts';
import { Unroutable } from './publisher.ts';

/** The broker has this long to confirm one message. */
const CONFIRM_MS = 5000;
/** Letters per transaction: a short lock, and what was confirmed is marked soon. */
const CHUNK = 50;

interface Round {
  records: DeadLetterRecord[];
  /** Their queue is gone. */
  unroutable: LockedLetter[];
  /** What ended the round before all of it was published. */
  failure?: Error;
}

/**
 * Brings dead letters back to the queue in which they died: the same id and body, attempts counted anew, and a sign to
 * look for a result before doing anything.
 *
 * Under the lock of the letter's row: open its operation again → publish, confirmed → mark it replayed. So of two
 * replays the second waits and finds it marked. A process that dies after the publish leaves the letter unmarked; the
 * next replay publishes a second copy, which the operation's row (for an event, the inbox) makes harmless. One that
 * dies before it leaves the operation running, until the letter is replayed or discarded.
 */
export class Replay {
  readonly #database: Database;
  readonly #messaging: Pick<Messaging, 'publisher' | 'topology' | 'transact'>;
  #last: Promise<unknown> = Promise.resolve();

  constructor(deps: { database: Database; messaging: Pick<Messaging, 'publisher' | 'topology' | 'transact'> }) {
    this.#database = deps.database;
    this.#messaging = deps.messaging;
  }

  /**
   * Replays one. Refuses with NOT_FOUND, and with CONFLICT when it was resolved already or its queue is gone. Throws
   * `BrokerUnavailable` when the broker does not confirm within 5 s; it is then still dead.
   */
  async one(context: RequestContext, id: string): Promise<DeadLetterRecord> {
    const { records, unroutable, failure } = await this.#round(context, [id], (letters) => {
      const letter = letters[0] ?? refuse('NOT_FOUND', 'there is no such dead letter');
      mustBeDead(letter);
    });
    if (failure) throw failure;
    const [gone] = unroutable;
    if (gone) refuse('CONFLICT', `there is no queue "${gone.queue}" any more`);
    const [record] = records;
    if (!record) throw new Error('a locked row is gone');
    return record;
  }

  /**
   * Replays many, in the given order of chunks; returns how many were. Letters that were resolved meanwhile, and those
   * whose queue is gone, are left as they are. Throws `BrokerUnavailable` at the first that is not confirmed: what went
   * before is replayed and stays so.
   */
  async many(context: RequestContext, ids: string[]): Promise<number> {
    let replayed = 0;
    for (let at = 0; at < ids.length; at += CHUNK) {
      const { records, failure } = await this.#round(context, ids.slice(at, at + CHUNK));
      replayed += records.length;
      if (failure) throw failure;
    }
    return replayed;
  }

  /** One round at a time: each needs a second connection beside its transaction's, and must never wait for its own kind. */
  #round(context: RequestContext, ids: string[], check?: (letters: LockedLetter[]) => void): Promise<Round> {
    const next = this.#last.then(() =>
      this.#messaging.transact(context, async (unit) => {
        const letters = await lockDeadLetters(unit.em, ids);
        check?.(letters);
        const published: LockedLetter[] = [];
        const round: Round = { records: [], unroutable: [] };
        for (const letter of letters) {
          if (letter.status !== 'dead') continue;
          try {
            await this.#publish(letter);
            published.push(letter);
          } catch (error) {
            if (error instanceof Unroutable) round.unroutable.push(letter);
            else {
              round.failure = error as Error;
              break;
            }
          }
        }
        round.records = await resolveDeadLetters(unit, published, 'replayed');
        return round;
      }),
    );
    this.#last = next.catch(() => undefined);
    return next;
  }

  async #publish(letter: LockedLetter): Promise<void> {
    const { message_id: id, message_type: type } = letter;
    if (Buffer.byteLength(letter.queue) > MAX_SHORT_STRING) throw new Unroutable('no queue has such a name');
    // Committed before the publish, beside the transaction that holds the lock: the worker must find it.
    const em = this.#database.em.fork();
    const failed = id !== null && type !== null && isUuid(id) ? await reopenOperation(em, id, type) : undefined;
    const replyTo = letter.headers[HEADERS.replyTo];
    try {
      await this.#messaging.publisher.publish(
        {
          exchange: this.#messaging.topology.back,
          routingKey: letter.queue,
          body: letter.body,
          messageId: shortString(id) ?? letter.id,
          type: shortString(type) ?? '',
          // Of the old headers only our own: the broker acts on some of a stranger's (CC, BCC).
          headers: {
            [HEADERS.repeat]: true,
            [HEADERS.replayOf]: letter.id,
            ...(typeof replyTo === 'string' ? { [HEADERS.replyTo]: replyTo } : {}),
          },
        },
        CONFIRM_MS,
      );
    } catch (error) {
      if (failed && id !== null) await closeOperation(em, id, failed);
      throw error;
    }
  }
}

/** AMQP 0-9-1, section 4.2.5.3: a short string holds up to 255 bytes. */
const MAX_SHORT_STRING = 255;

const shortString = (text: string | null): string | undefined =>
  text !== null && Buffer.byteLength(text) <= MAX_SHORT_STRING ? text : undefined;
