import type { MiddlewareHandler } from 'hono';
import { html } from 'hono/html';
import { type ApiEnv, type ApiRouter, createRouter } from '../router.ts';
import { serveAsset } from './assets.ts';
import { VERIFY_SCRIPT } from './verify-script.ts';
import { VERIFY_STYLE } from './verify-style.ts';

/** Content Security Policy Level 3: nothing but our own style sheet and script, and calls of our own API. */
const POLICY =
  "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** The page's address holds the token: it is handed to nobody, and no search engine keeps it. */
export function linkPageHeaders(): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    c.header('Content-Security-Policy', POLICY);
    c.header('Referrer-Policy', 'no-referrer');
    c.header('X-Robots-Tag', 'noindex');
    await next();
  };
}

/** What differs between the pages of mailed links. */
export interface LinkPage {
  title: string;
  lead: string;
  /** The API's route, relative to the page. */
  action: string;
  button: string;
  done: string;
  /** Said when the token was used, has expired, or was never there. */
  spent: string;
  /** Between the lead and the button. */
  fields?: ReturnType<typeof html>;
  /** Where another link can be asked for. */
  again?: { action: string; button: string };
}

/** One page: what the link is for and a button that uses it. Links are relative, so that it works behind any prefix. */
export function linkPage(page: LinkPage): string {
  const { title, lead, action, button, done, spent, fields, again } = page;
  return String(html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${title} · Waybill</title>
<link rel="stylesheet" href="verify.css">
<link rel="icon" href="data:,">
<script src="verify.js" defer></script>
</head>
<body>
<main>
<p class="brand">Waybill</p>
<h1>${title}</h1>
<p id="message" class="message" role="status" tabindex="-1"></p>
<form id="use" data-action="${action}" data-done="${done}" data-spent="${spent}" hidden>
<p>${lead}</p>
${fields ?? ''}
<button type="submit">${button}</button>
</form>
${
  again
    ? html`<form id="again" data-action="${again.action}" hidden>
<label>E-mail <input name="email" type="email" autocomplete="email" required maxlength="255"></label>
<button type="submit">${again.button}</button>
</form>`
    : ''
}
<noscript><p>This page needs JavaScript to use the link.</p></noscript>
</main>
</body>
</html>
`);
}

const VERIFY: LinkPage = {
  title: 'Confirm your e-mail address',
  lead: 'Press the button to confirm that the address this link was mailed to is yours.',
  action: 'api/v1/auth/verify-email',
  button: 'Confirm my address',
  done: 'Your address is confirmed. You can sign in now.',
  spent:
    'This link is not valid: it was used before, has expired, or is not complete. If you confirmed already, just sign in.',
  again: { action: 'api/v1/auth/resend-verification', button: 'Mail me a new link' },
};

const CONFIRM: LinkPage = {
  title: 'Confirm your new e-mail address',
  lead: 'Press the button to use the address this link was mailed to from now on. Your other devices are signed out.',
  action: 'api/v1/auth/confirm-email',
  button: 'Use this address',
  done: 'Your e-mail address was changed. Sign in with the new one from now on.',
  spent:
    'This link is not valid: it was used before, has expired, or is not complete. Ask for the change again in your account.',
};

/** `/verify-email` and `/confirm-email`, with the style sheet and the script that all pages of mailed links share. */
export function verifyPages(): ApiRouter {
  const router = createRouter();
  router.use('/verify-email', linkPageHeaders());
  router.use('/confirm-email', linkPageHeaders());
  serveAsset(router, '/verify-email', { contentType: 'text/html; charset=utf-8', load: () => linkPage(VERIFY) });
  serveAsset(router, '/confirm-email', { contentType: 'text/html; charset=utf-8', load: () => linkPage(CONFIRM) });
  serveAsset(router, '/verify.css', { contentType: 'text/css; charset=utf-8', load: () => VERIFY_STYLE });
  serveAsset(router, '/verify.js', { contentType: 'text/javascript; charset=utf-8', load: () => VERIFY_SCRIPT });
  return router;
}
