import { Script } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/app.ts';
import { frontPage, frontRoutes, type PoolSummary } from '../../src/api/pages/front.ts';
import { listening } from './shell.ts';

const POOLS: PoolSummary[] = [{ pool: 'email', backlog: 3, in_flight: 1, workers: 2, paused: false }];

function front(poolSummary: () => Promise<PoolSummary[]>, inbox = true) {
  const config = {
    corsOrigins: [],
    trustedProxies: [],
    rateLimits: 'off' as const,
    namespace: 'unused',
    publicUrl: 'http://localhost',
  };
  const root = [frontRoutes({ version: '0.1.0', publicUrl: 'http://localhost:3000', inbox, poolSummary })];
  return createApp({ config, log: listening().log }, { api: [], root });
}

describe('the front page', () => {
  it('links what there is, the inbox only where it is served', async () => {
    const links = async (inbox: boolean) =>
      [...(await (await front(async () => POOLS, inbox).request('/')).text()).matchAll(/<a href="(\/[^"]+)"/g)].map(
        (match) => match[1],
      );
    expect(await links(true)).toEqual([
      '/console',
      '/docs',
      '/openapi.json',
      '/dev/mail',
      '/health',
      '/metrics',
      '/pools.json',
    ]);
    expect(await links(false)).not.toContain('/dev/mail');
  });

  it('has no inline script or style and loads only its own files', async () => {
    const app = front(async () => POOLS);
    const response = await app.request('/');
    const page = await response.text();
    expect(response.headers.get('content-security-policy')).toContain("default-src 'self'");
    expect(page).not.toMatch(/<script(?![^>]*src=)|<style|\sstyle=|\son\w+=/);
    for (const [, path] of page.matchAll(/(?:src|rel="stylesheet" href)="([^"]+)"/g))
      expect((await app.request(path ?? '')).status).toBe(200);
  });

  it('escapes what it shows', () => {
    expect(frontPage({ version: '<b>1', publicUrl: 'http://x/"><script>', inbox: false })).not.toMatch(
      /<b>1|"><script>/,
    );
  });

  it('serves a script that parses, writes text only, and a stylesheet without outside loads', async () => {
    const app = front(async () => POOLS);
    const script = await (await app.request('/front.js')).text();
    expect(() => new Script(script)).not.toThrow();
    expect(script).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|localStorage|eval\(/);
    expect(await (await app.request('/front.css')).text()).not.toMatch(/url\(|@import/);
  });
});

describe('/pools.json', () => {
  it('gives the pools without an envelope, asking at most once a second', async () => {
    let asked = 0;
    const app = front(async () => {
      asked += 1;
      return POOLS;
    });
    const answers = await Promise.all(
      Array.from({ length: 20 }, async () => (await app.request('/pools.json')).json()),
    );
    expect(answers).toEqual(Array.from({ length: 20 }, () => ({ data: POOLS })));
    expect(asked).toBe(1);
  });

  it('answers 503 when they cannot be asked, and asks again', async () => {
    let away = true;
    const app = front(async () => {
      if (away) throw new Error('redis://secret@host is away');
      return POOLS;
    });
    const failed = await app.request('/pools.json');
    expect([failed.status, failed.headers.get('retry-after')]).toEqual([503, '2']);
    expect(await failed.text()).not.toContain('secret');
    away = false;
    expect((await app.request('/pools.json')).status).toBe(200);
  });
});
