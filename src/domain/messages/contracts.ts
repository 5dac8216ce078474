import type { z } from 'zod';
import { currentTime } from '../../services/clock.ts';
import { newId } from '../ids.ts';
import { actorText, type Envelope, type RequestContext } from './envelope.ts';

/** A command is addressed to exactly one worker; an event tells whoever listens what happened. */
export interface Contract<T> {
  kind: 'command' | 'event';
  type: string;
  version: number;
  schema: z.ZodType<T>;
}

export const command = <T>(type: string, schema: z.ZodType<T>, version = 1): Contract<T> => ({
  kind: 'command',
  type,
  schema,
  version,
});
export const event = <T>(type: string, schema: z.ZodType<T>, version = 1): Contract<T> => ({
  kind: 'event',
  type,
  schema,
  version,
});

/** What of an envelope is not the data. */
export interface EnvelopeOptions {
  id?: string;
  subject?: string;
  sequence?: number;
  tenant?: string;
  /** `waybill` when absent. */
  source?: string;
  orderingKey?: string;
  channels?: string[];
  /** Of what it belongs to, when that is not the context's. */
  correlationId?: string;
  /** The data is what the contract's own schema gave a moment ago. */
  checked?: boolean;
}

/** Wraps data that fits the contract; throws a ZodError when it does not, so a wrong message is never published. */
export function envelope<T>(
  contract: Contract<T>,
  data: T,
  context: RequestContext,
  options: EnvelopeOptions = {},
): Envelope<T> {
  return {
    specversion: '1.0',
    id: options.id ?? newId(),
    source: options.source ?? 'waybill',
    type: contract.type,
    ...(options.subject ? { subject: options.subject } : {}),
    time: new Date(currentTime()).toISOString(),
    datacontenttype: 'application/json',
    data: options.checked ? data : contract.schema.parse(data),
    correlationid: options.correlationId ?? context.correlationId,
    requestid: context.requestId,
    ...(context.traceparent ? { traceparent: context.traceparent } : {}),
    ...(options.sequence === undefined ? {} : { sequence: options.sequence }),
    ...(options.tenant ? { tenant: options.tenant } : {}),
    ...(options.orderingKey === undefined ? {} : { orderingkey: options.orderingKey }),
    ...(options.channels?.length ? { channels: options.channels.join(',') } : {}),
    actor: actorText(context.actor),
  };
}
