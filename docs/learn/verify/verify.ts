// Verifies a webhook's v1 signature. npm install standardwebhooks
import { text } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';
import { Webhook } from 'standardwebhooks';

/** The parsed body. Throws when no signature fits, or the timestamp is more than 5 minutes off. */
export function verify(secret: string, headers: Record<string, string>, body: string): unknown {
  return new Webhook(secret).verify(body, headers);
}

// By hand: WEBHOOK_SECRET=whsec_… WEBHOOK_ID=… WEBHOOK_TIMESTAMP=… WEBHOOK_SIGNATURE=… node verify.ts < body.json
if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { WEBHOOK_SECRET = '', WEBHOOK_ID = '', WEBHOOK_TIMESTAMP = '', WEBHOOK_SIGNATURE = '' } = process.env;
  const headers = {
    'webhook-id': WEBHOOK_ID,
    'webhook-timestamp': WEBHOOK_TIMESTAMP,
    'webhook-signature': WEBHOOK_SIGNATURE,
  };
  try {
    verify(WEBHOOK_SECRET, headers, await text(process.stdin));
    console.log('verified');
  } catch {
    console.error('not verified');
    process.exitCode = 1;
  }
}
