import type { Incoming } from '../../src/queues/consumer.ts';
import { Detour } from '../../src/queues/detour.ts';
import { execute } from '../../src/queues/execute.ts';
import { Group } from '../../src/queues/group.ts';
import type { BrokerPool } from '../../src/queues/topology.ts';
import type { MessageWorker } from '../../src/queues/worker.ts';
import type { Harness } from '../harness.ts';

/** A pool's way to the delay queues and the dead letters. */
export const detourOf = ({ messaging: { publisher, topology } }: Harness, pool: BrokerPool): Detour =>
  new Detour(publisher, topology, topology.queue(pool));

/** One message through the pipeline of a pool; returns what it was measured as. */
export async function through(h: Harness, pool: BrokerPool, worker: MessageWorker, message: Incoming): Promise<string> {
  let measured = '';
  await execute(message, {
    database: h.database,
    group: new Group({ database: h.database, wake: () => undefined, log: h.log }),
    detour: detourOf(h, pool),
    workers: new Map([[worker.takes.type, worker]]),
    notify: () => undefined,
    wake: () => undefined,
    measure: (_, outcome) => {
      measured = outcome;
    },
    log: h.log,
  });
  return measured;
}
