import type { Server } from 'node:http';
import { serve } from '@hono/node-server';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../../src/api/app.ts';
import { devMailRoutes } from '../../../src/api/routes/dev-mail.ts';
import type { Config } from '../../../src/config.ts';
import type { Inbox, InboxMail } from '../../../src/services/inbox.ts';
import { createLogger } from '../../../src/services/logger.ts';

const HOSTILE = `"><script>alert(1)</script>`;
const mails: InboxMail[] = ['b', 'a'].map((id) => ({
  id,
  to: `${HOSTILE}@example.org`,
  from: HOSTILE,
  subject: `${HOSTILE} ${id}`,
  text: `${HOSTILE} text`,
  html: `<html><head></head><body>${HOSTILE}<img src="https://evil.example/x.png"></body></html>`,
  sent_at: '2026-11-20T10:15:30.000Z',
}));
let broken = false;
const inbox: Inbox = {
  list: async () => {
    if (broken) throw new Error('away');
    return mails;
  },
  send: async () => ({ accepted: true, response: '' }),
};

function app(config: Pick<Config, 'env' | 'smtpUrl'> = { env: 'development', smtpUrl: undefined }) {
  const shell = {
    corsOrigins: [],
    trustedProxies: [],
    rateLimits: 'off' as const,
    namespace: 'wb_emails_page',
    publicUrl: 'http://localhost',
  };
  return createApp(
    { config: shell, log: createLogger({ level: 'silent' }) },
    { api: [], root: [devMailRoutes({ config, inbox })] },
  );
}

const from = (remoteAddress: string | undefined) => ({ incoming: { socket: { remoteAddress } } });

let server: Server;
let base: string;
beforeAll(async () => {
  base = await new Promise((resolve) => {
    server = serve({ fetch: app().fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) =>
      resolve(`http://127.0.0.1:${port}`),
    ) as Server;
  });
});
afterAll(() => new Promise((resolve) => server.close(resolve)));

describe('the built-in inbox', () => {
  it('is plain JSON, newest first', async () => {
    const answer = await fetch(`${base}/dev/mail.json`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('cache-control')).toBe('no-store');
    expect(await answer.json()).toEqual({ data: mails });
  });

  it('is a page that lets neither a header nor the body of a mail become its own markup', async () => {
    for (const query of ['', '?id=a', '?id=a&view=text', '?id=%22%3E%3Cscript%3E']) {
      const page = await (await fetch(`${base}/dev/mail${query}`)).text();
      expect(page.match(/<script/g)).toHaveLength(1);
      expect(page).not.toContain('<img');
    }
  });

  it('allows its own script only, and a mail nothing at all', async () => {
    const answer = await fetch(`${base}/dev/mail`);
    const policy = answer.headers.get('content-security-policy') ?? '';
    const nonce = /script-src 'nonce-([^']+)'/.exec(policy)?.[1];
    const page = await answer.text();
    expect(policy).toMatch(/^default-src 'none';/);
    expect(policy).not.toMatch(/img-src (?!data:;)|unsafe-eval|\*/);
    expect(page).toContain(`<script nonce="${nonce}">`);
    expect(page).toContain('sandbox="allow-popups allow-popups-to-escape-sandbox"');
    expect((await fetch(`${base}/dev/mail`)).headers.get('content-security-policy')).not.toBe(policy);
  });

  it.each(['192.0.2.7', '10.0.0.9', '2001:db8::1', '::ffff:10.0.0.9', '', undefined, 'nonsense'])(
    'is not there for the peer %s, whatever its headers say',
    async (address) => {
      const headers = { 'x-forwarded-for': '127.0.0.1', forwarded: 'for=127.0.0.1', host: 'localhost' };
      for (const path of ['/dev/mail', '/dev/mail.json']) {
        expect((await app().request(path, { headers }, from(address))).status).toBe(404);
      }
    },
  );

  it.each(['127.0.0.1', '127.8.9.1', '::1', '::ffff:127.0.0.1'])('is there for %s', async (address) => {
    expect((await app().request('/dev/mail.json', {}, from(address))).status).toBe(200);
  });

  it('does not exist in production or with a mail server', async () => {
    for (const config of [
      { env: 'production' as const, smtpUrl: undefined },
      { env: 'development' as const, smtpUrl: 'smtp://localhost' },
    ]) {
      for (const path of ['/dev/mail', '/dev/mail.json']) {
        expect((await app(config).request(path, {}, from('127.0.0.1'))).status).toBe(404);
      }
    }
  });

  it('answers 503 while it cannot be read', async () => {
    broken = true;
    const answer = await fetch(`${base}/dev/mail.json`);
    broken = false;
    expect(answer.status).toBe(503);
    expect(answer.headers.get('retry-after')).toBe('2');
  });
});
