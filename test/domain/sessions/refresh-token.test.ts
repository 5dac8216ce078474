import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { newRefreshToken, parseRefreshToken, successorOf } from '../../../src/domain/sessions/refresh-token.ts';
import { Keyring } from '../../../src/services/keyring.ts';

const keyring = new Keyring(randomBytes(32));

test('a token reads back as itself', () => {
  const token = newRefreshToken();
  expect(token.text).toMatch(/^wbr_[A-Za-z0-9_-]{43}$/);
  expect(parseRefreshToken(token.text)).toEqual(token);
});

test('a successor is the same each time, of the same family, and different under another key', () => {
  const token = newRefreshToken();
  const next = successorOf(keyring, token);
  expect(successorOf(keyring, token)).toEqual(next);
  expect(next.familyHash).toEqual(token.familyHash);
  expect(next.hash).not.toEqual(token.hash);
  expect(parseRefreshToken(next.text)).toEqual(next);
  expect(successorOf(new Keyring(randomBytes(32)), token).text).not.toBe(next.text);
});

test.each(['', 'wbr_', 'wbr_short', `wb_${'a'.repeat(43)}`, `wbr_${'a'.repeat(44)}`, `wbr_${'é'.repeat(43)}`])(
  '%j is no refresh token',
  (text) => {
    expect(parseRefreshToken(text)).toBeUndefined();
  },
);
