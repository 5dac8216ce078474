import type { Contract } from '../domain/messages/contracts.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import type { OperationRow } from '../domain/operations/operations.ts';

/** What came of a command: its finished operation, or nothing yet. */
export interface CommandAnswer {
  operationId: string;
  operation: OperationRow | undefined;
}

export interface CommandGateway {
  /**
   * Publishes a command, waits for the broker's confirm, then up to `waitMs` for the worker's result.
   * `repeat` says that the operation may be done already, so the worker looks before it begins.
   * Throws `BrokerUnavailable` (→ 503) when the broker cannot confirm within 2 s.
   */
  send<T>(
    contract: Contract<T>,
    data: T,
    context: RequestContext,
    options: { operationId: string; waitMs: number; repeat?: boolean },
  ): Promise<CommandAnswer>;
  /**
   * Waits up to `waitMs` for an operation's row to be finished; answers with what there is. `undefined` also when
   * PostgreSQL has not told of it within `withinMs` (`waitMs` unless given; 0: however long it takes).
   */
  await(operationId: string, waitMs: number, withinMs?: number): Promise<OperationRow | undefined>;
}

/** The broker did not take a message in time. `sent`: it may have it all the same, only the confirm is missing. */
export class BrokerUnavailable extends Error {
  override name = 'BrokerUnavailable';
  readonly sent: boolean;
  constructor(message: string, sent = false) {
    super(message);
    this.sent = sent;
  }
}
