import { createHmac, createSecretKey, type KeyObject, randomBytes } from 'node:crypto';
import { Agent, request } from 'undici';
import { serve } from '../peer.ts';

/*
 * Signed POSTs and nothing else: no broker, no database, no check of an address, no record. The same payload size and
 * receivers as the platform's deliveries, and as many connections.
 */

interface Options {
  client: 'undici' | 'fetch';
  urls: string[];
  payload: string;
  connections: number;
  warmSeconds: number;
  seconds: number;
}

/** A Standard Webhooks request; the key object is kept, as anyone would who has measured it. */
function signed(key: KeyObject, payload: string): Record<string, string> {
  const id = `msg_${randomBytes(12).toString('hex')}`;
  const timestamp = String(Math.floor(Date.now() / 1000));
  const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${payload}`).digest('base64');
  return {
    'content-type': 'application/json',
    'user-agent': 'bench/1',
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': `v1,${signature}`,
  };
}

serve({
  async run(options: Options): Promise<{ count: number; seconds: number }> {
    const agent = new Agent({ connections: Math.max(1, Math.ceil(options.connections / options.urls.length)) * 4 });
    const keys = options.urls.map(() => createSecretKey(randomBytes(24)));
    let counting = false;
    let stop = false;
    let count = 0;
    const post = async (n: number): Promise<void> => {
      const url = options.urls[n % options.urls.length] as string;
      const headers = signed(keys[n % keys.length] as KeyObject, options.payload);
      if (options.client === 'undici') {
        const { statusCode, body } = await request(url, {
          dispatcher: agent,
          method: 'POST',
          headers,
          body: options.payload,
          headersTimeout: 15_000,
          bodyTimeout: 15_000,
        });
        await body.dump();
        if (statusCode !== 204) throw new Error(`status ${statusCode}`);
      } else {
        const response = await fetch(url, { method: 'POST', headers, body: options.payload });
        await response.arrayBuffer();
        if (response.status !== 204) throw new Error(`status ${response.status}`);
      }
      if (counting) count += 1;
    };
    const loops = Array.from({ length: options.connections }, async (_, first) => {
      for (let n = first; !stop; n += options.connections) await post(n);
    });
    await new Promise((resolve) => setTimeout(resolve, options.warmSeconds * 1000));
    counting = true;
    const began = performance.now();
    await new Promise((resolve) => setTimeout(resolve, options.seconds * 1000));
    counting = false;
    const seconds = (performance.now() - began) / 1000;
    stop = true;
    await Promise.all(loops);
    await agent.destroy();
    return { count, seconds };
  },
});
