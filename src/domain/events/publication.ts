import { createHash } from 'node:crypto';
import { z } from 'zod';
import { newId } from '../ids.ts';
import type { Contract } from '../messages/contracts.ts';
import { Refusal } from '../problem.ts';
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
  options: { id: string; tenant: string; source: 'client'; orderingKey?: string; channels?: string[] };
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
 * Checks events of clients against the catalogue, all or nothing: the types of their tenant that `types` finds, the
 * built-in ones alone when it is absent. `path(i)` is where the i-th stands in the body.
 * Throws a ZodError that names each offending field, and `Refusal` PAYLOAD_TOO_LARGE for data over 256 KiB.
 */
export function preparePublications(
  inputs: readonly EventInput[],
  who: Publishing,
  path: (index: number) => (string | number)[] = () => [],
  types: (name: string) => EventType | undefined = findEventType,
): Publication[] {
  const issues: z.core.$ZodIssue[] = [];
  const budget = { ms: CHECK_MS };
  const batch = inputs.length > 1 || path(0).length > 0;
  const publications = inputs.flatMap((input, index): Publication[] => {
    const at = path(index);
    const type = publishable(input, at, types, budget, issues);
    if (!type) return [];
    const { key } = who;
    const made = key === undefined ? newId() : eventIdOfKey({ ...who, key }, batch ? index : undefined);
    const options = {
      id: input.id ?? made,
      tenant: who.tenant,
      source: 'client' as const,
      ...(input.ordering_key === undefined ? {} : { orderingKey: input.ordering_key }),
      ...(input.channels?.length ? { channels: [...new Set(input.channels)] } : {}),
    };
    return [{ contract: type.contract, data: input.data, options, deprecated: type.deprecated === true }];
  });
  if (issues.length > 0) throw new z.ZodError(issues);
  return publications;
}

function publishable(
  input: EventInput,
  at: (string | number)[],
  types: (name: string) => EventType | undefined,
  budget: Budget,
  issues: z.core.$ZodIssue[],
): EventType | undefined {
  const complain = (path: PropertyKey[], message: string) =>
    void issues.push({ code: 'custom', path: [...at, ...path], message, input: undefined });
  const type = types(input.type);
  if (!type) return complain(['type'], 'is not in the catalogue of event types');
  if (type.source === 'platform') return complain(['type'], 'is an event of the platform itself');
  const bytes = Buffer.byteLength(JSON.stringify(input.data));
  if (bytes > MAX_DATA_BYTES) {
    const field = at.reduce<string>((text, part) => text + (typeof part === 'number' ? `[${part}].` : part), '');
    throw new Refusal({
      code: 'PAYLOAD_TOO_LARGE',
      message: `the data of an event may have ${MAX_DATA_BYTES} bytes`,
      field: `${field}data`,
    });
  }
  if (type.check) {
    const fault = type.check(input.data, bytes, budget);
    return fault ? complain(['data', ...fault.path], fault.message) : type;
  }
  const checked = type.schema.safeParse(input.data);
  if (checked.success) return type;
  issues.push(...checked.error.issues.map((issue) => ({ ...issue, path: [...at, 'data', ...issue.path] })));
  return undefined;
}
