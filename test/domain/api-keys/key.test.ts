import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { API_KEY_PATTERN, hashKey, isApiKey, newKey } from '../../../src/domain/api-keys/key.ts';
import { scrub } from '../../../src/services/logger.ts';

it('makes keys of one form, each another, with its prefix and hash', () => {
  const made = Array.from({ length: 500 }, newKey);
  expect(new Set(made.map(({ key }) => key)).size).toBe(500);
  for (const { key, prefix, hash } of made) {
    expect(key).toMatch(/^wb_[0-9A-Za-z]{6}_[0-9A-Za-z]{49}$/);
    expect(key).toMatch(API_KEY_PATTERN);
    expect(isApiKey(key)).toBe(true);
    expect(key.startsWith(`${prefix}_`)).toBe(true);
    expect(hash).toEqual(createHash('sha256').update(key).digest());
    expect(hashKey(key)).toEqual(hash);
  }
});

it('knows a key by its checksum', () => {
  const { key } = newKey();
  for (let at = 3; at < key.length; at += 1) {
    if (key[at] === '_') continue;
    const changed = key.slice(0, at) + (key[at] === 'a' ? 'b' : 'a') + key.slice(at + 1);
    expect(isApiKey(changed), `changed at ${at}`).toBe(false);
  }
  for (const text of ['', 'wb_', `${key}a`, key.slice(0, -1), ` ${key}`, `${key}\n`, key.replace('wb_', 'wb-')])
    expect(isApiKey(text)).toBe(false);
});

it('never reaches a log; its prefix may', () => {
  const { key, prefix } = newKey();
  expect(scrub(JSON.stringify({ message: `refused ${key}` }))).not.toContain(key.slice(10));
  expect(scrub(JSON.stringify({ prefix }))).toContain(prefix);
});
