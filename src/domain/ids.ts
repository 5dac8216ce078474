import { createHmac, randomBytes, randomUUIDv7, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';

/** A new UUIDv7 (RFC 9562, section 5.7): sorts by the time it was made. */
export const newId = (): string => randomUUIDv7();

/** Without flags: it is also a pattern of the OpenAPI document, where a flag would be text. */
const UUID = /^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$/;
export const isUuid = (text: string): boolean => UUID.test(text);

/** A UUID in a path, a query or a body. */
export const uuid = z.string().regex(UUID, 'must be a UUID');

/** The time inside a UUIDv7, in ms since the epoch. */
export const timeOfId = (id: string): number => Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);

/**
 * Operation ids say by themselves that they were issued here and when: a UUIDv7 of which the last 32 bits are a
 * truncated HMAC-SHA256 over the rest. So `GET /operations/{id}` can answer "accepted" for work that no worker has
 * written a row for yet, and 404 for an id that nobody issued, without any write on the accept path.
 */
export class OperationIds {
  readonly #key: Buffer;
  readonly #previous: Buffer[];

  /** Issues under `key`; ids issued under a previous key are recognised still. */
  constructor(key: Buffer, ...previous: Buffer[]) {
    this.#key = key;
    this.#previous = previous;
  }

  issue(now: number = Date.now()): string {
    const bytes = Buffer.alloc(16);
    bytes.writeUIntBE(now, 0, 6);
    randomBytes(6).copy(bytes, 6);
    bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x70;
    bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
    mac(this.#key, bytes).copy(bytes, 12);
    const hex = bytes.toString('hex');
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  }

  /** The time of issue in ms, or `undefined` when none of the keys issued the id. */
  issuedAt(id: string): number | undefined {
    if (!isUuid(id)) return undefined;
    const bytes = Buffer.from(id.replaceAll('-', ''), 'hex');
    const issued = (key: Buffer) => timingSafeEqual(bytes.subarray(12), mac(key, bytes));
    return issued(this.#key) || this.#previous.some(issued) ? timeOfId(id) : undefined;
  }
}

const mac = (key: Buffer, bytes: Buffer): Buffer =>
  createHmac('sha256', key).update(bytes.subarray(0, 12)).digest().subarray(0, 4);
