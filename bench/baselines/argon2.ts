import { hash } from 'argon2';
import { serve } from '../peer.ts';

/* Password hashing alone, in the thread pool, `concurrency` at once. */

serve({
  async run(options: {
    memoryKib: number;
    time: number;
    parallelism: number;
    concurrency: number;
    seconds: number;
  }): Promise<{ count: number; seconds: number }> {
    const { memoryKib: memoryCost, time: timeCost, parallelism } = options;
    const one = () => hash('correct horse battery staple', { memoryCost, timeCost, parallelism });
    await Promise.all(Array.from({ length: options.concurrency }, one));
    const began = performance.now();
    const end = began + options.seconds * 1000;
    let count = 0;
    await Promise.all(
      Array.from({ length: options.concurrency }, async () => {
        while (performance.now() < end) {
          await one();
          count += 1;
        }
      }),
    );
    return { count, seconds: (performance.now() - began) / 1000 };
  },
});
