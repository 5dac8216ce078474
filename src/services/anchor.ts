import type { Redis } from 'ioredis';
import { withDeadline } from './service.ts';

/** The newest checkpoint of the audit log, kept in Redis: outside the database, so that a log whose end was cut off shows. */
export interface KeptAnchor {
  n: number;
  hash: string;
}

const DEADLINE_MS = 500;
/** Keeps the higher of two anchors, whoever comes last. */
const KEEP_NEWEST = `
local n = tonumber(string.match(redis.call('get', KEYS[1]) or '', '^(%d+):'))
if not n or tonumber(ARGV[1]) > n then redis.call('set', KEYS[1], ARGV[1] .. ':' .. ARGV[2]) end`;

export function createAnchorKeeper(redis: Redis, namespace: string) {
  const key = `${namespace}:audit:anchor`;
  return {
    /** Best effort: the log stream has the anchor too, once a minute. */
    keep({ n, hash }: KeptAnchor): void {
      if (redis.status === 'ready') redis.eval(KEEP_NEWEST, 1, key, n, hash).catch(() => undefined);
    },
    /** `undefined` when none is kept, or Redis cannot be asked. */
    async read(): Promise<KeptAnchor | undefined> {
      const text = await withDeadline(redis.get(key), DEADLINE_MS, 'reading the anchor').catch(() => undefined);
      const [, n, hash] = /^(\d+):([0-9a-f]{64})$/.exec(text ?? '') ?? [];
      return n && hash ? { n: Number(n), hash } : undefined;
    },
  };
}
