/**
 * The console: the sign-in, and a view for every address behind the `#`. States: signed out → signed in; a view lives
 * until its address changes, and `ctx.signal` ends what it has asked for.
 */
import { isRole, me, on, signOut } from './api.js';
import { audit } from './audit.js';
import { deadLetters } from './dead-letters.js';
import { deliveries } from './deliveries.js';
import { h, show } from './dom.js';
import { emails } from './emails.js';
import { endpoints } from './endpoints.js';
import { clock } from './format.js';
import { kyc } from './kyc.js';
import { overview } from './overview.js';
import { signInForm } from './sign-in.js';
import { trail } from './trail.js';
import { heading } from './ui.js';
import { users } from './users.js';

/** Who sees what; the API decides for itself (src/api/permissions.ts). */
const VIEWS = [
  { name: 'overview', title: 'Overview', roles: ['admin', 'operator', 'reviewer', 'user'], draw: overview },
  { name: 'trail', title: 'Trail', roles: ['admin', 'operator', 'reviewer', 'user'], draw: trail },
  { name: 'webhooks', title: 'Webhooks', roles: ['admin'], draw: endpoints },
  { name: 'deliveries', title: 'Deliveries', roles: ['admin'], draw: deliveries },
  { name: 'dead-letters', title: 'Dead letters', roles: ['admin', 'operator'], draw: deadLetters },
  { name: 'emails', title: 'E-mails', roles: ['admin', 'operator'], draw: emails },
  { name: 'users', title: 'Users', roles: ['admin'], draw: users },
  { name: 'kyc', title: 'KYC queue', roles: ['admin', 'reviewer'], draw: kyc },
  { name: 'audit', title: 'Audit', roles: ['admin'], draw: audit },
];

const $ = (id) => document.getElementById(id);
let leave = new AbortController();

/** `#/deliveries/0190…?status=failed` → its view's name, the rest of its path, and its query. */
function address() {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...rest] = path.split('/').map(decoded);
  return { name: name || 'overview', rest: rest.filter(Boolean), query: new URLSearchParams(query), path };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const hashOf = (path, query) => {
  const text = new URLSearchParams(query ?? {}).toString();
  return `#/${path}${text ? `?${text}` : ''}`;
};

function go(path, query) {
  const hash = hashOf(path, query);
  if (location.hash === hash) draw();
  else location.hash = hash;
}

function draw() {
  leave.abort();
  leave = new AbortController();
  for (const dialog of document.querySelectorAll('dialog')) dialog.remove();
  const user = me();
  document.body.classList.toggle('signed-out', !user);
  if (!user) {
    document.title = 'Waybill console';
    return show($('main'), signInForm({ done: arrive }));
  }
  const { name, rest, query, path } = address();
  const view = VIEWS.find((one) => one.name === name);
  document.title = `${view?.title ?? 'Nothing here'} · Waybill console`;
  drawNavigation(view);
  const place = h('div.view', {});
  show($('main'), place);
  if (!view) show(place, heading('Nothing here'), h('p', {}, 'There is no such view.'));
  else if (!isRole(...view.roles))
    show(place, heading(view.title), h('p.empty', {}, `The role ${user.role} may not see this.`));
  else view.draw({ place, rest, query, path, go, signal: leave.signal, me: user });
  return undefined;
}

function drawNavigation(current) {
  show(
    $('views'),
    VIEWS.filter(({ roles }) => isRole(...roles)).map((view) =>
      h(
        'li',
        {},
        h('a', { href: `#/${view.name}`, 'aria-current': view === current ? 'page' : undefined }, view.title),
      ),
    ),
  );
  $('views').querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
  const { email, role } = me();
  show($('who'), h('span.address', {}, email), h('span.soft', {}, role));
}

function arrive() {
  draw();
  focusView();
}

const focusView = () => $('main').querySelector('h1')?.focus({ preventScroll: true });

let answeredAt;
on('answer', (problem) => {
  const state = $('answers');
  if (problem === true) {
    answeredAt = new Date();
    state.className = 'answers good';
    show(state, `answered ${clock(answeredAt)}`);
  } else {
    state.className = 'answers bad';
    show(state, answeredAt ? `stale: no answer since ${clock(answeredAt)}` : 'the API does not answer');
  }
});

let why = '';
on('end', (reason) => {
  why = reason;
  draw();
  const message = $('main').querySelector('[data-why]');
  if (message) show(message, why);
});

$('sign-out').addEventListener('click', () => signOut());
$('skip').addEventListener('click', (event) => {
  event.preventDefault();
  $('main').focus();
});
addEventListener('hashchange', () => {
  // Whoever is typing a password keeps it; the address is looked at after the sign-in.
  if (!me()) return;
  draw();
  scrollTo(0, 0);
  focusView();
});
draw();
