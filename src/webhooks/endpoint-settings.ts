import { z } from 'zod';
import { CHANNEL } from '../domain/events/publication.ts';
import { refuse } from '../domain/problem.ts';
import { type AllowNetworks, checkEndpointUrl } from './addresses.ts';
import { SIGNATURES, type SignatureSetting } from './secrets.ts';

/** What a caller may set of an endpoint, and what it must look like. */

const MAX_HEADERS = 20;
const MAX_METADATA = 50;
const MAX_CHANNELS = 20;

/** RFC 9110, section 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$/;
const PRINTABLE = /^[\x20-\x7e]*$/;

/** What the sender sets itself, what frames the message (RFC 9112), and what a proxy would act on. */
const RESERVED_HEADERS: ReadonlySet<string> = new Set([
  'host',
  'content-length',
  'content-type',
  'content-encoding',
  'transfer-encoding',
  'connection',
  'keep-alive',
  'upgrade',
  'expect',
  'te',
  'trailer',
  'user-agent',
  'x-webhook-signature',
]);
const RESERVED_PREFIXES = ['proxy-', 'webhook-'];

/** `kyc.approved`, `kyc.*` or `*`. */
const eventPattern = z
  .string()
  .max(128, { abort: true })
  .regex(/^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$/, 'must be an event type such as kyc.approved, kyc.* or *');

const headers = z.record(z.string(), z.string()).superRefine((given, ctx) => {
  const names = Object.keys(given);
  if (names.length > MAX_HEADERS)
    return ctx.addIssue({ code: 'custom', message: `must have at most ${MAX_HEADERS} entries` });
  const seen = new Set<string>();
  for (const name of names) {
    const lower = name.toLowerCase();
    const message = seen.has(lower) ? 'is given twice' : headerFault(lower, given[name] ?? '');
    seen.add(lower);
    if (message !== undefined) ctx.addIssue({ code: 'custom', path: [name.slice(0, 100)], message });
  }
});

function headerFault(name: string, value: string): string | undefined {
  if (!TOKEN.test(name)) return 'is not a valid header name';
  if (RESERVED_HEADERS.has(name) || RESERVED_PREFIXES.some((prefix) => name.startsWith(prefix)))
    return 'cannot be set: it belongs to the delivery itself';
  if (value.length > 1000) return 'must have at most 1000 characters';
  return PRINTABLE.test(value) ? undefined : 'must consist of printable ASCII characters';
}

const metadata = z.record(z.string(), z.string()).superRefine((given, ctx) => {
  const entries = Object.entries(given);
  if (entries.length > MAX_METADATA)
    return ctx.addIssue({ code: 'custom', message: `must have at most ${MAX_METADATA} entries` });
  for (const [key, value] of entries) {
    const path = [key.slice(0, 100)];
    if (key.length < 1 || key.length > 64)
      ctx.addIssue({ code: 'custom', path, message: 'must have a name of 1 to 64 characters' });
    else if (value.length > 500) ctx.addIssue({ code: 'custom', path, message: 'must have at most 500 characters' });
  }
});

/** A new endpoint; all but `url` has a default. */
export const newEndpoint = z.strictObject({
  url: z.string(),
  description: z.string().max(500).optional(),
  event_types: z.array(eventPattern).max(100).optional(),
  channels: z
    .array(z.string().regex(CHANNEL, 'must be 1 to 64 of letters, digits, _, . and -'))
    .max(MAX_CHANNELS)
    .optional()
    .describe('Only events that share one of them; empty: all events.'),
  headers: headers.optional(),
  rate_limit: z.int().min(1).max(10_000).nullable().optional().describe('Requests per second; null: no limit.'),
  ordered: z
    .boolean()
    .optional()
    .describe('Events of one ordering_key are sent one at a time, in the order of acceptance.'),
  timeout_ms: z.int().min(1000).max(30_000).optional(),
  status: z.enum(['enabled', 'disabled']).optional(),
  signature: z.enum(SIGNATURES).optional(),
  hex_signature: z.boolean().optional(),
  metadata: metadata.optional(),
});
export type NewEndpoint = z.infer<typeof newEndpoint>;

/** A change of an endpoint: what is absent stays as it is. */
export const endpointChange = newEndpoint
  .partial()
  .refine((given) => Object.keys(given).length > 0, 'must name at least one field to change');
export type EndpointChange = z.infer<typeof endpointChange>;

/** What an endpoint stores of all this. */
export interface EndpointSettings {
  url: string;
  description: string;
  event_types: string[];
  channels: string[];
  headers: Record<string, string>;
  /** Requests per second, 1 to 10,000; null: no limit. */
  rate_limit: number | null;
  ordered: boolean;
  timeout_ms: number;
  signature: SignatureSetting;
  hex_signature: boolean;
  metadata: Record<string, string>;
}

export const DEFAULT_SETTINGS: Omit<EndpointSettings, 'url'> = {
  description: '',
  event_types: [],
  channels: [],
  headers: {},
  rate_limit: null,
  ordered: false,
  timeout_ms: 15_000,
  signature: 'v1',
  hex_signature: false,
  metadata: {},
};

/**
 * What was given over what there is. Refuses with VALIDATION_ERROR a given `url` that may not be dialled, and
 * `hex_signature` without the scheme v1, whose secret it is made with.
 */
export function applySettings(
  present: EndpointSettings,
  given: EndpointChange,
  allow: AllowNetworks,
): EndpointSettings {
  if (given.url !== undefined) {
    const checked = checkEndpointUrl(given.url, allow);
    if (!checked.ok) refuse('VALIDATION_ERROR', `url ${checked.reason}`, { field: 'url' });
  }
  const settings = {
    url: given.url ?? present.url,
    description: given.description ?? present.description,
    event_types: given.event_types ? [...new Set(given.event_types)] : present.event_types,
    channels: given.channels ? [...new Set(given.channels)] : present.channels,
    headers: given.headers ? lowerCased(given.headers) : present.headers,
    rate_limit: given.rate_limit === undefined ? present.rate_limit : given.rate_limit,
    ordered: given.ordered ?? present.ordered,
    timeout_ms: given.timeout_ms ?? present.timeout_ms,
    signature: given.signature ?? present.signature,
    hex_signature: given.hex_signature ?? present.hex_signature,
    metadata: given.metadata ?? present.metadata,
  };
  if (settings.hex_signature && settings.signature === 'v1a')
    refuse('VALIDATION_ERROR', 'hex_signature needs the signature v1 or v1,v1a', { field: 'hex_signature' });
  return settings;
}

const lowerCased = (headers: Record<string, string>): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
