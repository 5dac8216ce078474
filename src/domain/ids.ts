import { createHmac, createSecretKey, type KeyObject, randomBytes, randomUUIDv7, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { currentTime } from '../services/clock.ts';
import { OPERATION_TYPES } from './operations/types.ts';

/** A new UUIDv7 (RFC 9562, section 5.7): sorts by the time it was made. */
export const newId = (): string => randomUUIDv7();

/** Without flags: it is also a pattern of the OpenAPI document, where a flag would be text. */
const UUID = /^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$/;
export const isUuid = (text: string): boolean => UUID.test(text);

/** A UUID in a path, a query or a body. */
export const uuid = z.string().regex(UUID, 'must be a UUID');

/** The time inside a UUIDv7, in ms since the epoch. */
export const timeOfId = (id: string): number => Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);

/** What an operation id says by itself. `type` is `undefined` for one that was issued without. */
export interface IssuedId {
  /** In ms since the epoch. */
  at: number;
  type: string | undefined;
}

/**
 * Operation ids say by themselves that they were issued here, when, and for which command: a UUIDv7 of which the last 32
 * bits are a part of the HMAC-SHA512 over the rest, which of its 16 parts by the command's place in `OPERATION_TYPES` (from
 * 1; 0 is none). So `GET /operations/{id}` can answer "accepted" for work that no worker has written a row for yet, and 404
 * for an id that nobody issued, without any write on the accept path.
 */
export class OperationIds {
  /** Not as bytes: an HMAC takes 3 µs with a `KeyObject`, 17 with a Buffer, of which it makes one each time. */
  readonly #key: KeyObject;
  readonly #previous: KeyObject[];

  /** Issues under `key`; ids issued under a previous key are recognised still. */
  constructor(key: Buffer, ...previous: Buffer[]) {
    this.#key = createSecretKey(key);
    this.#previous = previous.map((it) => createSecretKey(it));
  }

  issue(type?: string, now: number = currentTime()): string {
    const bytes = Buffer.alloc(16);
    bytes.writeUIntBE(now, 0, 6);
    randomBytes(6).copy(bytes, 6);
    bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x70;
    bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
    const place = (OPERATION_TYPES as readonly (string | undefined)[]).indexOf(type) + 1;
    part(mac(this.#key, bytes), place).copy(bytes, 12);
    const hex = bytes.toString('hex');
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  }

  /** What the id says, or `undefined` when none of the keys issued it. */
  read(id: string): IssuedId | undefined {
    if (!isUuid(id)) return undefined;
    const bytes = Buffer.from(id.replaceAll('-', ''), 'hex');
    for (const key of [this.#key, ...this.#previous]) {
      const whole = mac(key, bytes);
      for (let place = 0; place <= OPERATION_TYPES.length; place += 1) {
        if (timingSafeEqual(bytes.subarray(12), part(whole, place)))
          return { at: timeOfId(id), type: OPERATION_TYPES[place - 1] };
      }
    }
    return undefined;
  }

  /** The time of issue in ms, or `undefined` when none of the keys issued the id. */
  issuedAt(id: string): number | undefined {
    return this.read(id)?.at;
  }
}

const mac = (key: KeyObject, bytes: Buffer): Buffer => createHmac('sha512', key).update(bytes.subarray(0, 12)).digest();

const part = (whole: Buffer, place: number): Buffer => whole.subarray(4 * place, 4 * place + 4);
