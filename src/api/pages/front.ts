import { html } from 'hono/html';
import { refuse } from '../../domain/problem.ts';
import { type ApiRouter, createRouter } from '../router.ts';
import { serveAsset } from './assets.ts';
import { FRONT_SCRIPT } from './front-script.ts';
import { FRONT_STYLE } from './front-style.ts';

/** How a pool is, for whoever opens the front page. */
export interface PoolSummary {
  pool: string;
  /** Messages and jobs that wait. */
  backlog: number;
  in_flight: number;
  workers: number;
  paused: boolean;
}

export interface FrontDeps {
  version: string;
  publicUrl: string;
  /** Whether the built-in mail inbox is served. */
  inbox: boolean;
  poolSummary: () => Promise<PoolSummary[]>;
}

/** Everybody may ask for the pools, so the answer is kept this long. */
const SUMMARY_AGE_MS = 1000;

/** `/`, its stylesheet and script, and `/pools.json` (`{data: PoolSummary[]}`). */
export function frontRoutes(deps: FrontDeps): ApiRouter {
  const router = createRouter();
  const pools = kept(deps.poolSummary, SUMMARY_AGE_MS);
  serveAsset(router, '/', { contentType: 'text/html; charset=utf-8', load: () => frontPage(deps) });
  serveAsset(router, '/front.css', { contentType: 'text/css; charset=utf-8', load: () => FRONT_STYLE });
  serveAsset(router, '/front.js', { contentType: 'text/javascript; charset=utf-8', load: () => FRONT_SCRIPT });
  router.get('/pools.json', async (c) => {
    const data = await pools().catch((error: unknown) => {
      c.get('log').warn({ err: error }, 'the pools could not be asked');
      return refuse('SERVICE_UNAVAILABLE', 'the pools cannot be asked at the moment', { retry_after: 2 });
    });
    return c.json({ data }, 200, { 'Cache-Control': 'no-store' });
  });
  return router;
}

/** One call at a time; its answer serves everyone for `ageMs`, its failure nobody but those who waited for it. */
function kept<T>(ask: () => Promise<T>, ageMs: number): () => Promise<T> {
  let last: { at: number; answer: Promise<T> } | undefined;
  return () => {
    if (last && performance.now() - last.at < ageMs) return last.answer;
    const mine = { at: performance.now(), answer: ask() };
    mine.answer.catch(() => {
      if (last === mine) last = undefined;
    });
    last = mine;
    return mine.answer;
  };
}

/** The front page, laid out like the form it is named after. */
export function frontPage({ version, publicUrl, inbox }: Pick<FrontDeps, 'version' | 'publicUrl' | 'inbox'>): string {
  const links: [string, string, string][] = [
    ['/console', 'Console', 'pools, trails, webhooks and more, signed in'],
    ['/docs', 'API reference', 'read it and try it'],
    ['/openapi.json', 'openapi.json', 'OpenAPI 3.1, for your tools'],
    ...(inbox
      ? [['/dev/mail', 'Mail inbox', 'what Waybill sent while developing'] satisfies [string, string, string]]
      : []),
    ['/health', 'Health', 'the API and what is behind it'],
    ['/metrics', 'Metrics', 'Prometheus'],
  ];
  const account = `{"email":"ada@example.com","password":"correct horse battery","full_name":"Ada Lovelace","terms_accepted":true}`;
  const command = [
    `curl ${publicUrl}/api/v1/auth/register \\`,
    `  -H 'content-type: application/json' \\`,
    `  -d '${account}'`,
  ].join('\n');
  return String(html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Waybill</title>
<link rel="stylesheet" href="/front.css">
<link rel="icon" href="data:,">
<script src="/front.js" defer></script>
</head>
<body>
<a class="skip" href="#trail">Skip to the trail</a>
<main class="sheet">
  <header class="cell masthead">
    <h1>Waybill</h1>
    <p class="version">${version}</p>
    <div class="barcode" data-code="WAYBILL" aria-hidden="true"></div>
  </header>

  <section class="cell contents" aria-labelledby="contents">
    <h2 id="contents">Contents</h2>
    <p>Waybill does the work behind a product’s accounts, e-mail, identity checks, signed webhooks and audit log: a thin API takes a request, independent workers carry it out.</p>
    <p>Every accepted request has a waybill of its own, one page that shows each hop it caused, from the call to the last webhook and the sealed audit row.</p>
  </section>

  <nav class="cell addresses" aria-labelledby="addresses">
    <h2 id="addresses">Addresses</h2>
    <ul>
      ${links.map(([href, name, what]) => html`<li><a href="${href}">${name}</a> <span>${what}</span></li>`)}
    </ul>
  </nav>

  <section class="cell try" aria-labelledby="try">
    <h2 id="try">Send one</h2>
    <pre tabindex="0"><code>${command}</code></pre>
  </section>

  <section class="cell pools" aria-labelledby="pools">
    <div class="row"><h2 id="pools">Pools</h2><p id="pools-state" class="state">asking …</p></div>
    <table>
      <thead><tr><th scope="col">Pool</th><th scope="col">State</th><th scope="col" class="n">Waiting</th><th scope="col" class="n">In flight</th><th scope="col" class="n">Workers</th></tr></thead>
      <tbody id="pool-rows"></tbody>
    </table>
    <noscript><p>The state of the pools is in <a href="/pools.json">pools.json</a>; this table needs JavaScript.</p></noscript>
  </section>

  <section class="cell trail" id="trail" tabindex="-1" aria-labelledby="trail-title">
    <div class="row"><h2 id="trail-title">Last requests</h2><button id="sign-out" class="quiet" type="button" hidden>Sign out</button></div>
    <form id="sign-in" method="post" action="/api/v1/auth/login">
      <p class="hint">Administrators see the last ten requests and where each one went.</p>
      <div class="fields">
        <label>E-mail <input name="email" type="email" autocomplete="username" required maxlength="255"></label>
        <label>Password <input name="password" type="password" autocomplete="current-password" required maxlength="128"></label>
        <button type="submit">Sign in</button>
      </div>
    </form>
    <p id="trail-message" class="message" role="status"></p>
    <ol id="operations" class="operations" hidden></ol>
  </section>
</main>
</body>
</html>
`);
}
