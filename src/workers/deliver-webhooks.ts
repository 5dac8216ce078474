import { defineAlarmWorker, defineStreamWorker } from '../queues/worker.ts';
import { chunkSchema } from '../webhooks/chunk.ts';
import type { Deliveries } from '../webhooks/delivery.ts';

/** Chunks of one delivery each must fill the slots too, and large ones are bounded by the lanes. */
const prefetchFor = (concurrency: number) => Math.max(20, 2 * concurrency);

/** Fresh deliveries, in chunks from fan-out. */
export const deliverWebhooks = ({ deliveries, concurrency }: { deliveries: Deliveries; concurrency: number }) =>
  defineStreamWorker({
    name: 'deliver-webhooks',
    pool: 'webhooks',
    schema: chunkSchema,
    prefetch: prefetchFor(concurrency),
    resize(next) {
      deliveries.setConcurrency(next);
      return prefetchFor(next);
    },
    handle: (chunk, { redelivered }) => deliveries.chunk(chunk, redelivered),
  });

/** Deliveries that waited: retries, parked, released ones. */
export const retryWebhooks = ({ deliveries }: { deliveries: Deliveries }) =>
  defineAlarmWorker({
    name: 'retry-webhooks',
    pool: 'webhooks',
    takes: 'webhooks',
    timeoutMs: 60_000,
    beside: deliveries.parked,
    handle: (id) => deliveries.alarm(id),
  });
