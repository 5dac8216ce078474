/** The waybill of a request or an event: every hop that it caused. */
import { ask, isRole, Problem } from './api.js';
import { h, show } from './dom.js';
import { isUuid, moment, words } from './format.js';
import { timeline } from './timeline.js';
import {
  badge,
  choices,
  code,
  every,
  facts,
  field,
  filterForm,
  heading,
  idOf,
  pages,
  problemBox,
  shortId,
  table,
  tabs,
  valuesOf,
  when,
} from './ui.js';

const ROUND_MS = 2000;
/** A trail on which nothing has happened for so long is looked at no more. */
const QUIET_MS = 60_000;

/** `#/trail`, `#/trail/events`, `#/trail/<operation or event id>`. */
export function trail(ctx) {
  const [id] = ctx.rest;
  if (id === undefined) return recent(ctx, 'operations');
  if (id === 'events') return recent(ctx, 'events');
  return one(ctx, id);
}

function finder(ctx, id = '') {
  const onsubmit = (event) => {
    event.preventDefault();
    const { id: wanted, tenant } = valuesOf(event.currentTarget);
    if (wanted) ctx.go(`trail/${encodeURIComponent(wanted)}`, tenant ? { tenant } : {});
  };
  return h(
    'form.finder',
    { onsubmit, role: 'search' },
    field({
      name: 'id',
      label: 'Operation or event id',
      value: id,
      required: true,
      maxlength: 128,
      spellcheck: 'false',
    }),
    isRole('admin') &&
      field({
        name: 'tenant',
        label: 'Tenant',
        value: ctx.query.get('tenant') ?? '',
        placeholder: 'default',
        maxlength: 64,
      }),
    h('button', { type: 'submit' }, 'Follow'),
  );
}

/** What was accepted last: something to begin with. */
function recent(ctx, kind) {
  const parts = [heading('Trail'), finder(ctx)];
  const [staff, admin] = [isRole('admin', 'operator'), isRole('admin')];
  if (!staff || (kind === 'events' && !admin)) {
    show(
      ctx.place,
      parts,
      h(
        'p.empty',
        {},
        `Lists are for ${kind === 'events' ? 'admins' : 'admins and operators'}; your own operations can be followed by their id.`,
      ),
    );
    return;
  }
  const list = kind === 'events' ? events(ctx) : operations(ctx);
  show(
    ctx.place,
    parts,
    tabs('Lists', [
      ['#/trail', 'Last requests', kind === 'operations'],
      admin && ['#/trail/events', 'Last events', kind === 'events'],
    ]),
    list,
  );
}

function operations(ctx) {
  const form = filterForm(ctx, [
    { name: 'type', label: 'Type', placeholder: 'user.register', maxlength: 128 },
    { name: 'status', label: 'Status', type: 'select', options: choices(['running', 'succeeded', 'failed']) },
  ]);
  const query = Object.fromEntries(ctx.query);
  const load = (at) => ask('/operations', { query: { ...query, limit: 20, ...at }, signal: ctx.signal });
  const list = pages(ctx, load, (rows) =>
    table({
      caption: 'Operations',
      empty: 'No request yet.',
      rows,
      columns: [
        ['Accepted', (row) => when(row.created_at)],
        ['Type', (row) => h('a', { href: `#/trail/${encodeURIComponent(row.operation_id)}` }, row.type)],
        ['Status', (row) => badge(row.status)],
        ['Operation', (row) => idOf(row.operation_id)],
        ['Caller', (row) => callerOf(row.caller)],
        ['Attempts', (row) => row.attempts, 'n'],
      ],
    }),
  );
  return [form, list.node];
}

function events(ctx) {
  const form = filterForm(ctx, [
    { name: 'type', label: 'Type', placeholder: 'user.created', maxlength: 128 },
    { name: 'tenant', label: 'Tenant', placeholder: 'default', maxlength: 64 },
  ]);
  const query = Object.fromEntries(ctx.query);
  const tenant = ctx.query.get('tenant');
  const load = (at) => ask('/events', { query: { ...query, limit: 20, ...at }, signal: ctx.signal });
  const list = pages(ctx, load, (rows) =>
    table({
      caption: 'Events',
      empty: 'No event yet.',
      rows,
      columns: [
        ['Published', (row) => when(row.created_at)],
        [
          'Type',
          (row) =>
            h(
              'a',
              { href: `#/trail/${encodeURIComponent(row.id)}${tenant ? `?tenant=${encodeURIComponent(tenant)}` : ''}` },
              row.type,
            ),
        ],
        ['Event', (row) => idOf(row.id)],
      ],
    }),
  );
  return [form, list.node];
}

/** `user:<id>`, `api_key:<id>` or `anonymous`. */
function callerOf(caller) {
  const [type, id] = caller.split(':');
  return [words(type), id && [' ', shortId(id)]];
}

/** An id may be of either; an operation's is a UUID. */
async function follow(ctx, id) {
  const options = { signal: ctx.signal };
  const tenant = ctx.query.get('tenant') ?? undefined;
  let missing;
  if (isUuid(id) && tenant === undefined) {
    try {
      return (await ask(`/operations/${encodeURIComponent(id)}/trail`, options)).data;
    } catch (error) {
      if (error.status !== 404) throw error;
      missing = error;
    }
  }
  if (missing && !isRole('admin', 'operator')) throw missing;
  try {
    return (await ask(`/events/${encodeURIComponent(id)}/trail`, { ...options, query: { tenant } })).data;
  } catch (error) {
    if (error.status !== 404) throw error;
    throw new Problem({
      status: 404,
      code: error.code,
      message: 'there is no operation and no event with this id',
      request_id: error.requestId,
    });
  }
}

function one(ctx, id) {
  const state = h('p.freshness', {}, 'Asking …');
  const waybill = h('article.waybill', {});
  show(ctx.place, heading('Trail', state), finder(ctx, id), waybill);
  let text;
  let changedAt = Date.now();
  every(ctx, ROUND_MS, async () => {
    if (Date.now() - changedAt > QUIET_MS) return;
    try {
      const found = await follow(ctx, id);
      const next = JSON.stringify(found);
      if (next !== text) {
        [text, changedAt] = [next, Date.now()];
        show(waybill, drawn(found, id));
      }
      waybill.classList.remove('stale');
      state.className = 'freshness';
      show(state, `as of ${moment(new Date())}, looking again every 2 s`);
    } catch (error) {
      if (ctx.signal.aborted) return;
      if (text === undefined) show(waybill, problemBox(error));
      waybill.classList.add('stale');
      state.className = 'freshness stale';
      show(state, text === undefined ? 'Not found yet; looking again.' : ['Stale: ', error.message, '.']);
    }
  });
}

function drawn({ operation, event, hops, truncated }, id) {
  const about = operation ?? event;
  const failed = operation?.error;
  return [
    h(
      'header.masthead',
      {},
      h(
        'div',
        {},
        h('p.small', {}, operation ? 'Operation' : 'Event'),
        h('h2', {}, about?.type ?? words('not taken up yet')),
        h('p.id', {}, id),
      ),
      h('div.stamp', {}, operation ? badge(operation.status) : event ? badge('published') : badge('waiting')),
    ),
    failed &&
      h(
        'div.problem',
        {},
        h('p', {}, failed.message),
        h('p.small', {}, [failed.code, failed.field && `field ${failed.field}`].filter(Boolean).join(' · ')),
      ),
    operation &&
      facts([
        ['Accepted', when(operation.created_at)],
        ['Started', operation.started_at && when(operation.started_at)],
        ['Finished', operation.finished_at && when(operation.finished_at)],
      ]),
    event &&
      facts([
        ['Published', when(event.created_at)],
        ['Deliveries', deliveriesOf(event.deliveries)],
      ]),
    truncated && h('p.problem', {}, 'There are more hops than these; the earliest are shown.'),
    hops.length > 0 ? timeline(hops) : h('p.empty', {}, 'No hop is on record yet.'),
    operation?.result !== undefined &&
      operation.result !== null &&
      h('details', {}, h('summary', {}, 'What the caller got'), code(operation.result, 'Result')),
    event?.data && h('details', {}, h('summary', {}, 'What the event carries'), code(event.data, 'Data')),
  ];
}

const deliveriesOf = (deliveries) => {
  const named = Object.entries(deliveries ?? {}).filter(([, n]) => n > 0);
  return named.length === 0 ? 'none' : named.map(([status, n]) => [badge(status, `${n} ${status}`), ' ']);
};
