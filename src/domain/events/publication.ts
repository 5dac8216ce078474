import { createHash } from 'node:crypto';
import { z } from 'zod';
import { newId } from '../ids.ts';
import type { Contract } from '../messages/contracts.ts';
import { refuse } from '../problem.ts';
import { type EventType, findEventType } from './catalogue.ts';
import { type Budget, CHECK_MS } from './schema-check.ts';

/** An id that a client may give its event. */
export const EVENT_ID = /^[A-Za-z0-9_-]{1,64}$/;
/** The name of a channel. */
export const CHANNEL = /^[A-Za-z0-9_.-]{1,64}$/;
/** Of one event. */
export const MAX_CHANNELS = 5;
/** Of one event's `data` as JSON, in bytes. */
export const MAX_DATA_BYTES = 256 * 1024;
export const MAX_BATCH = 100;

/** An event as a client gives it. */
export interface EventInput {
  type: string;
  data: Record<string, unknown>;
  id?: string | undefined;
  ordering_key?: string | undefined;
  channels?: string[] | undefined;
}

/** An event that may be published. */
export interface Publication {
  contract: Contract<unknown>;
  data: unknown;
  options: { id: string; tenant: string; source: 'client'; checked: true; orderingKey?: string; channels?: string[] };
  /** Its type should not be published any more. */
  deprecated: boolean;
}

/** Who publishes, and the idempotency key that stands for the ids they did not give. */
export interface Publishing {
  tenant: string;
  /** `user:<id>`, `api_key:<id>`. */
  caller: string;
  key?: string | undefined;
}

/**
 * The id of an event that was given none but came under an idempotency key: always the same for this tenant, caller,
 * key and place in its batch, so that a repeat is the same event.
 */
export function eventIdOfKey({ tenant, caller, key }: Publishing & { key: string }, index?: number): string {
  const scope = JSON.stringify([tenant, caller, key, ...(index === undefined ? [] : [index])]);
  return `ik_${createHash('sha256').update(scope).digest('base64url')}`;
}

/**
 * Checks an event of a client against the catalogue: the types of its tenant that `types` finds, the built-in ones alone
 * when it is absent. `index` is its place in a batch, whose events share one `budget`.
 * Throws a ZodError that names each offending field, and `Refusal` PAYLOAD_TOO_LARGE for data over 256 KiB.
 */
export function preparePublication(
  input: EventInput,
  who: Publishing,
  types: (name: string) => EventType | undefined = findEventType,
  { index, budget = { ms: CHECK_MS } }: { index?: number; budget?: Budget } = {},
): Publication {
  const { type, data } = publishable(input, types, budget);
  const { key } = who;
  const options = {
    id: input.id ?? (key === undefined ? newId() : eventIdOfKey({ ...who, key }, index)),
    tenant: who.tenant,
    source: 'client' as const,
    checked: true as const,
    ...(input.ordering_key === undefined ? {} : { orderingKey: input.ordering_key }),
    ...(input.channels?.length ? { channels: [...new Set(input.channels)] } : {}),
  };
  return { contract: type.contract, data, options, deprecated: type.deprecated === true };
}

/** The type of an event and its data, as the contract of the type has it. */
function publishable(
  input: EventInput,
  types: (name: string) => EventType | undefined,
  budget: Budget,
): { type: EventType; data: unknown } {
  const type = types(input.type);
  if (!type) return complain(['type'], 'is not in the catalogue of event types');
  if (type.source === 'platform') return complain(['type'], 'is an event of the platform itself');
  const bytes = Buffer.byteLength(JSON.stringify(input.data));
  if (bytes > MAX_DATA_BYTES) refuse('PAYLOAD_TOO_LARGE', `data may have ${MAX_DATA_BYTES} bytes`, { field: 'data' });
  if (type.check) {
    const fault = type.check(input.data, bytes, budget);
    return fault ? complain(['data', ...fault.path], fault.message) : { type, data: input.data };
  }
  const checked = type.schema.safeParse(input.data);
  if (checked.success) return { type, data: checked.data };
  throw new z.ZodError(checked.error.issues.map((issue) => ({ ...issue, path: ['data', ...issue.path] })));
}

function complain(path: PropertyKey[], message: string): never {
  throw new z.ZodError([{ code: 'custom', path, message, input: undefined }]);
}
