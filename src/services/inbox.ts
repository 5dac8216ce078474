import type { Redis } from 'ioredis';
import { z } from 'zod';
import type { Config } from '../config.ts';
import type { Mailer } from '../domain/emails/mailer.ts';
import { newId } from '../domain/ids.ts';
import { withDeadline } from './service.ts';

const inboxMail = z.object({
  id: z.string(),
  to: z.string(),
  from: z.string(),
  subject: z.string(),
  text: z.string(),
  html: z.string(),
  sent_at: z.string(),
});

/** A mail as the built-in inbox keeps it. */
export type InboxMail = z.infer<typeof inboxMail>;

/** Where mail goes in development without a mail server. Kept in Redis, for the sender and the viewer may be different processes. */
export interface Inbox extends Mailer {
  /** The newest first; 1,000 at most. */
  list(): Promise<InboxMail[]>;
}

/** The inbox as whoever erases a person sees it. */
export interface ErasableInbox extends Inbox {
  /** Drops every mail to one of these addresses, whatever its case. */
  forget(addresses: string[]): Promise<void>;
}

const KEPT = 1000;
const DEADLINE_MS = 2000;

/** Whether this installation has the built-in inbox at all. */
export const hasInbox = (config: Pick<Config, 'env' | 'smtpUrl'>): boolean =>
  config.env !== 'production' && !config.smtpUrl;

/** The inbox at `<namespace>:inbox`. Its calls fail within 2 s when Redis is away. */
export function createInbox(redis: Redis, namespace: string): ErasableInbox {
  const key = `${namespace}:inbox`;

  async function list(): Promise<InboxMail[]> {
    const lines = await withDeadline(redis.lrange(key, 0, KEPT - 1), DEADLINE_MS, 'reading the inbox');
    return lines.map((line) => inboxMail.parse(JSON.parse(line)));
  }

  return {
    list,
    async forget(addresses) {
      const wanted = new Set(addresses.map((address) => address.toLowerCase()));
      const lines = await withDeadline(redis.lrange(key, 0, KEPT - 1), DEADLINE_MS, 'reading the inbox');
      const theirs = lines.filter((line) => wanted.has(inboxMail.parse(JSON.parse(line)).to.toLowerCase()));
      for (const line of theirs) await withDeadline(redis.lrem(key, 0, line), DEADLINE_MS, 'forgetting a mail');
    },
    async send({ to, from, subject, text, html }) {
      const mail: InboxMail = { id: newId(), to, from, subject, text, html, sent_at: new Date().toISOString() };
      const pushed = redis
        .multi()
        .lpush(key, JSON.stringify(mail))
        .ltrim(key, 0, KEPT - 1)
        .exec();
      const replies = await withDeadline(pushed, DEADLINE_MS, 'writing to the inbox');
      const failure = replies?.find(([error]) => error)?.[0];
      if (!replies || failure) throw failure ?? new Error('the inbox did not take the mail');
      return { accepted: true, response: '250 kept in the built-in inbox' };
    },
  };
}
