/** Webhook deliveries: what was sent, waits or failed, each with its attempts; and sending again. */
import { ask } from './api.js';
import { h, show } from './dom.js';
import { count, plural, span } from './format.js';
import { inTenant, tenantOf } from './tenant.js';
import {
  actionButton,
  badge,
  choices,
  code,
  facts,
  filterForm,
  heading,
  idOf,
  loading,
  notify,
  pages,
  question,
  shortId,
  table,
  when,
} from './ui.js';

const STATUSES = ['pending', 'delivered', 'failed', 'held'];
/** What a retry by filter understands. */
const RETRY_BY = ['endpoint_id', 'status', 'event_type', 'reason'];

/** `#/deliveries`, `#/deliveries/<id>`. */
export function deliveries(ctx) {
  const [id] = ctx.rest;
  return id === undefined ? list(ctx) : one(ctx, id);
}

function list(ctx) {
  const query = Object.fromEntries(ctx.query);
  const again = () => shown.reload();
  const form = filterForm(
    ctx,
    [
      { name: 'status', label: 'Status', type: 'select', options: choices(STATUSES) },
      { name: 'event_type', label: 'Event type', placeholder: 'user.created', maxlength: 128 },
      { name: 'endpoint_id', label: 'Endpoint id', maxlength: 36, spellcheck: 'false' },
      { name: 'event_id', label: 'Event id', maxlength: 128, spellcheck: 'false' },
      { name: 'reason', label: 'Reason, the whole of it', maxlength: 500 },
      { name: 'tenant', label: 'Tenant', placeholder: 'default', maxlength: 64 },
    ],
    actionButton('Retry what matches …', () => retryMatching(ctx, query, again), { class: 'quiet' }),
  );
  const load = (at) => ask('/webhooks/deliveries', { query: { limit: 20, ...query, ...at }, signal: ctx.signal });
  const shown = pages(ctx, load, (rows) =>
    table({
      caption: 'Deliveries',
      empty: 'No delivery is like that.',
      rows,
      columns: [
        ['Created', (row) => h('a', { href: inTenant(ctx, `deliveries/${row.id}`) }, when(row.created_at))],
        ['Event', (row) => row.event_type],
        ['Status', (row) => badge(row.status)],
        ['Reason', (row) => h('span.wrap', {}, row.reason ?? '–')],
        ['Attempts', (row) => count(row.attempt_count), 'n'],
        ['Next', (row) => when(row.next_attempt_at)],
        ['Endpoint', (row) => shortId(row.endpoint_id, inTenant(ctx, `webhooks/${row.endpoint_id}`))],
      ],
    }),
  );
  show(ctx.place, heading('Deliveries'), form, shown.node);
}

function one(ctx, id) {
  const place = h('section', { 'aria-label': 'Delivery' });
  const path = `/webhooks/deliveries/${encodeURIComponent(id)}`;
  const query = { tenant: tenantOf(ctx) };
  const again = () => loading(ctx, place, async () => drawn((await ask(path, { query, signal: ctx.signal })).data));
  const retry = async () => {
    await ask(`${path}/retry`, { method: 'POST', query });
    notify('On its way again.');
    await again();
  };
  function drawn(delivery) {
    return [
      heading(
        'Delivery',
        h('div.actions', {}, actionButton('Send again', retry), actionButton('Look again', again, { class: 'quiet' })),
      ),
      facts([
        [
          'Event',
          [
            delivery.event_type,
            ' ',
            idOf(delivery.event_id, inTenant(ctx, `trail/${encodeURIComponent(delivery.event_id)}`)),
          ],
        ],
        ['Status', badge(delivery.status)],
        ['Reason', delivery.reason],
        ['Created', when(delivery.created_at, { age: true })],
        ['Delivered', delivery.delivered_at && when(delivery.delivered_at, { age: true })],
        ['Next attempt', delivery.next_attempt_at && when(delivery.next_attempt_at, { age: true })],
        ['Endpoint', idOf(delivery.endpoint_id, inTenant(ctx, `webhooks/${delivery.endpoint_id}`))],
        ['Id', h('span.id', {}, delivery.id)],
      ]),
      h('h2', {}, plural(delivery.attempts.length, 'attempt')),
      h('ol.attempts', {}, delivery.attempts.toReversed().map(attempt)),
    ];
  }
  show(ctx.place, h('p.back', {}, h('a', { href: inTenant(ctx, 'deliveries') }, '← Deliveries')), place);
  again();
}

function attempt({ number, started_at, duration_ms, status_code, error, response_body, cause }) {
  const good = status_code >= 200 && status_code < 300;
  return h(
    'li',
    { class: good ? 'good' : 'bad' },
    h(
      'p.row',
      {},
      h('strong', {}, `Attempt ${number}`),
      badge(good ? 'delivered' : 'failed', status_code === null ? 'no answer' : `answered ${status_code}`),
      when(started_at, { exact: true }),
      h('span.soft', {}, `took ${span(duration_ms)}`),
      cause && cause !== 'schedule' && h('span.soft', {}, `by ${cause === 'manual' ? 'hand' : cause}`),
    ),
    error && h('p.bad', {}, error),
    response_body ? code(response_body, `Answer to attempt ${number}`) : h('p.small', {}, 'The answer had no body.'),
  );
}

/** Counts what a filter matches, asks, and sends it again. */
export async function retryMatching(ctx, query, again) {
  const filter = Object.fromEntries(RETRY_BY.filter((name) => query[name]).map((name) => [name, query[name]]));
  const unusable = query.event_id !== undefined;
  if (Object.keys(filter).length === 0 || unusable) {
    notify(
      `Filter by endpoint, status, event type or reason first${unusable ? ', and not by event id' : ''}; then what matches can be sent again.`,
    );
    return;
  }
  const send = async (dry_run) =>
    (
      await ask('/webhooks/deliveries/retry', {
        method: 'POST',
        query: { tenant: tenantOf(ctx) },
        body: { filter, dry_run },
      })
    ).data;
  const { matched } = await send(true);
  if (matched === 0) {
    notify('Nothing matches that can be sent: not those of a disabled endpoint, nor those on their way.');
    return;
  }
  const done = await question({
    title: `Send ${plural(matched, 'delivery', 'deliveries')} again?`,
    body: [
      h('p', {}, 'What matches, and can be sent, goes out one after the other, the oldest first:'),
      facts(Object.entries(filter)),
    ],
    action: 'Send again',
    submit: () => send(false),
  });
  if (!done) return;
  notify(`${plural(done.retried, 'delivery', 'deliveries')} of ${count(done.matched)} on their way.`);
  await again?.();
}
