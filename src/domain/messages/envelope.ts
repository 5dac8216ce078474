import { z } from 'zod';

/**
 * The envelope of every message: CloudEvents 1.0 in structured JSON (cloudevents spec 1.0.2, section 3), with the
 * extension attributes that let one follow a request: `correlationid` (the operation, or the request when there is
 * none), `requestid`, `traceparent` (W3C Trace Context), `sequence` (version of the aggregate), `tenant`,
 * `orderingkey`, `channels`.
 */
export const envelopeSchema = z.object({
  specversion: z.literal('1.0'),
  id: z.string().min(1).max(128),
  source: z.string().min(1).max(256),
  type: z.string().min(1).max(128),
  subject: z.string().max(256).optional(),
  time: z.iso.datetime({ offset: true }),
  datacontenttype: z.literal('application/json').optional(),
  data: z.unknown(),
  correlationid: z.string().max(255).optional(),
  requestid: z.string().max(128).optional(),
  traceparent: z.string().max(64).optional(),
  sequence: z.number().int().optional(),
  tenant: z.string().max(64).optional(),
  /** Events of one key are in order for endpoints that ask for it. */
  orderingkey: z.string().max(128).optional(),
  /** Joined by commas, since an attribute is a scalar (section 2 there): endpoints may ask for some of them. */
  channels: z.string().max(512).optional(),
  /** Who caused it: `user:<id>`, `api_key:<id>`, `anonymous`, `system`. */
  actor: z.string().max(128).optional(),
  /** Where the request came from: on commands alone, for their audit rows; events tell no address. */
  clientip: z.string().max(64).optional(),
  useragent: z.string().max(512).optional(),
});

export type Envelope<T = unknown> = Omit<z.infer<typeof envelopeSchema>, 'data'> & { data: T };

/** Where a request came from; it travels in every message, job and row that the request causes. */
export interface RequestContext {
  requestId: string;
  /** The operation that all of this belongs to, or the request id when there is none. */
  correlationId: string;
  traceparent?: string;
  actor: Actor;
  ip?: string;
  userAgent?: string;
}

export interface Actor {
  type: 'user' | 'api_key' | 'system' | 'anonymous';
  id: string | null;
  role?: string;
}

export const SYSTEM: Actor = { type: 'system', id: null };
export const ANONYMOUS: Actor = { type: 'anonymous', id: null };

export const actorText = (actor: Actor): string => (actor.id ? `${actor.type}:${actor.id}` : actor.type);

export function parseActor(text: string | undefined): Actor {
  const [type, id] = (text ?? 'system').split(':', 2);
  return type === 'user' || type === 'api_key' || type === 'anonymous' ? { type, id: id ?? null } : SYSTEM;
}

/** The context that a message carries, for the work it causes. */
export function contextOf(envelope: Envelope): RequestContext {
  const requestId = envelope.requestid ?? envelope.id;
  return {
    requestId,
    correlationId: envelope.correlationid ?? requestId,
    ...(envelope.traceparent ? { traceparent: envelope.traceparent } : {}),
    actor: parseActor(envelope.actor),
    ...(envelope.clientip ? { ip: envelope.clientip } : {}),
    ...(envelope.useragent ? { userAgent: envelope.useragent } : {}),
  };
}
