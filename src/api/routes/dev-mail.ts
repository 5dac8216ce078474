import { randomBytes } from 'node:crypto';
import { getConnInfo } from '@hono/node-server/conninfo';
import type { Context } from 'hono';
import ipaddr from 'ipaddr.js';
import type { Config } from '../../config.ts';
import { refuse } from '../../domain/problem.ts';
import { hasInbox, type Inbox } from '../../services/inbox.ts';
import { inboxPage, inboxPolicy } from '../pages/inbox.ts';
import { type ApiRouter, createRouter } from '../router.ts';

/** Whether the socket's other end is this machine. Headers say nothing here: anyone can write them. */
function fromLoopback(c: Context): boolean {
  try {
    return ipaddr.process(getConnInfo(c).remote.address ?? '').range() === 'loopback';
  } catch {
    return false; // no socket, or no address: not known to be local
  }
}

/**
 * The built-in inbox at the root: `GET /dev/mail` and `GET /dev/mail.json`. Without it (production, or an `SMTP_URL`)
 * there are no routes at all; to a peer that is not on this machine they answer as if there were none.
 */
export function devMailRoutes(deps: { config: Pick<Config, 'env' | 'smtpUrl'>; inbox: Inbox }): ApiRouter {
  const routes = createRouter();
  if (!hasInbox(deps.config)) return routes;
  const mails = () =>
    deps.inbox
      .list()
      .catch(() => refuse('SERVICE_UNAVAILABLE', 'the inbox cannot be read at the moment', { retry_after: 2 }));

  routes.get('/dev/mail.json', async (c) => {
    if (!fromLoopback(c)) return c.notFound();
    c.header('Cache-Control', 'no-store');
    return c.json({ data: await mails() });
  });

  routes.get('/dev/mail', async (c) => {
    if (!fromLoopback(c)) return c.notFound();
    const nonce = randomBytes(16).toString('base64');
    c.header('Cache-Control', 'no-store');
    c.header('Content-Security-Policy', inboxPolicy(nonce));
    c.header('Referrer-Policy', 'no-referrer');
    c.header('X-Content-Type-Options', 'nosniff');
    const view = c.req.query('view') === 'text' ? 'text' : 'html';
    return c.html(inboxPage({ mails: await mails(), id: c.req.query('id'), view, nonce }));
  });

  return routes;
}
