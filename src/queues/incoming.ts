import type { z } from 'zod';
import { type Envelope, envelopeSchema } from '../domain/messages/envelope.ts';
import { isContention } from '../services/database.ts';
import { TimeoutError } from '../services/service.ts';
import type { Incoming } from './consumer.ts';

/** A message that no try can help: it goes to the dead letters with this reason. */
export class Poison extends Error {
  override name = 'Poison';
}

/** Bytes → JSON. Throws `Poison`. */
export function parseJson(body: Buffer): unknown {
  let text: string;
  try {
    text = decoder.decode(body);
  } catch {
    throw new Poison('not UTF-8');
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Poison(`not JSON: ${(error as Error).message}`);
  }
}

const decoder = new TextDecoder('utf-8', { fatal: true });
/** The common form of a time; any other is left to the schema. */
const PLAIN_TIME = /^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?Z$/;
const LENGTHS: [keyof Envelope, number][] = [
  ['subject', 256],
  ['correlationid', 255],
  ['requestid', 128],
  ['traceparent', 64],
  ['tenant', 64],
  ['orderingkey', 128],
  ['actor', 128],
  ['clientip', 64],
  ['useragent', 512],
  ['channels', 512],
];

/** Whether a value is an envelope beyond doubt; the schema, a fifth of fan-out's time when asked each time, has the last word otherwise. */
function isPlainEnvelope(value: unknown): value is Envelope {
  if (typeof value !== 'object' || value === null) return false;
  const v = value as Record<string, unknown>;
  const text = (name: string, max: number) =>
    typeof v[name] === 'string' && v[name].length > 0 && v[name].length <= max;
  return (
    v.specversion === '1.0' &&
    text('id', 128) &&
    text('source', 256) &&
    text('type', 128) &&
    typeof v.time === 'string' &&
    PLAIN_TIME.test(v.time) &&
    (v.datacontenttype === undefined || v.datacontenttype === 'application/json') &&
    (v.sequence === undefined || Number.isSafeInteger(v.sequence)) &&
    LENGTHS.every(([name, max]) => v[name] === undefined || text(name, max))
  );
}

/** Bytes → envelope. Throws `Poison` that says what is wrong with it. */
export function decodeEnvelope(message: Incoming): Envelope {
  const value = parseJson(message.body);
  if (isPlainEnvelope(value)) return value;
  const parsed = envelopeSchema.safeParse(value);
  if (!parsed.success) throw new Poison(`not an envelope: ${describe(parsed.error)}`);
  return parsed.data as Envelope;
}

/** Checks `data` against its contract. Throws `Poison` that names the first offending path. */
export function checkData<T>(schema: z.ZodType<T>, data: unknown, what: string): T {
  const parsed = schema.safeParse(data);
  if (!parsed.success) throw new Poison(`not a ${what}: ${describe(parsed.error)}`);
  return parsed.data;
}

function describe(error: z.ZodError): string {
  return error.issues
    .slice(0, 3)
    .map((issue) => `${issue.path.join('.') || '(whole)'}: ${issue.message}`)
    .join('; ');
}

/** Our own headers on a message. Headers are the sender's word, so each is checked. */
export const HEADERS = {
  attempt: 'x-waybill-attempt',
  /** How many of these attempts ended in contention; they have a budget of their own. */
  contentions: 'x-waybill-contentions',
  firstError: 'x-waybill-first-error',
  lastError: 'x-waybill-last-error',
  replyTo: 'x-waybill-reply-to',
  /** Handed out before, or repeated by its caller: look for its result before doing anything. */
  repeat: 'x-waybill-repeat',
  reason: 'x-waybill-reason',
  queue: 'x-waybill-queue',
  worker: 'x-waybill-worker',
  letter: 'x-waybill-letter',
  /** What the operation of a dead command fails with, where its worker said so. */
  verdict: 'x-waybill-verdict',
  /** The dead letter that this message was brought back from. */
  replayOf: 'x-waybill-replay-of',
} as const;

/**
 * Tries of a message that only ever meets contention, before it is buried. With the backoff of our workers an hour and
 * more: a lock that is held for minutes, or an overload, buries nothing; what can never succeed is not tried for ever.
 */
export const CONTENTION_TRIES = 20;

/** How often this message was tried before; 0 on its first way. */
export const attemptsBefore = (message: Incoming): number => countOf(message, HEADERS.attempt);

/** How many of these tries ended in contention. */
export const contentionsBefore = (message: Incoming): number =>
  Math.min(countOf(message, HEADERS.contentions), attemptsBefore(message));

function countOf(message: Incoming, header: string): number {
  const value = message.headers[header];
  return typeof value === 'number' && Number.isInteger(value) && value > 0 ? Math.min(value, 1_000_000) : 0;
}

/**
 * Passing, but perhaps the message's own fault: PostgreSQL refused or cancelled the statement (`isContention`), or the
 * handler outlasted its time. Unlike a service that is out of reach it uses up attempts.
 */
export const mayBeItsOwn = (error: unknown): boolean => isContention(error) || error instanceof TimeoutError;

/** The message as it goes on after so many contentions. */
export const withContentions = (message: Incoming, contentions: number): Incoming => ({
  ...message,
  headers: { ...message.headers, [HEADERS.contentions]: contentions },
});

/** Whether something may have come of this message already: the broker or the retry ladder hands it out again, or its caller repeats it. */
export const mayBeRepeat = (message: Incoming): boolean =>
  message.redelivered || attemptsBefore(message) > 0 || message.headers[HEADERS.repeat] === true;

/** A header as text, cut to `max`; `undefined` when it is no text. */
export function textHeader(message: Incoming, name: string, max = 1000): string | undefined {
  const value = message.headers[name];
  return typeof value === 'string' ? value.slice(0, max) : undefined;
}
