import type { ChunkEvent } from './chunk.ts';
import type { LineKey } from './order.ts';
import type { Due } from './waiting.ts';

/** A delivery on its way: fresh from a chunk, or due after it waited. */
export interface Parcel extends Due {
  kind: 'insert' | 'update';
  line: LineKey | undefined;
  /** When it was claimed ahead of its turn, ms of the monotonic clock. */
  claimedAt?: number;
  /** It is counted among those that are begun and not sent. */
  takesRoom?: boolean;
  /** Since its answer takes long it has a row, once this resolves. */
  kept?: Promise<void>;
  /** Its chunk need not wait for it any more. */
  onKept?: () => void;
}

/** A delivery of a chunk. */
export const fresh = (event: ChunkEvent, id: string, endpointId: string): Parcel => ({
  kind: 'insert',
  id,
  endpointId,
  tenant: event.tenant,
  eventId: event.id,
  eventType: event.type,
  payload: event.payload,
  correlation: event.correlation,
  attempts: 0,
  generation: 0,
  cause: 'schedule',
  scheduleFrom: 0,
  line: undefined,
  takesRoom: true,
});
