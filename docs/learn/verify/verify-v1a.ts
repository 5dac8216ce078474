// Verifies a webhook's v1a signature (Ed25519) with nothing but Node.
import { createPublicKey, verify as verifyBytes } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';

const TOLERANCE_S = 300;

/** `publicKey` is the endpoint's `whpk_…`; names of `headers` in lower case. */
export function verifyV1a(publicKey: string, headers: Record<string, string>, body: Buffer): boolean {
  const { 'webhook-id': id = '', 'webhook-timestamp': timestamp = '', 'webhook-signature': signatures = '' } = headers;
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) return false;
  const x = Buffer.from(publicKey.replace(/^whpk_/, ''), 'base64').toString('base64url');
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  return signatures
    .split(' ')
    .filter((one) => one.startsWith('v1a,'))
    .some((one) => verifyBytes(null, signed, key, Buffer.from(one.slice('v1a,'.length), 'base64')));
}

// By hand: WEBHOOK_PUBLIC_KEY=whpk_… WEBHOOK_ID=… WEBHOOK_TIMESTAMP=… WEBHOOK_SIGNATURE=… node verify-v1a.ts < body.json
if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { WEBHOOK_PUBLIC_KEY = '', WEBHOOK_ID = '', WEBHOOK_TIMESTAMP = '', WEBHOOK_SIGNATURE = '' } = process.env;
  const headers = {
    'webhook-id': WEBHOOK_ID,
    'webhook-timestamp': WEBHOOK_TIMESTAMP,
    'webhook-signature': WEBHOOK_SIGNATURE,
  };
  const verified = verifyV1a(WEBHOOK_PUBLIC_KEY, headers, await buffer(process.stdin));
  console.log(verified ? 'verified' : 'not verified');
  process.exitCode = verified ? 0 : 1;
}
