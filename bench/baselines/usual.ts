import { createHmac, randomBytes, randomUUID } from 'node:crypto';
import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import { serve } from '../peer.ts';

/*
 * The webhook service that is usually written: one BullMQ job per delivery, a worker at concurrency 50 that inserts the
 * attempt, posts with fetch, and updates the row with the result, through a PostgreSQL pool of 10. Written with care:
 * prepared statements, jobs added in bulk, keep-alive, finished jobs removed.
 */

interface Endpoint {
  id: string;
  url: string;
  secret: string;
}

interface Delivery {
  eventId: string;
  endpointId: string;
  payload: string;
}

let connection: Redis;
let queue: Queue;
let worker: Worker;
let pool: InstanceType<typeof pg.Pool>;
let endpoints: Map<string, Endpoint>;
let done = 0;
let waiting: { target: number; resolve: () => void } | undefined;

async function deliver({ eventId, endpointId, payload }: Delivery): Promise<void> {
  const endpoint = endpoints.get(endpointId);
  if (!endpoint) throw new Error(`there is no endpoint ${endpointId}`);
  const id = randomUUID();
  await pool.query({
    name: 'insert',
    text: `insert into bench_attempts (id, endpoint_id, event_id, status, started_at) values ($1, $2, $3, 'pending', now())`,
    values: [id, endpointId, eventId],
  });
  const timestamp = String(Math.floor(Date.now() / 1000));
  const signature = createHmac('sha256', endpoint.secret).update(`${eventId}.${timestamp}.${payload}`).digest('base64');
  const began = performance.now();
  const response = await fetch(endpoint.url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'webhook-id': eventId,
      'webhook-timestamp': timestamp,
      'webhook-signature': `v1,${signature}`,
    },
    body: payload,
    signal: AbortSignal.timeout(15_000),
  });
  await response.text();
  await pool.query({
    name: 'update',
    text: 'update bench_attempts set status = $2, status_code = $3, duration_ms = $4, finished_at = now() where id = $1',
    values: [id, response.ok ? 'delivered' : 'failed', response.status, Math.round(performance.now() - began)],
  });
  if (!response.ok) throw new Error(`status ${response.status}`);
}

serve({
  async start(options: { databaseUrl: string; redisUrl: string; prefix: string; urls: string[] }): Promise<void> {
    connection = new Redis(options.redisUrl, { maxRetriesPerRequest: null });
    pool = new pg.Pool({ connectionString: options.databaseUrl, max: 10 });
    endpoints = new Map(
      options.urls.map((url, i) => [`ep${i}`, { id: `ep${i}`, url, secret: randomBytes(24).toString('base64') }]),
    );
    queue = new Queue('deliveries', { connection, prefix: options.prefix });
    worker = new Worker('deliveries', ({ data }) => deliver(data as Delivery), {
      connection,
      prefix: options.prefix,
      concurrency: 50,
    });
    worker.on('completed', () => {
      done += 1;
      if (waiting && done >= waiting.target) waiting.resolve();
    });
    await worker.waitUntilReady();
  },

  /** Delivers `events` events to `each` endpoints; with `prefilled` the jobs are in the queue before the clock starts. */
  async run(options: {
    events: number;
    each: number;
    payload: string;
    prefilled: boolean;
  }): Promise<{ count: number; seconds: number }> {
    const ids = [...endpoints.keys()];
    let next = 0;
    const add = async () => {
      for (let event = 0; event < options.events; ) {
        const jobs: { name: string; data: Delivery; opts: object }[] = [];
        for (; event < options.events && jobs.length < 1000; event += 1) {
          const eventId = randomUUID();
          for (let n = 0; n < options.each; n += 1) {
            const endpointId = ids[next++ % ids.length] as string;
            const opts = { attempts: 10, backoff: { type: 'exponential', delay: 5000 }, removeOnComplete: true };
            jobs.push({ name: 'deliver', data: { eventId, endpointId, payload: options.payload }, opts });
          }
        }
        await queue.addBulk(jobs);
      }
    };
    done = 0;
    const target = options.events * options.each;
    const all = new Promise<void>((resolve) => {
      waiting = { target, resolve };
    });
    if (options.prefilled) {
      await queue.pause();
      await add();
    }
    const began = performance.now();
    if (options.prefilled) await queue.resume();
    else await add();
    await all;
    return { count: target, seconds: (performance.now() - began) / 1000 };
  },

  async stop(): Promise<void> {
    await worker.close();
    await queue.obliterate({ force: true });
    await queue.close();
    await pool.end();
    connection.disconnect();
  },
});
