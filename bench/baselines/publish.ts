import amqp from 'amqplib';
import { serve } from '../peer.ts';

/* Persistent messages to a quorum queue, 1,000 unconfirmed at most, and nothing else. */

serve({
  async run(options: {
    rabbitmqUrl: string;
    queue: string;
    body: string;
    warmSeconds: number;
    seconds: number;
  }): Promise<{ count: number; seconds: number }> {
    const model = await amqp.connect(options.rabbitmqUrl, { noDelay: true });
    const channel = await model.createConfirmChannel();
    const body = Buffer.from(options.body);
    let counting = false;
    let stop = false;
    let count = 0;
    let inFlight = 0;
    let published = 0;
    const fill = () => {
      while (inFlight < 1000 && !stop) {
        inFlight += 1;
        published += 1;
        const properties = { persistent: true, mandatory: true, messageId: `m${published}` };
        channel.publish('', options.queue, body, properties, () => {
          inFlight -= 1;
          if (counting) count += 1;
          fill();
        });
      }
    };
    fill();
    await new Promise((resolve) => setTimeout(resolve, options.warmSeconds * 1000));
    counting = true;
    const began = performance.now();
    await new Promise((resolve) => setTimeout(resolve, options.seconds * 1000));
    counting = false;
    const seconds = (performance.now() - began) / 1000;
    stop = true;
    await channel.waitForConfirms();
    await model.close();
    return { count, seconds };
  },
});
