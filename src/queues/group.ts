import type { Outcome } from '../domain/messages/outcome.ts';
import { insertFinished, type OperationEnd, type OperationStart } from '../domain/operations/operations.ts';
import type { Database } from '../services/database.ts';
import type { Logger } from '../services/logger.ts';
import { within } from './deadline.ts';
import { OutboxEmit } from './outbox.ts';
import type { Together } from './worker.ts';

/** A command on its way into a shared transaction. */
export interface Member {
  by: Together;
  key: string;
  request: unknown;
  emit: OutboxEmit;
  start: OperationStart;
}

interface Waiting extends Member {
  settle: (outcome: Outcome | undefined) => void;
}

/**
 * Group commit of commands. What comes while one transaction is on its way shares the next, so the more there is to do
 * the less each costs, and nobody waits for a group to fill.
 *
 *   idle ──first command──► gathering (to the end of this turn) ──► committing ──► idle | committing
 *
 * A command is in its group only once and only on its first way: its operation row is inserted finished, with the
 * changes and the outbox rows of all. When anything fails, or any of the operations exists already, everything is taken
 * back and each command goes on alone, where the operation is claimed before the work is done.
 */
export class Group {
  readonly #database: Database;
  readonly #wake: () => void;
  readonly #log: Logger;
  #waiting: Waiting[] = [];
  #busy = false;

  constructor(deps: { database: Database; wake: () => void; log: Logger }) {
    this.#database = deps.database;
    this.#wake = deps.wake;
    this.#log = deps.log;
  }

  /** Resolves with the outcome after the commit, or with `undefined` when the command is to be handled alone. */
  take(member: Member): Promise<Outcome | undefined> {
    return new Promise((settle) => {
      this.#waiting.push({ ...member, settle });
      if (this.#busy) return;
      this.#busy = true;
      setImmediate(() => void this.#run());
    });
  }

  async #run(): Promise<void> {
    for (let members = this.#next(); members.length > 0; members = this.#next()) {
      const outcomes = await this.#handle(members).catch((error: Error) => {
        this.#log.debug({ error: error.message, size: members.length }, 'commands are handled one by one');
        return [];
      });
      for (const [i, member] of members.entries()) member.settle(outcomes[i]);
    }
    this.#busy = false;
  }

  /** The oldest and all that can go with it. */
  #next(): Waiting[] {
    const keys = new Set<string>();
    const [members, others]: [Waiting[], Waiting[]] = [[], []];
    const by = this.#waiting[0]?.by;
    for (const waiting of this.#waiting) {
      const fits = waiting.by === by && members.length < waiting.by.size && !keys.has(waiting.key);
      keys.add(waiting.key);
      (fits ? members : others).push(waiting);
    }
    this.#waiting = others;
    return members;
  }

  async #handle(members: readonly Member[]): Promise<(Outcome | undefined)[]> {
    const { by } = members[0] as Member;
    const outcomes = await this.#database.em.fork().transactional(async (em) => {
      const requests = members.map(({ request }) => request);
      const said = await within(by.timeoutMs, by.name, () => by.handle(requests, em));
      const ended: { start: OperationStart; end: OperationEnd }[] = [];
      for (const [i, { start, emit }] of members.entries()) {
        const outcome = said[i];
        if (outcome) ended.push({ start, end: endOf(outcome) });
        if (outcome?.kind !== 'done') emit.rewind(0);
      }
      if (!(await insertFinished(em, ended))) throw new Error('one of the operations exists already');
      const emits = members.map(({ emit }) => emit);
      await OutboxEmit.flushAll(em, emits);
      return said;
    });
    if (members.some(({ emit }) => !emit.empty)) this.#wake();
    return outcomes;
  }
}

function endOf(outcome: Outcome): OperationEnd {
  if (outcome.kind === 'done') return { status: 'succeeded', result: outcome.result, httpStatus: outcome.status };
  if (outcome.kind === 'reject') return { status: 'failed', error: outcome.problem };
  throw new Error(`"${outcome.kind}" is no outcome of a group`);
}
