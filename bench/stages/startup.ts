import { median, round } from '../measure.ts';
import type { Platform } from '../platform.ts';

/** From the start of a process to its first 200 of `/readyz`, in ms, by process: the median of `runs`. */
export async function startup(platform: Platform, runs: number): Promise<Record<string, number>> {
  const kinds: Record<string, string[]> = {
    api: ['api'],
    'worker webhooks': ['worker', 'webhooks'],
    'worker, all pools': 'worker registration kyc fanout audit email webhooks housekeeping'.split(' '),
  };
  const figures: Record<string, number> = {};
  for (const [kind, args] of Object.entries(kinds)) {
    const times: number[] = [];
    for (let run = 0; run < runs; run += 1) {
      const began = performance.now();
      const started = await platform.start(args, {}, 5);
      times.push(performance.now() - began);
      await platform.stop(started);
    }
    figures[kind] = round(median(times));
  }
  return figures;
}
