import { createPublicKey, createSecretKey, verify } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { Webhook as SvixWebhook } from 'svix';
import { describe, expect, it } from 'vitest';
import {
  generateKeyPair,
  generateSecret,
  hexSignature,
  InvalidSecretError,
  parseSecret,
  sign,
  UnsignableMessageError,
} from '../../src/webhooks/signature.ts';

const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
const PRIVATE = 'whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==';
const PUBLIC = 'whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=';
const MESSAGE = { id: 'msg_p5jXN8AQM9LWM0D4loKWxJek', timestamp: 1614265330, body: '{"test": 2432232314}' };

function now(): number {
  return Math.floor(Date.now() / 1000);
}

function headersOf(message: { id: string; timestamp: number }, signature: string): Record<string, string> {
  return {
    'webhook-id': message.id,
    'webhook-timestamp': String(message.timestamp),
    'webhook-signature': signature,
  };
}

/** Ed25519 verification with nothing but node:crypto and the public key as it is handed out. */
function verifiedBy(
  whpk: string,
  message: { id: string; timestamp: number; body: string },
  signature: string,
): boolean {
  const x = Buffer.from(whpk.slice('whpk_'.length), 'base64').toString('base64url');
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
  const signed = Buffer.from(`${message.id}.${message.timestamp}.${message.body}`);
  return verify(null, signed, key, Buffer.from(signature.slice('v1a,'.length), 'base64'));
}

describe('the published vectors', () => {
  it('v1 of the JavaScript reference library', () => {
    expect(sign([parseSecret(SECRET)], MESSAGE)).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
  });

  it('v1 of the Rust reference library', () => {
    const message = {
      id: 'msg_27UH4WbU6Z5A5EzD8u03UvzRbpk',
      timestamp: 1649367553,
      body: '{"email":"test@example.com","username":"test_user"}',
    };
    expect(sign([parseSecret('whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD')], message)).toBe(
      'v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=',
    );
  });

  it('v1a, whose published public key verifies it', () => {
    const key = parseSecret(PRIVATE);
    const signature = sign([key], MESSAGE);
    expect(signature).toBe(
      'v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==',
    );
    expect(key).toMatchObject({ scheme: 'v1a', publicKey: PUBLIC });
    expect(verifiedBy(PUBLIC, MESSAGE, signature)).toBe(true);
    expect(verifiedBy(PUBLIC, { ...MESSAGE, timestamp: MESSAGE.timestamp + 1 }, signature)).toBe(false);
  });
});

describe('the public libraries accept what is signed', () => {
  const body = JSON.stringify({ type: 'user.registered', timestamp: '2026-01-01T00:00:00Z', data: { name: 'Zoë 🎉' } });

  it.each([
    ['a text', body],
    ['bytes', Buffer.from(body)],
  ])('a fresh secret over %s', (_, payload) => {
    const secret = generateSecret();
    const message = { id: 'evt_1', timestamp: now(), body: payload };
    const headers = headersOf(message, sign([parseSecret(secret)], message));
    expect(new Webhook(secret).verify(payload, headers)).toEqual(JSON.parse(body));
    expect(() => new SvixWebhook(secret).verify(payload, headers)).not.toThrow();
    expect(() => new Webhook(secret).verify(`${body} `, headers)).toThrow();
    expect(() => new Webhook(generateSecret()).verify(payload, headers)).toThrow();
  });

  it('old, new and asymmetric signatures stand in one header while a secret rotates', () => {
    const [oldSecret, newSecret, pair] = [generateSecret(), generateSecret(), generateKeyPair()];
    const message = { id: 'evt_2', timestamp: now(), body };
    const signature = sign([newSecret, oldSecret, pair.secret].map(parseSecret), message);
    expect(signature.split(' ').map((part) => part.split(',')[0])).toEqual(['v1', 'v1', 'v1a']);
    for (const secret of [oldSecret, newSecret]) {
      expect(() => new Webhook(secret).verify(body, headersOf(message, signature))).not.toThrow();
      expect(() => new SvixWebhook(secret).verify(body, headersOf(message, signature))).not.toThrow();
    }
    expect(verifiedBy(pair.publicKey, message, signature.split(' ')[2] ?? '')).toBe(true);
  });
});

it('generates secrets that differ, and pairs whose public half belongs to the private one', () => {
  expect(generateSecret()).not.toBe(generateSecret());
  expect(Buffer.from(generateSecret().slice(6), 'base64')).toHaveLength(32);
  const pair = generateKeyPair();
  expect(parseSecret(pair.secret)).toMatchObject({ publicKey: pair.publicKey });
});

it('signs the body alone, in hex, keyed with the text that the subscriber was shown', () => {
  const key = createSecretKey(Buffer.from(SECRET));
  // printf '%s' '{"test": 2432232314}' | openssl dgst -sha256 -hmac 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
  expect(hexSignature(key, MESSAGE.body)).toBe('80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c');
  expect(hexSignature(key, Buffer.from(MESSAGE.body))).toBe(hexSignature(key, MESSAGE.body));
});

describe('secrets that are refused', () => {
  const swapped = Buffer.concat([
    Buffer.from(PRIVATE.slice(5), 'base64').subarray(0, 32),
    Buffer.from(generateKeyPair().publicKey.slice(5), 'base64'),
  ]);
  it.each([
    ['another prefix', 'sk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', /whsec_ or whsk_/],
    ['a public key', PUBLIC, /whsec_ or whsk_/],
    ['nothing', '', /whsec_ or whsk_/],
    ['no base64', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!', /not base64/],
    ['base64 with a gap', 'whsec_MfKQ9r8GKYqr TwjUPD8ILPZIo2LaLaSw', /not base64/],
    ['23 bytes', `whsec_${Buffer.alloc(23).toString('base64')}`, /24 to 64 bytes, this one 23/],
    ['65 bytes', `whsec_${Buffer.alloc(65).toString('base64')}`, /24 to 64 bytes, this one 65/],
    ['half a key pair', `whsk_${Buffer.alloc(32).toString('base64')}`, /64 bytes, this one 32/],
    ['halves that do not belong together', `whsk_${swapped.toString('base64')}`, /does not belong/],
  ])('%s', (_, text, reason) => {
    expect(() => parseSecret(text)).toThrow(InvalidSecretError);
    expect(() => parseSecret(text)).toThrow(reason);
  });

  it('never repeat themselves in the error', () => {
    const text = 'whsec_c2VjcmV0IHNlY3JldA==';
    expect(() => parseSecret(text)).toThrow(expect.not.objectContaining({ message: expect.stringContaining('c2Vj') }));
  });

  it('takes 24 and 64 bytes', () => {
    for (const size of [24, 64]) {
      expect(parseSecret(`whsec_${Buffer.alloc(size, 7).toString('base64')}`).scheme).toBe('v1');
    }
  });
});

it('refuses what would make the signed text ambiguous', () => {
  const key = parseSecret(SECRET);
  expect(() => sign([key], { ...MESSAGE, id: 'msg.1' })).toThrow(UnsignableMessageError);
  expect(() => sign([key], { ...MESSAGE, timestamp: 1.5 })).toThrow(UnsignableMessageError);
});
