import { randomBytes } from 'node:crypto';
import { CompactEncrypt, compactDecrypt } from 'jose';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Keyring, SealError } from '../../src/services/keyring.ts';

const [first, second, third] = [randomBytes(32), randomBytes(32), randomBytes(32)];
afterEach(() => vi.useRealTimers());

/** `text` with the character at `at` changed into another of base64url. */
const changed = (text: string, at: number) =>
  `${text.slice(0, at)}${text[at] === 'A' ? 'B' : 'A'}${text.slice(at + 1)}`;

describe('a sealed value', () => {
  test('opens for its purpose and says under which key it lies', async () => {
    const keyring = new Keyring(first);
    const sealed = await keyring.seal('command', 'päss\u0000word');
    expect(await keyring.open('command', sealed)).toBe('päss\u0000word');
    const header = JSON.parse(Buffer.from(sealed.split('.')[0] ?? '', 'base64url').toString());
    expect(header).toEqual({ alg: 'dir', enc: 'A256GCM', kid: keyring.kid });
    expect(sealed).not.toContain('word');
  });

  test('is a JWE like any other: what a library seals opens, and a library opens what was sealed', async () => {
    const keyring = new Keyring(first);
    const key = keyring.for('command').current().key;
    const theirs = await new CompactEncrypt(new TextEncoder().encode('päss\u0000word'))
      .setProtectedHeader({ alg: 'dir', enc: 'A256GCM', kid: keyring.kid })
      .encrypt(key);
    expect(await keyring.open('command', theirs)).toBe('päss\u0000word');
    const { plaintext } = await compactDecrypt(await keyring.seal('command', 'päss\u0000word'), key);
    expect(new TextDecoder().decode(plaintext)).toBe('päss\u0000word');
  });

  test.each([
    ['another algorithm', { alg: 'dir', enc: 'A128GCM' }],
    ['an extension that must be understood', { alg: 'dir', enc: 'A256GCM', crit: ['b64'], b64: false }],
    ['compression', { alg: 'dir', enc: 'A256GCM', zip: 'DEF' }],
  ])('does not open with %s', async (_, header) => {
    const keyring = new Keyring(first);
    const [, ...parts] = (await keyring.seal('command', 'a')).split('.');
    const other = Buffer.from(JSON.stringify({ ...header, kid: keyring.kid })).toString('base64url');
    await expect(keyring.open('command', [other, ...parts].join('.'))).rejects.toThrow('not a sealed value');
  });

  test.each([
    ['a shorter tag', (parts: string[]) => [...parts.slice(0, 4), parts[4]?.slice(0, 16)]],
    ['an encrypted key', (parts: string[]) => [parts[0], 'AAAA', ...parts.slice(2)]],
    ['one part too many', (parts: string[]) => [...parts, 'AAAA']],
    ['one part too few', (parts: string[]) => parts.slice(0, 4)],
  ])('does not open with %s', async (_, change) => {
    const keyring = new Keyring(first);
    const sealed = change((await keyring.seal('command', 'a')).split('.')).join('.');
    await expect(keyring.open('command', sealed)).rejects.toThrow(SealError);
  });

  test.each([
    ['padding', (part: string) => `${part}=`],
    ['a space', (part: string) => ` ${part}`],
    ['a line break at the end', (part: string) => `${part}\n`],
    ['characters of no alphabet', (part: string) => `${part.slice(0, 2)}!*${part.slice(2)}`],
  ])('does not open with %s in any of its parts', async (_, change) => {
    const keyring = new Keyring(first);
    const parts = (await keyring.seal('command', 'some text')).split('.');
    for (const at of [0, 2, 3, 4]) {
      const other = parts.map((part, i) => (i === at ? change(part) : part)).join('.');
      await expect(keyring.open('command', other), `part ${at}`).rejects.toThrow('not a sealed value');
    }
  });

  test('does not open in the alphabet of plain base64, or with bits after its last byte', async () => {
    const keyring = new Keyring(first);
    for (const part of [2, 3, 4]) {
      const texts = await Promise.all(Array.from({ length: 200 }, () => keyring.seal('command', 'some text')));
      const sealed = texts.find((text) => /[-_]/.test(text.split('.')[part] ?? '')) ?? '';
      const plain = sealed.split('.').map((p, i) => (i === part ? p.replaceAll('-', '+').replaceAll('_', '/') : p));
      await expect(keyring.open('command', plain.join('.'))).rejects.toThrow('not a sealed value');
    }
    // A tag of 16 bytes ends in a character of which four bits say nothing.
    const sealed = await keyring.seal('command', 'some text');
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    const last = alphabet[alphabet.indexOf(sealed.at(-1) ?? '') + 1];
    const tag = `${sealed.slice(0, -1)}${last}`;
    expect(Buffer.from(tag.split('.')[4] ?? '', 'base64url')).toEqual(
      Buffer.from(sealed.split('.')[4] ?? '', 'base64url'),
    );
    await expect(keyring.open('command', tag)).rejects.toThrow(SealError);
  });

  test('is another one each time', async () => {
    const keyring = new Keyring(first);
    expect(await keyring.seal('command', 'a')).not.toBe(await keyring.seal('command', 'a'));
  });

  test('does not open for another purpose', async () => {
    const keyring = new Keyring(first);
    await expect(keyring.open('email', await keyring.seal('command', 'a'))).rejects.toThrow(SealError);
  });

  test('does not open under another key', async () => {
    const sealed = await new Keyring(first).seal('command', 'a');
    await expect(new Keyring(second).open('command', sealed)).rejects.toThrow(/sealed under the unknown key/);
  });

  test('opens under the previous key, and new ones are sealed under the current', async () => {
    const sealed = await new Keyring(first).seal('command', 'a');
    const rotated = new Keyring(second, first);
    expect(await rotated.open('command', sealed)).toBe('a');
    const renewed = await rotated.seal('command', 'a');
    expect(await new Keyring(second).open('command', renewed)).toBe('a');
    await expect(new Keyring(first).open('command', renewed)).rejects.toThrow(SealError);
    await expect(new Keyring(third, second).open('command', sealed)).rejects.toThrow(SealError);
  });

  test('expires when it says so', async () => {
    vi.useFakeTimers({ now: new Date('2030-01-01T00:00:00Z') });
    const keyring = new Keyring(first);
    const sealed = await keyring.seal('command', 'a', { expiresIn: 60 });
    vi.setSystemTime(new Date('2030-01-01T00:00:59Z'));
    expect(await keyring.open('command', sealed)).toBe('a');
    vi.setSystemTime(new Date('2030-01-01T00:01:01Z'));
    await expect(keyring.open('command', sealed)).rejects.toThrow('the sealed value has expired');
  });

  test('does not open once any part of it was changed', async () => {
    const keyring = new Keyring(first);
    const sealed = await keyring.seal('command', 'some text', { expiresIn: 60 });
    const parts = sealed.split('.');
    const starts = parts.map((_, i) => parts.slice(0, i).join('.').length + (i > 0 ? 1 : 0));
    for (const at of [0, 2, 3, 4].map((part) => (starts[part] ?? 0) + 2))
      await expect(keyring.open('command', changed(sealed, at))).rejects.toThrow(SealError);
    const header = JSON.parse(Buffer.from(parts[0] ?? '', 'base64url').toString());
    const prolonged = Buffer.from(JSON.stringify({ ...header, exp: header.exp + 1000 })).toString('base64url');
    await expect(keyring.open('command', [prolonged, ...parts.slice(1)].join('.'))).rejects.toThrow(SealError);
  });

  test.each(['', 'abc', 'a.b.c.d.e', '....'])('does not open when it is %j', async (text) => {
    await expect(new Keyring(first).open('command', text)).rejects.toThrow(SealError);
  });
});

describe('encrypted bytes', () => {
  const plaintext = Buffer.from([0, 1, 2, 255]);

  test('open with what they are bound to, under the current and the previous key', () => {
    const encrypted = new Keyring(first).encrypt('kyc', plaintext, 'attempt-1');
    expect(new Keyring(first).decrypt('kyc', encrypted, 'attempt-1')).toEqual(plaintext);
    expect(new Keyring(second, first).decrypt('kyc', encrypted, 'attempt-1')).toEqual(plaintext);
    expect(encrypted).toHaveLength(12 + 12 + 16 + plaintext.length);
  });

  test('do not open elsewhere, for another purpose or under another key', () => {
    const encrypted = new Keyring(first).encrypt('kyc', plaintext, 'attempt-1');
    expect(() => new Keyring(first).decrypt('kyc', encrypted, 'attempt-2')).toThrow(SealError);
    expect(() => new Keyring(first).decrypt('audit', encrypted, 'attempt-1')).toThrow(SealError);
    expect(() => new Keyring(second).decrypt('kyc', encrypted, 'attempt-1')).toThrow('unknown key');
  });

  test('do not open once any byte was changed, or when they are cut short', () => {
    const keyring = new Keyring(first);
    const encrypted = keyring.encrypt('kyc', plaintext, 'a');
    for (let at = 0; at < encrypted.length; at++) {
      const forged = Buffer.from(encrypted);
      forged[at] = (forged[at] ?? 0) ^ 1;
      expect(() => keyring.decrypt('kyc', forged, 'a'), `byte ${at}`).toThrow(SealError);
    }
    for (const length of [0, 12, 24, 30, 40])
      expect(() => keyring.decrypt('kyc', encrypted.subarray(0, length), 'a'), `${length} bytes`).toThrow(SealError);
  });
});

describe('the keys of a purpose', () => {
  test('differ from each other and between masters, and are the same for the same master', () => {
    const keyring = new Keyring(first);
    const { kid, key } = keyring.for('jwt').current();
    expect(kid).toBe(keyring.kid);
    expect(key).toHaveLength(32);
    expect(key).not.toEqual(keyring.for('audit').current().key);
    expect(key).not.toEqual(new Keyring(second).for('jwt').current().key);
    expect(key).toEqual(new Keyring(Buffer.from(first)).for('jwt').current().key);
    expect(key).not.toEqual(first);
  });

  test('are found by their kid, the previous one too, and others are not', () => {
    const keyring = new Keyring(second, first);
    const old = new Keyring(first).for('jwt').current();
    expect(keyring.for('jwt').byKid(old.kid)).toEqual(old.key);
    expect(keyring.for('jwt').byKid('000000000000')).toBeUndefined();
  });
});
