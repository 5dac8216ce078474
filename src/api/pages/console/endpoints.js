/** Webhook endpoints: how each does, and what is done with one by hand. */
import { ask } from './api.js';
import { retryMatching } from './deliveries.js';
import { h, show } from './dom.js';
import { count, line, span } from './format.js';
import { inTenant, tenantOf } from './tenant.js';
import {
  actionButton,
  badge,
  bars,
  choices,
  facts,
  factsOf,
  filterForm,
  heading,
  loading,
  notify,
  pages,
  question,
  table,
  when,
} from './ui.js';

/** Statistics that are asked for at once, so that a page of endpoints does not flood the API. */
const AT_ONCE = 3;
const DAYS = 7;

const pathOf = (id) => `/webhooks/endpoints/${encodeURIComponent(id)}`;

/** `#/webhooks`, `#/webhooks/<endpoint id>`. */
export function endpoints(ctx) {
  const [id] = ctx.rest;
  return id === undefined ? list(ctx) : one(ctx, id);
}

function list(ctx) {
  const form = filterForm(ctx, [
    { name: 'status', label: 'Status', type: 'select', options: choices(['enabled', 'disabled']) },
    { name: 'tenant', label: 'Tenant', placeholder: 'default', maxlength: 64 },
  ]);
  const query = Object.fromEntries(ctx.query);
  const load = (at) => ask('/webhooks/endpoints', { query: { limit: 20, ...query, ...at }, signal: ctx.signal });
  const { node } = pages(ctx, load, (rows) => {
    const places = rows.map(() => h('span.soft', {}, '…'));
    fillStats(ctx, rows, places);
    return table({
      caption: 'Endpoints',
      empty: 'No endpoint yet. One is made with POST /api/v1/webhooks/endpoints.',
      rows,
      columns: [
        [
          'Endpoint',
          (row) => [
            h('a.wrap', { href: inTenant(ctx, `webhooks/${row.id}`) }, row.url),
            row.description && h('p.small', {}, row.description),
          ],
        ],
        ['Status', (row) => [badge(row.status), row.disabled_reason && h('p.small', {}, row.disabled_reason)]],
        ['Events', (row) => h('span.wrap', {}, row.event_types.join(', ') || 'all')],
        [`Last ${DAYS} days`, (row) => places[rows.indexOf(row)]],
        ['Since', (row) => when(row.created_at)],
      ],
    });
  });
  show(ctx.place, heading('Webhooks'), form, node);
}

async function fillStats(ctx, rows, places) {
  let next = 0;
  const worker = async () => {
    while (next < rows.length && !ctx.signal.aborted) {
      const i = next++;
      try {
        const { total } = await statsOf(ctx, rows[i].id);
        show(places[i], rateOf(total));
      } catch (error) {
        show(places[i], ctx.signal.aborted ? '' : error.message);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

const statsOf = async (ctx, id) =>
  (await ask(`${pathOf(id)}/stats`, { query: { days: DAYS, tenant: tenantOf(ctx) }, signal: ctx.signal })).data;

const percent = (rate) => (rate === null ? '–' : `${(Math.floor(rate * 1000) / 10).toFixed(rate === 1 ? 0 : 1)} %`);

const rateOf = ({ attempts, success_rate, p95_ms }) =>
  attempts === 0
    ? 'no attempt'
    : [
        h('strong', { class: success_rate < 0.9 ? 'bad' : '' }, percent(success_rate)),
        ` of ${count(attempts)}`,
        h('p.small', {}, `95 % within ${span(p95_ms)}`),
      ];

function one(ctx, id) {
  const about = h('section', { 'aria-label': 'Endpoint' });
  const numbers = h('section', { 'aria-label': 'Statistics' });
  show(ctx.place, h('p.back', {}, h('a', { href: inTenant(ctx, 'webhooks') }, '← Webhooks')), about, numbers);
  const query = { tenant: tenantOf(ctx) };
  const again = () =>
    loading(ctx, about, async () => drawn(ctx, (await ask(pathOf(id), { query, signal: ctx.signal })).data, again));
  again();
  loading(ctx, numbers, async () => {
    const { days, total } = await statsOf(ctx, id);
    return [
      h('h2', {}, `Last ${DAYS} days`),
      h(
        'div.tiles',
        {},
        [
          ['Attempts', count(total.attempts)],
          ['Delivered', percent(total.success_rate)],
          ['Failed', count(total.failed)],
          ['Half within', total.p50_ms === null ? '–' : span(total.p50_ms)],
          ['95 % within', total.p95_ms === null ? '–' : span(total.p95_ms)],
        ].map(([label, value]) => h('div.tile', {}, h('span.figure', {}, value), h('span.small', {}, label))),
      ),
      bars(days),
    ];
  });
}

function drawn(ctx, endpoint, again) {
  const { id, status } = endpoint;
  const query = { tenant: tenantOf(ctx) };
  const enabled = status === 'enabled';
  const turn = async () => {
    const change = async () => {
      await ask(pathOf(id), { method: 'PATCH', query, body: { status: enabled ? 'disabled' : 'enabled' } });
      notify(enabled ? 'Disabled: its deliveries are held.' : 'Enabled: what was held goes out, the oldest first.');
      await again();
    };
    if (!enabled) return change();
    return question({
      title: 'Disable this endpoint?',
      body: h('p', {}, 'Events are kept as held deliveries until it is enabled again.'),
      action: 'Disable',
      danger: true,
      submit: change,
    });
  };
  return [
    heading(
      'Endpoint',
      h(
        'div.actions',
        {},
        actionButton('Send a test event', () => sendTest(ctx, id)),
        actionButton(enabled ? 'Disable' : 'Enable', turn, { class: enabled ? 'danger' : '' }),
        actionButton('Retry what failed', () => retryMatching(ctx, { endpoint_id: id, status: 'failed' }), {
          class: 'quiet',
        }),
        h('a', { href: inTenant(ctx, 'deliveries', { endpoint_id: id }) }, 'Deliveries'),
      ),
    ),
    facts([
      ['URL', h('span.wrap', {}, endpoint.url)],
      ['Description', endpoint.description],
      ['Status', [badge(status), endpoint.disabled_reason && ` ${endpoint.disabled_reason}`]],
      ['Event types', endpoint.event_types.join(', ') || 'all'],
      ['Channels', (endpoint.channels ?? []).join(', ') || 'all'],
      ['Signature', endpoint.hex_signature ? `${endpoint.signature}, and hex` : endpoint.signature],
      ['Order', endpoint.ordered ? 'by ordering key' : 'none'],
      ['Rate limit', endpoint.rate_limit === null ? 'none' : `${count(endpoint.rate_limit)} a second`],
      ['Timeout', span(endpoint.timeout_ms)],
      ['Headers', Object.keys(endpoint.headers).length > 0 && factsOf(endpoint.headers)],
      ['Metadata', Object.keys(endpoint.metadata).length > 0 && line(endpoint.metadata)],
      ['Created', when(endpoint.created_at)],
      ['Changed', when(endpoint.updated_at)],
      ['Id', h('span.id', {}, id)],
    ]),
  ];
}

async function sendTest(ctx, id) {
  const query = { tenant: tenantOf(ctx) };
  const { data: types } = await ask('/webhooks/event-types', { query: { ...query, limit: 100 }, signal: ctx.signal });
  const names = types.filter(({ example }) => example !== null).map(({ name }) => name);
  const sent = await question({
    title: 'Send a test event',
    body: h(
      'p',
      {},
      'The catalogue’s example of this type goes to this endpoint alone, signed and recorded like any other.',
    ),
    fields: [
      {
        name: 'event_type',
        label: 'Type',
        type: 'select',
        options: names.map((name) => [name, name]),
        value: 'payment.succeeded',
      },
    ],
    action: 'Send',
    submit: async ({ event_type }) =>
      (await ask(`${pathOf(id)}/test`, { method: 'POST', query, body: { event_type } })).data,
  });
  if (sent) notify(['Sent: ', h('a', { href: inTenant(ctx, `deliveries/${sent.delivery_id}`) }, 'its delivery')]);
}
