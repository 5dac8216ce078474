import { Redis } from 'ioredis';
import type { Logger } from './logger.ts';

/** `fast` clients fail at once while Redis is away (request paths); `patient` ones wait for it (workers, subscribers). */
export type RedisTemper = 'fast' | 'patient';

/**
 * How long an answer may take before the connection counts as dead: otherwise a command to a server that vanished
 * waits for TCP, a quarter of an hour. Job workers block for up to 10 s at a time, and that is no silence.
 */
const SILENCE_MS: Record<RedisTemper, number> = { fast: 5000, patient: 20_000 };

/** An ioredis client that reconnects for ever with a bounded, jittered delay and never emits an unhandled error. */
export function createRedis(url: string, temper: RedisTemper, log: Logger, name: string): Redis {
  const client = new Redis(url, {
    connectionName: name,
    lazyConnect: true,
    maxRetriesPerRequest: temper === 'fast' ? 0 : null,
    enableOfflineQueue: temper === 'patient',
    connectTimeout: 3000,
    socketTimeout: SILENCE_MS[temper],
    retryStrategy: (times) => Math.min(2000, 50 * 2 ** Math.min(times, 6)) * (0.75 + Math.random() / 2),
  });
  let down = false;
  client.on('error', (error: Error) => {
    if (!down) log.warn({ client: name, error: error.message }, 'Redis is out of reach');
    down = true;
  });
  client.on('ready', () => {
    if (down) log.info({ client: name }, 'Redis is back');
    down = false;
  });
  return client;
}

/** Starts connecting without waiting for success: the client goes on trying by itself. */
export function connectSoon(client: Redis): void {
  if (client.status === 'wait') client.connect().catch(() => undefined);
}

/** Closes politely, then at once. */
export async function closeRedis(client: Redis): Promise<void> {
  if (client.status === 'ready')
    await Promise.race([client.quit().catch(() => undefined), new Promise((r) => setTimeout(r, 500))]);
  client.disconnect();
}
