import { resolve } from 'node:path';
import { findExecutable } from './command.ts';
import { greetRedis } from './handshake.ts';
import { type Instance, launch } from './instance.ts';

export const findRedis = (): string | undefined => findExecutable('redis-server', 'valkey-server');

/**
 * Starts Redis on 127.0.0.1:`port` with its data in `dir`: append-only file synced every second, and `noeviction`,
 * because BullMQ's keys must never be dropped to make room.
 */
export async function startRedis(dir: string, port: number, signal?: AbortSignal): Promise<Instance> {
  const path = resolve(dir);
  const url = `redis://127.0.0.1:${port}`;
  const settings = {
    port: `${port}`,
    bind: '127.0.0.1',
    dir: path,
    appendonly: 'yes',
    appendfsync: 'everysec',
    save: '',
    'maxmemory-policy': 'noeviction',
  };
  return launch({
    title: 'Redis',
    dir: path,
    command: findRedis() ?? 'redis-server',
    args: Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]),
    env: { PATH: process.env.PATH },
    url,
    port,
    greet: () => greetRedis(url),
    deadlineMs: 30_000,
    stopSignal: 'SIGTERM',
    graceMs: 10_000,
    signal,
  });
}
