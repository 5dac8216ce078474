import { createHash } from 'node:crypto';
import { newId } from '../domain/ids.ts';
import type { Incoming } from './consumer.ts';
import { HEADERS, textHeader } from './incoming.ts';

/**
 * The id of the letter that a message becomes: the same for the same message that died in the same queue at the same
 * attempt, another one when it was replayed in between. A message without an id is a new letter each time.
 * A UUIDv8 (RFC 9562, section 5.8).
 */
export function letterId(message: Incoming, queue: string, attempts: number): string {
  if (!message.messageId) return newId();
  const hash = createHash('sha256');
  for (const part of [queue, message.messageId, String(attempts), textHeader(message, HEADERS.replayOf, 64) ?? ''])
    hash.update(part).update('\0');
  const hex = hash.update(message.body).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
