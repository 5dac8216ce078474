import { z } from 'zod';
import { currentTime } from '../services/clock.ts';

/**
 * What fan-out hands to the delivery pool: about 50 deliveries with the payload serialised once per event. `check`
 * says that an earlier hand-out of the same event may have got through, so the recorded deliveries are looked up first.
 */
export const chunkSchema = z.object({
  check: z.boolean(),
  /** When fan-out cut it, ms since the epoch. */
  at: z.number().optional(),
  events: z.array(
    z.object({
      id: z.string(),
      tenant: z.string(),
      type: z.string(),
      /** The exact body to sign and send. */
      payload: z.string(),
      correlation: z.string().nullable(),
      /** `[delivery id, endpoint id]` */
      to: z.array(z.tuple([z.uuid(), z.uuid()])),
    }),
  ),
});

export type Chunk = z.infer<typeof chunkSchema>;
export type ChunkEvent = Chunk['events'][number];

/**
 * An event so young may be on its way to an endpoint for the first time, without a row yet: recovery leaves it alone.
 * What of an older chunk is recorded meanwhile is looked up before it is sent.
 */
export const ON_ITS_WAY_MS = 5 * 60_000;

/** Whether some of the chunk may be recorded already. One without a time is from an earlier version. */
export const mayBeRecorded = ({ check, at }: Chunk, redelivered: boolean): boolean =>
  // Half the time: what is begun without a look has the other half to be recorded before recovery looks for it.
  check || redelivered || at === undefined || currentTime() - at > ON_ITS_WAY_MS / 2;

/** Deliveries per chunk: 50 measured as the best of 20 to 200 (November 2026, two cores). */
const CHUNK_SIZE = 50;
/** Payload bytes per chunk, so that large events do not make a message of many MiB. */
const CHUNK_BYTES = 512 * 1024;

/** Cuts events with their receivers into chunks of about `CHUNK_SIZE` deliveries. */
export function cut(events: ChunkEvent[], check: boolean): Chunk[] {
  const at = currentTime();
  const chunks: Chunk[] = [];
  let current: ChunkEvent[] = [];
  let deliveries = 0;
  let bytes = 0;
  const close = () => {
    if (current.length > 0) chunks.push({ check, at, events: current });
    current = [];
    deliveries = 0;
    bytes = 0;
  };
  for (const event of events) {
    for (let from = 0; from < event.to.length; ) {
      const to = event.to.slice(from, from + CHUNK_SIZE - deliveries);
      current.push({ ...event, to });
      from += to.length;
      deliveries += to.length;
      bytes += event.payload.length;
      if (deliveries >= CHUNK_SIZE || bytes >= CHUNK_BYTES) close();
    }
  }
  close();
  return chunks;
}
