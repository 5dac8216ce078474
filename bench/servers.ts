import { provisionFor } from '../src/cli/start.ts';
import { loadConfig } from '../src/config.ts';
import { Platform, type Urls } from './platform.ts';

export interface Servers {
  urls: Urls;
  /** A platform of its own; dropped by `close` at the latest, also when a signal ends the run. */
  platform(checkout: string, env?: Record<string, string>): Promise<Platform>;
  close(): Promise<void>;
}

/** The services that the environment names, brought up where they are missing. */
export async function openServers(report: (line: string) => void): Promise<Servers> {
  const services = await provisionFor(loadConfig(), report);
  const { databaseUrl, redisUrl, rabbitmqUrl } = services;
  const urls = { databaseUrl, redisUrl, rabbitmqUrl };
  const platforms: Promise<Platform>[] = [];
  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= (async () => {
      // One that is still being made is waited for; one that could not be made has taken itself down.
      for (const made of await Promise.allSettled(platforms)) {
        if (made.status === 'fulfilled') await made.value.close();
      }
      await services.stop();
    })();
    return closing;
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    // Not `once`: a supervisor may say it twice, and the second must not end this in the middle.
    process.on(signal, () => {
      process.on('uncaughtException', () => undefined); // the stage that is being measured falls with its processes
      void close().finally(() => process.exit(130));
    });
  }
  return {
    urls,
    platform(checkout, env) {
      const platform = Platform.create({ checkout, servers: urls, ...(env ? { env } : {}) });
      platforms.push(platform);
      return platform;
    },
    close,
  };
}

/** Says one line with the seconds since this was made, on stderr. */
export function reporter(): (line: string) => void {
  const began = performance.now();
  return (line) => {
    const seconds = ((performance.now() - began) / 1000).toFixed(0).padStart(4);
    process.stderr.write(`${seconds} s  ${line}\n`);
  };
}
