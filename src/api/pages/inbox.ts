import { html, raw } from 'hono/html';
import type { InboxMail } from '../../services/inbox.ts';
import { INBOX_SCRIPT } from './inbox.script.ts';
import { INBOX_STYLE } from './inbox.style.ts';

/** How a mail is shown. */
export type MailView = 'html' | 'text';

/** More than anyone scrolls through; all of them are in the JSON. */
const LISTED = 100;

/**
 * The page's Content-Security-Policy (CSP Level 3). The frame with the mail inherits it, so that a mail can load
 * nothing either; its sandbox takes scripts, forms and the page's origin from it besides.
 */
export const inboxPolicy = (nonce: string): string =>
  `default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-${nonce}'; img-src data:; connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;

const clock = (iso: string): string => `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC`;
const address = (mail: InboxMail, view: MailView): string =>
  `/dev/mail?id=${encodeURIComponent(mail.id)}${view === 'text' ? '&view=text' : ''}`;
const chosen = (yes: boolean) => (yes ? raw('aria-current="true"') : '');

const item = (mail: InboxMail, shown: InboxMail | undefined, view: MailView) => html`<li>
<a href="${address(mail, view)}" ${chosen(mail.id === shown?.id)}>
<strong>${mail.subject}</strong><span>${mail.to}</span><span><time datetime="${mail.sent_at}">${clock(mail.sent_at)}</time></span>
</a></li>`;

/** A link in a sandboxed frame would open inside it: every link opens a tab of its own instead. */
const frame = (mail: InboxMail) =>
  html`<iframe title="The mail as HTML" sandbox="allow-popups allow-popups-to-escape-sandbox" referrerpolicy="no-referrer" srcdoc="${mail.html.replace('<head>', '<head><base target="_blank">')}"></iframe>`;

const message = (mail: InboxMail, view: MailView) => html`<h2>${mail.subject}</h2>
<dl><dt>To</dt><dd>${mail.to}</dd><dt>From</dt><dd>${mail.from}</dd><dt>Sent</dt><dd>${clock(mail.sent_at)}</dd></dl>
<div class="views">
<a href="${address(mail, 'html')}" ${chosen(view === 'html')}>HTML</a>
<a href="${address(mail, 'text')}" ${chosen(view === 'text')}>Text</a>
</div>
${view === 'html' ? frame(mail) : html`<pre>${mail.text}</pre>`}`;

/** The built-in inbox as a page: the mails on the left, the chosen one (without a choice the newest) on the right. */
export function inboxPage(input: { mails: InboxMail[]; id: string | undefined; view: MailView; nonce: string }) {
  const { mails, id, view, nonce } = input;
  const shown = id === undefined ? mails[0] : mails.find((mail) => mail.id === id);
  const older = mails.length - LISTED;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Inbox · Waybill</title>
<link rel="icon" href="data:,">
<style>${raw(INBOX_STYLE)}</style>
</head>
<body data-shown="${shown?.id ?? ''}">
<header><h1>Inbox</h1><p id="count">${mails.length === 1 ? '1 mail' : `${mails.length} mails`}, caught here because no mail server is configured</p><a href="/dev/mail.json">JSON</a></header>
<nav id="list" aria-label="Mails">
<ol>${mails.slice(0, LISTED).map((mail) => item(mail, shown, view))}</ol>
${older > 0 ? html`<p>${older} older ${older === 1 ? 'mail is' : 'mails are'} in the JSON.</p>` : ''}
</nav>
<main>${shown ? message(shown, view) : html`<p class="empty">${mails.length > 0 ? 'This mail is not kept any more.' : 'No mail yet. What Waybill sends appears here by itself.'}</p>`}</main>
<script nonce="${nonce}">${raw(INBOX_SCRIPT)}</script>
</body>
</html>`;
}
