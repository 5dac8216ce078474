import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freshEmail, openStage, PASSWORD, type Stage } from '../../domain/users/stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

const PAGES = ['/verify-email', '/confirm-email', '/reset-password'];

describe.each(PAGES)('%s', (path) => {
  test('runs nothing but our own script, and hands its address to nobody', async () => {
    const answer = await stage.app.request(`${path}?token=abc`);
    expect(answer.status).toBe(200);
    const policy = answer.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("frame-ancestors 'none'");
    expect(policy).not.toContain('unsafe');
    expect(answer.headers.get('referrer-policy')).toBe('no-referrer');
    expect(answer.headers.get('x-robots-tag')).toBe('noindex');
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
    const page = await answer.text();
    expect(page).not.toMatch(/<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:|https?:/);
    expect(page).not.toContain('abc');
    for (const [, source] of page.matchAll(/(?:src|href)="([^"]+)"/g)) {
      if (source?.startsWith('data:')) continue;
      expect((await stage.app.request(`/${source}`)).status).toBe(200);
    }
  });

  test('puts nothing of its address into the page', async () => {
    const plain = await (await stage.app.request(path)).text();
    const attack = encodeURIComponent('"><script>alert(1)</script>');
    expect(await (await stage.app.request(`${path}?token=${attack}&x=${attack}`)).text()).toBe(plain);
  });
});

test('opening a mailed link, as a mail scanner does, uses nothing up', async () => {
  const email = freshEmail();
  const json = { email, password: PASSWORD, full_name: 'Ada Lovelace', terms_accepted: true };
  await stage.ask('/auth/register', { json });
  const [mail] = await stage.mails(email);
  const { pathname, search } = new URL(mail?.link ?? '');
  for (const method of ['GET', 'HEAD', 'GET']) {
    expect((await stage.app.request(pathname + search, { method })).status).toBe(200);
  }
  expect((await stage.app.request(pathname + search, { method: 'POST' })).status).toBe(405);
  expect((await stage.ask('/auth/verify-email', { json: { token: mail?.token } })).status).toBe(200);
});

test('every link in a mail leads to a page', async () => {
  const { email } = await stage.user();
  const token = (await stage.signIn(email)).body.data.access_token;
  const next = freshEmail();
  await stage.ask('/auth/forgot-password', { json: { email } });
  await stage.ask('/auth/change-email', { json: { email: next, password: PASSWORD }, token });
  const links = [...(await stage.mails(email)), ...(await stage.mails(next))].flatMap(({ link }) => link ?? []);
  expect(links).toHaveLength(2);
  for (const link of links) {
    const { pathname } = new URL(link);
    expect(PAGES).toContain(pathname);
    const answer = await stage.app.request(pathname);
    expect(answer.headers.get('content-type')).toContain('text/html');
  }
});

test('the rules for passwords are shown', async () => {
  const page = await (await stage.app.request('/reset-password')).text();
  expect(page).toContain('8 to 128 characters');
  expect(page).toContain('autocomplete="new-password"');
  expect(page).not.toContain('maxlength="128"');
});
