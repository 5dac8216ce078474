import { randomUUID } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import amqp from 'amqplib';
import { Hono } from 'hono';
import { Redis } from 'ioredis';
import { serve } from '../peer.ts';

/* What a command costs at least, the caller's side: publish, confirm, wait for the reply over Redis, answer. */

serve({
  async start(options: { rabbitmqUrl: string; redisUrl: string; queue: string; channel: string }): Promise<number> {
    const model = await amqp.connect(options.rabbitmqUrl, { noDelay: true });
    const channel = await model.createConfirmChannel();
    const subscriber = new Redis(options.redisUrl);
    const waiting = new Map<string, () => void>();
    subscriber.on('message', (_, id: string) => {
      waiting.get(id)?.();
      waiting.delete(id);
    });
    await subscriber.subscribe(options.channel);
    const app = new Hono();
    app.on(['PATCH', 'DELETE'], '/api/v1/users/me/kyc', async (c) => {
      const id = randomUUID();
      const data = await c.req.text();
      const done = new Promise<void>((resolve) => waiting.set(id, resolve));
      await new Promise<void>((resolve, reject) => {
        const content = Buffer.from(JSON.stringify({ id, data }));
        channel.publish('', options.queue, content, { persistent: true, mandatory: true, messageId: id }, (error) =>
          error ? reject(error) : resolve(),
        );
      });
      await done;
      return c.json({ status: 'success', data: { operation_id: id } });
    });
    const server = createAdaptorServer({ fetch: app.fetch });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return (server.address() as AddressInfo).port;
  },
});
