/**
 * The hops of a trail under one another, each at its place in time: the gap since the hop before, and a strip that
 * shows when it began and how long it took. Short trails have an even scale; on long ones, where a retry may come a day
 * after the request, each tenfold of time takes the same room.
 */
import { isRole } from './api.js';
import { h, measure, s, show } from './dom.js';
import { clock, isUuid, line, moment, plural, span, toneOf, words } from './format.js';
import { badge, idOf } from './ui.js';

/** Trails longer than this are drawn on the other scale. */
const EVEN_MS = 10_000;

/** Drawn in a box of 24 × 24, in lines. */
const SIGNS = {
  request: 'M4 12h13M12 6l6 6-6 6',
  command:
    'M12 8.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M12 3v3M12 18v3M3 12h3M18 12h3M5.6 5.6l2.2 2.2M16.2 16.2l2.2 2.2M5.6 18.4l2.2-2.2M16.2 7.8l2.2-2.2',
  event:
    'M12 12h.01M8.5 15.5a5 5 0 0 1 0-7M15.5 8.5a5 5 0 0 1 0 7M5.5 18.5a9.2 9.2 0 0 1 0-13M18.5 5.5a9.2 9.2 0 0 1 0 13',
  email: 'M3 6h18v12H3zM3 7l9 6 9-6',
  webhook: 'M5 19L19 5M10 5h9v9',
  dead_letter: 'M5 5l14 14M19 5L5 19',
  audit: 'M12 3l7 3v5c0 5-3 8-7 10-4-2-7-5-7-10V6zM8.5 12l2.5 2.5 4.5-5',
};

/** Said of each hop beside its kind. */
const TITLES = {
  'request.accepted': 'Request accepted',
  'command.handled': 'Command handled',
  'event.published': 'Event published',
  'email.queued': 'E-mail queued',
  'email.sent': 'E-mail sent',
  'email.failed': 'E-mail failed',
  'webhook.attempted': 'Webhook attempted',
  'webhook.pending': 'Webhook pending',
  'webhook.held': 'Webhook held',
  'webhook.failed': 'Webhook failed',
  'dead_letter.recorded': 'Dead letter recorded',
  'audit.recorded': 'Audit row sealed',
};

/** Their `at` is the end of what took `duration_ms`; all others' is its beginning. */
const AT_END = new Set(['email.sent', 'email.failed']);

/** `[{at, kind, status, ref, detail, duration_ms?}]`, in order and not empty. */
export function timeline(hops) {
  const began = Date.parse(hops[0].at);
  const starts = hops.map(({ at }) => Math.max(0, Date.parse(at) - began));
  const total = Math.max(
    1,
    ...hops.map(({ kind, duration_ms = 0 }, i) => starts[i] + (AT_END.has(kind) ? 0 : duration_ms)),
  );
  const place = scale(total);
  return h(
    'div.trail',
    {},
    summary(hops, total),
    ruler(total, place),
    h(
      'ol.hops',
      { 'aria-label': 'Hops' },
      hops.map((hop, i) => item(hop, i, { starts, place })),
    ),
  );
}

/** ms after the beginning → 0 to 1. */
const scale = (total) => (total <= EVEN_MS ? (ms) => ms / total : (ms) => Math.log10(1 + ms) / Math.log10(1 + total));

/** How the hops of a group are counted in words; an e-mail has two. */
const COUNTED = {
  event: ['event', 'events'],
  email: ['e-mail hop', 'e-mail hops'],
  webhook: ['webhook hop', 'webhook hops'],
  dead_letter: ['dead letter', 'dead letters'],
  audit: ['audit row', 'audit rows'],
};

function summary(hops, total) {
  const groups = Map.groupBy(hops, groupOf);
  const failed = hops.filter(({ kind, status }) => toneOf(status) === 'bad' || kind.endsWith('.failed')).length;
  return h(
    'ul.sums',
    {},
    h('li', {}, h('strong', {}, plural(hops.length, 'hop'))),
    h('li', {}, h('strong', {}, span(total)), ' from first to last'),
    [...groups].map(
      ([group, { length }]) => COUNTED[group] && h('li', {}, sign(group), plural(length, ...COUNTED[group])),
    ),
    failed > 0 && h('li.bad', {}, h('strong', {}, failed), ' failed'),
    total > EVEN_MS && h('li.small', {}, 'each tenfold of time takes the same room'),
  );
}

const groupOf = ({ kind }) => kind.split('.')[0];

const sign = (group) =>
  s('svg.sign', { viewBox: '0 0 24 24', 'aria-hidden': 'true' }, s('path', { d: SIGNS[group] ?? SIGNS.event }));

/** Steps of 1, 2 and 5; on the other scale, tenfolds. */
function ticks(total) {
  if (total > EVEN_MS) {
    const marks = [10, 100, 1000, 10_000, 60_000, 600_000, 3_600_000, 36_000_000, 86_400_000, 864_000_000];
    return marks.filter((ms) => ms < total);
  }
  const rough = 10 ** Math.floor(Math.log10(total));
  const step = [rough / 5, rough / 2, rough, rough * 2].find((size) => total / size <= 5) ?? rough * 2;
  return Array.from({ length: Math.ceil(total / step) - 1 }, (_, i) => (i + 1) * step);
}

function ruler(total, place) {
  const marks = ticks(total).filter((ms) => place(ms) < 0.94);
  return h(
    'div.ruler',
    { 'aria-hidden': 'true' },
    [0, ...marks].map((ms) => measure(h('span', {}, ms === 0 ? '0' : span(ms)), { at: place(ms) })),
  );
}

function item(hop, i, { starts, place }) {
  const { at, kind, status, detail = {}, duration_ms } = hop;
  const start = starts[i];
  const gap = i === 0 ? undefined : start - starts[i - 1];
  const tone = kind.endsWith('.failed') || kind === 'dead_letter.recorded' ? 'bad' : toneOf(status);
  const from = AT_END.has(kind) ? Math.max(0, start - (duration_ms ?? 0)) : start;
  const to = AT_END.has(kind) ? start : start + (duration_ms ?? 0);
  const time = measure(h('div.time', {}), { from: place(from), size: place(to) - place(from) });
  show(
    time,
    h('span.strip', { 'aria-hidden': 'true' }, h('i', {})),
    h('span.took', {}, duration_ms === undefined ? '' : `took ${span(duration_ms)}`),
  );
  return h(
    'li.hop',
    { class: `${tone} of-${groupOf(hop)}` },
    h(
      'span.at',
      {},
      h('time', { datetime: at, title: `${at} (${moment(at)})` }, i === 0 ? clock(at, true) : `+${span(start)}`),
      gap > 0 && gap < start && h('span.gap', {}, `${span(gap)} later`),
    ),
    h('span.node', {}, sign(groupOf(hop))),
    h(
      'div.what',
      {},
      h('h3', {}, TITLES[kind] ?? kind, ' ', badge(status)),
      h('p.about', {}, about(detail)),
      h('p.small', {}, reference(hop), extras(detail)),
    ),
    time,
  );
}

/** The one thing that tells a hop from others of its kind. */
function about({ type, action, template, recipient, url, status_code, attempt, attempts, http_status }) {
  return [
    type ?? action ?? template,
    recipient && `to ${recipient}`,
    url && `to ${url}`,
    attempt !== undefined && `attempt ${attempt}`,
    attempts > 1 && `${attempts} attempts`,
    status_code && `answered ${status_code}`,
    http_status && `answered ${http_status}`,
  ]
    .filter(Boolean)
    .flatMap((part, i) => (i > 0 ? [', ', part] : [h('strong', {}, part)]));
}

const SAID = new Set(
  'type action template recipient url status_code attempt attempts http_status event_id endpoint_id'.split(' '),
);

function extras(detail) {
  return Object.entries(detail)
    .filter(([key, value]) => !SAID.has(key) && value !== null && value !== undefined && value !== '')
    .map(([key, value]) => [
      ' · ',
      `${words(key)} `,
      h(
        'span',
        { class: /error|reason/.test(key) ? 'bad' : '' },
        key === 'correlation_id' ? idOf(value, `#/trail/${encodeURIComponent(value)}`) : told(value),
      ),
    ]);
}

/** Ids as ids, `{type, id}` as both, lists one after the other. */
function told(value) {
  if (Array.isArray(value)) return value.flatMap((one, i) => (i > 0 ? [', ', told(one)] : [told(one)]));
  if (typeof value === 'string') return isUuid(value) ? idOf(value) : value;
  if (typeof value?.type === 'string') return value.id ? [`${value.type} `, told(value.id)] : value.type;
  return line(value);
}

/** Where the hop's own page is, for those who may open it. */
function reference({ kind, ref }) {
  const id = encodeURIComponent(ref);
  const group = kind.split('.')[0];
  if (group === 'event') return idOf(ref, `#/trail/${id}`);
  if (group === 'webhook' && isRole('admin')) return idOf(ref, `#/deliveries/${id}`);
  if (group === 'dead_letter' && isRole('admin', 'operator')) return idOf(ref, `#/dead-letters/${id}`);
  if (group === 'audit' && isRole('admin')) return idOf(ref, `#/audit/${id}`);
  return idOf(ref);
}
