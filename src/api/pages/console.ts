import { readFile } from 'node:fs/promises';
import type { MiddlewareHandler } from 'hono';
import { html } from 'hono/html';
import { type ApiEnv, type ApiRouter, createRouter } from '../router.ts';
import { serveAsset } from './assets.ts';
import { CONSOLE_STYLE } from './console/style.ts';

/** The browser's modules in `console/`: plain JavaScript, served as they are. The build copies them beside this file. */
export const CONSOLE_MODULES = [
  'api.js',
  'app.js',
  'audit.js',
  'dead-letters.js',
  'deliveries.js',
  'dom.js',
  'emails.js',
  'endpoints.js',
  'format.js',
  'kyc.js',
  'overview.js',
  'proof.js',
  'sign-in.js',
  'tenant.js',
  'timeline.js',
  'trail.js',
  'ui.js',
  'users.js',
] as const;

/** Every path of the console. */
export const CONSOLE_PATHS: readonly string[] = [
  '/console',
  '/console/style.css',
  ...CONSOLE_MODULES.map((name) => `/console/${name}`),
];

/**
 * Content Security Policy Level 3 and Trusted Types: nothing but our own style sheet and modules, calls of our own API
 * alone, and no place in which data could become markup or code.
 */
const POLICY = [
  "default-src 'none'",
  "style-src 'self'",
  "script-src 'self'",
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ');

function consoleHeaders(): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    c.header('Content-Security-Policy', POLICY);
    c.header('Referrer-Policy', 'no-referrer');
    c.header('X-Robots-Tag', 'noindex');
    await next();
  };
}

/**
 * `/console`: the page of those who run an installation, on top of the API. It holds no data itself: whatever it shows,
 * it asks the API for with the token of whoever signed in, so that anybody may have the page.
 */
export function consoleRoutes({ version }: { version: string }): ApiRouter {
  const router = createRouter();
  router.use('/console', consoleHeaders());
  router.use('/console/*', consoleHeaders());
  serveAsset(router, '/console', { contentType: 'text/html; charset=utf-8', load: () => consolePage(version) });
  serveAsset(router, '/console/style.css', { contentType: 'text/css; charset=utf-8', load: () => CONSOLE_STYLE });
  for (const name of CONSOLE_MODULES) {
    const file = new URL(`./console/${name}`, import.meta.url);
    const load = () => readFile(file, 'utf8');
    serveAsset(router, `/console/${name}`, { contentType: 'text/javascript; charset=utf-8', load });
  }
  return router;
}

/** The frame that the modules fill. Links are relative, so that it works behind any prefix. */
export function consolePage(version: string): string {
  return String(html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Waybill console</title>
<link rel="stylesheet" href="console/style.css">
<link rel="icon" href="data:,">
<script type="module" src="console/app.js"></script>
</head>
<body class="signed-out">
<a id="skip" class="skip" href="#main">Skip to the content</a>
<header class="top">
  <p class="brand"><a href="./">Waybill</a> <span class="small">console ${version}</span></p>
  <p id="answers" class="answers"></p>
  <div class="account"><p id="who" class="who"></p><button id="sign-out" class="quiet" type="button">Sign out</button></div>
</header>
<nav class="views" aria-label="Views"><ul id="views"></ul></nav>
<main id="main" tabindex="-1"><noscript><p>The console needs JavaScript. Whatever it does can be done with the API: see <a href="docs">its documentation</a>.</p></noscript></main>
<div id="notes" class="notes" role="status" aria-live="polite"></div>
</body>
</html>
`);
}
