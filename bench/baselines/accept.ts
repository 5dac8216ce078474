import { randomUUID } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import amqp from 'amqplib';
import { Hono } from 'hono';
import { z } from 'zod';
import { serve } from '../peer.ts';

/*
 * What accepting an event costs at least: Hono, one zod check by hand, one confirmed publish of a message as long as the
 * platform's to a quorum queue. No authentication, no log line, no metrics, no tracing.
 */

const body = z.strictObject({
  type: z.string().min(1).max(128),
  data: z.looseObject({
    payment_id: z.string().min(1).max(128),
    amount: z.number(),
    currency: z.string().regex(/^[A-Za-z]{3}$/),
  }),
});

serve({
  async start({ rabbitmqUrl, queue, bytes }: { rabbitmqUrl: string; queue: string; bytes: number }): Promise<number> {
    const model = await amqp.connect(rabbitmqUrl, { noDelay: true });
    const channel = await model.createConfirmChannel();
    const app = new Hono();
    app.post('/api/v1/events', async (c) => {
      const parsed = body.safeParse(await c.req.json());
      if (!parsed.success) return c.json({ status: 'error', error: { code: 'VALIDATION_ERROR' } }, 400);
      const id = randomUUID();
      const message = JSON.stringify({ id, time: new Date().toISOString(), ...parsed.data });
      const content = Buffer.from(message.padEnd(bytes));
      await new Promise<void>((resolve, reject) => {
        channel.publish('', queue, content, { persistent: true, mandatory: true, messageId: id }, (error) =>
          error ? reject(error) : resolve(),
        );
      });
      return c.json({ status: 'success', data: { event_id: id } }, 202);
    });
    const server = createAdaptorServer({ fetch: app.fetch });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return (server.address() as AddressInfo).port;
  },
});
