/** Messages that could not be handled, and what becomes of each. */
import { ask, isRole } from './api.js';
import { h, show } from './dom.js';
import { count, plural } from './format.js';
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
  table,
  when,
} from './ui.js';

const FIELDS = ['queue', 'worker', 'type', 'reason', 'message_id', 'correlation_id', 'created_after', 'created_before'];

/** `#/dead-letters`, `#/dead-letters/<id>`. */
export function deadLetters(ctx) {
  const [id] = ctx.rest;
  return id === undefined ? list(ctx) : one(ctx, id);
}

function list(ctx) {
  const query = Object.fromEntries(ctx.query);
  const form = filterForm(
    ctx,
    [
      {
        name: 'status',
        label: 'State',
        type: 'select',
        options: choices(['replayed', 'discarded'], 'waiting for a decision'),
      },
      { name: 'queue', label: 'Queue', maxlength: 200 },
      { name: 'type', label: 'Message type', placeholder: 'user.register', maxlength: 200 },
      { name: 'reason', label: 'Reason, a part of it', maxlength: 500 },
      { name: 'created_after', label: 'After', type: 'time' },
    ],
    (query.status ?? 'dead') === 'dead' && [
      actionButton('Replay what matches …', () => many('replay', query, shown.reload), { class: 'quiet' }),
      actionButton('Discard what matches …', () => many('discard', query, shown.reload), { class: 'quiet' }),
    ],
  );
  const load = (at) => ask('/admin/dead-letters', { query: { limit: 20, ...query, ...at }, signal: ctx.signal });
  const shown = pages(ctx, load, (rows) =>
    table({
      caption: 'Dead letters',
      empty: 'No dead letter: everything was handled.',
      rows,
      columns: [
        ['Died', (row) => h('a', { href: `#/dead-letters/${encodeURIComponent(row.id)}` }, when(row.created_at))],
        ['Message', (row) => [row.message_type ?? 'unknown', h('p.small', {}, row.worker ?? row.queue)]],
        ['Reason', (row) => h('span.wrap', {}, row.reason)],
        ['Attempts', (row) => count(row.attempts), 'n'],
        ['State', (row) => badge(row.status, row.status === 'dead' ? 'waiting' : row.status)],
      ],
    }),
  );
  show(ctx.place, heading('Dead letters'), form, shown.node);
}

const WORDS = {
  replay: {
    title: 'Replay',
    said: 'replayed',
    text: 'Each is handed to its worker again, under the same id, with its attempts counted anew.',
  },
  discard: {
    title: 'Discard',
    said: 'discarded',
    text: 'They are not handled any more. They can be read until their retention is over.',
  },
};

/** Counts what a filter matches, asks, and does it. */
async function many(verb, query, again) {
  const filter = Object.fromEntries(FIELDS.filter((name) => query[name]).map((name) => [name, query[name]]));
  const send = async (dry_run, more = {}) =>
    (await ask(`/admin/dead-letters/${verb}`, { method: 'POST', body: { filter, dry_run, ...more } })).data;
  const { matched } = await send(true);
  if (matched === 0) {
    notify('Nothing matches.');
    return;
  }
  const { title, said, text } = WORDS[verb];
  const named = Object.entries(filter);
  const done = await question({
    title: `${title} ${plural(matched, 'dead letter')}?`,
    body: [
      h('p', {}, text),
      named.length > 0 ? facts(named) : h('p', {}, h('strong', {}, 'No filter is set: these are all that wait.')),
    ],
    fields: verb === 'discard' ? [{ name: 'reason', label: 'Why (kept in the audit log)', maxlength: 500 }] : [],
    action: title,
    danger: verb === 'discard',
    submit: (values) => send(false, values),
  });
  if (!done) return;
  notify(`${plural(done[said], 'dead letter')} of ${count(done.matched)} ${said}.`);
  await again();
}

function one(ctx, id) {
  const place = h('section', { 'aria-label': 'Dead letter' });
  const path = `/admin/dead-letters/${encodeURIComponent(id)}`;
  const again = () => loading(ctx, place, async () => drawn((await ask(path, { signal: ctx.signal })).data));
  const settle = (verb) => async () => {
    const { title, said } = WORDS[verb];
    const done = await question({
      title: `${title} this message?`,
      body: h(
        'p',
        {},
        verb === 'replay'
          ? 'It is handed to its worker again, with its attempts counted anew.'
          : 'It is not handled any more.',
      ),
      fields: verb === 'discard' ? [{ name: 'reason', label: 'Why (kept in the audit log)', maxlength: 500 }] : [],
      action: title,
      danger: verb === 'discard',
      submit: (values) => ask(`${path}/${verb}`, { method: 'POST', body: verb === 'discard' ? values : undefined }),
    });
    if (!done) return;
    notify(`The message was ${said}.`);
    await again();
  };
  function drawn(letter) {
    const open = letter.status === 'dead';
    return [
      heading(
        'Dead letter',
        open &&
          h(
            'div.actions',
            {},
            actionButton('Replay', settle('replay')),
            actionButton('Discard', settle('discard'), { class: 'danger' }),
          ),
      ),
      h('p.problem', {}, letter.reason),
      facts([
        ['State', badge(letter.status, open ? 'waiting' : letter.status)],
        ['Message', letter.message_type],
        ['Queue', letter.queue],
        ['Worker', letter.worker],
        ['Attempts', count(letter.attempts)],
        ['First error', letter.first_error],
        ['Last error', letter.last_error],
        ['Died', when(letter.created_at, { age: true })],
        ['Settled', letter.resolved_at && when(letter.resolved_at, { age: true })],
        [
          'Operation',
          letter.operation_id && idOf(letter.operation_id, `#/trail/${encodeURIComponent(letter.operation_id)}`),
        ],
        ['Message id', letter.message_id],
        ['Id', h('span.id', {}, letter.id)],
      ]),
      h('h2', {}, 'Message'),
      isRole('admin')
        ? code(letter.body, 'Body of the message')
        : h('p.empty', {}, 'What the message holds is for admins.'),
      h(
        'p.small',
        {},
        `${count(letter.body_bytes)} bytes${letter.body_truncated ? ', of which the first are shown' : ''}`,
      ),
      h('h2', {}, 'Headers'),
      code(letter.headers, 'Headers of the message'),
    ];
  }
  show(ctx.place, h('p.back', {}, h('a', { href: '#/dead-letters' }, '← Dead letters')), place);
  again();
}
