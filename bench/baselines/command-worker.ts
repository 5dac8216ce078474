import amqp from 'amqplib';
import { Redis } from 'ioredis';
import pg from 'pg';
import { serve } from '../peer.ts';

/* What a command costs at least, the worker's side: consume, one transaction with one row, reply, acknowledge. */

serve({
  async start(options: {
    rabbitmqUrl: string;
    redisUrl: string;
    databaseUrl: string;
    queue: string;
    channel: string;
    concurrency: number;
  }): Promise<void> {
    const pool = new pg.Pool({ connectionString: options.databaseUrl, max: options.concurrency });
    const redis = new Redis(options.redisUrl);
    const model = await amqp.connect(options.rabbitmqUrl, { noDelay: true });
    const channel = await model.createChannel();
    await channel.prefetch(2 * options.concurrency);
    await channel.consume(options.queue, async (message) => {
      if (!message) return;
      const { id, data } = JSON.parse(message.content.toString()) as { id: string; data: string };
      // One statement is one transaction.
      await pool.query({
        name: 'insert',
        text: 'insert into bench_commands (id, data) values ($1, $2)',
        values: [id, data],
      });
      await redis.publish(options.channel, id);
      channel.ack(message);
    });
  },
});
