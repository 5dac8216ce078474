/** Accounts: search one, open it, and do what an administrator may. */
import { ask } from './api.js';
import { h, show } from './dom.js';
import { plural } from './format.js';
import {
  actionButton,
  badge,
  choices,
  facts,
  filterForm,
  heading,
  loading,
  notify,
  pages,
  question,
  table,
  when,
} from './ui.js';

/** `#/users`, `#/users/<id>`. */
export function users(ctx) {
  const [id] = ctx.rest;
  return id === undefined ? list(ctx) : one(ctx, id);
}

const flags = [
  ['', 'any'],
  ['true', 'yes'],
  ['false', 'no'],
];

function list(ctx) {
  const query = Object.fromEntries(ctx.query);
  const form = filterForm(ctx, [
    { name: 'search', label: 'Name or address', type: 'search', maxlength: 200 },
    { name: 'role', label: 'Role', type: 'select', options: choices(['user', 'admin', 'operator', 'reviewer']) },
    { name: 'is_active', label: 'Active', type: 'select', options: flags },
    { name: 'is_verified', label: 'Verified', type: 'select', options: flags },
    {
      name: 'kyc_status',
      label: 'Identity',
      type: 'select',
      options: choices(['unverified', 'pending', 'verified', 'rejected', 'expired']),
    },
  ]);
  const load = (at) => ask('/admin/users', { query: { limit: 20, ...query, ...at }, signal: ctx.signal });
  const { node } = pages(ctx, load, (rows) =>
    table({
      caption: 'Users',
      empty: 'Nobody is like that.',
      rows,
      columns: [
        ['Address', (row) => h('a.wrap', { href: `#/users/${encodeURIComponent(row.user_id)}` }, row.email)],
        ['Name', (row) => h('span.wrap', {}, row.full_name)],
        ['Role', (row) => row.role],
        ['Account', (row) => accountBadges(row)],
        ['Identity', (row) => badge(row.kyc_status)],
        ['Since', (row) => when(row.created_at)],
      ],
    }),
  );
  show(ctx.place, heading('Users'), form, node);
}

const accountBadges = ({ is_active, is_verified }) => [
  badge(is_active ? 'active' : 'disabled'),
  ' ',
  !is_verified && badge('unverified', 'not verified'),
];

function one(ctx, id) {
  const place = h('section', { 'aria-label': 'User' });
  const path = `/admin/users/${encodeURIComponent(id)}`;
  const again = () => loading(ctx, place, async () => drawn((await ask(path, { signal: ctx.signal })).data));
  /** Asks, does it, says so, and reads the account again. */
  const asked = (words, work) => async () => {
    const done = await question({ ...words, submit: work });
    if (!done) return;
    notify(typeof words.done === 'function' ? words.done(done.data) : words.done);
    await again();
  };
  const change = (body) => ask(path, { method: 'PUT', body });
  function drawn(user) {
    const disable = asked(
      {
        title: `Disable ${user.email}?`,
        body: h('p', {}, 'Every session ends now, and nobody can sign in.'),
        fields: [
          { name: 'disabled_reason', label: 'Why', maxlength: 500 },
          {
            name: 'disabled_until',
            label: 'Until',
            type: 'time',
            hint: 'The account comes back by itself then; empty: until somebody enables it.',
          },
        ],
        action: 'Disable',
        danger: true,
        done: 'The account is disabled.',
      },
      (values) => change({ is_active: false, ...values }),
    );
    const enable = async () => {
      await change({ is_active: true });
      notify('The account is enabled.');
      await again();
    };
    const unlock = async () => {
      await ask(`${path}/unlock`, { method: 'POST' });
      notify('The sign-in lock is lifted.');
    };
    const revoke = asked(
      {
        title: `End every session of ${user.email}?`,
        body: h('p', {}, 'Access tokens stop working at once.'),
        action: 'End them',
        danger: true,
        done: ({ revoked }) => `${plural(revoked, 'session')} ended.`,
      },
      () => ask(`${path}/sessions`, { method: 'DELETE' }),
    );
    const reset = asked(
      {
        title: `Make ${user.email} choose a new password?`,
        body: h('p', {}, 'The password stops working, every session ends, and a link to choose another one is mailed.'),
        action: 'Force a reset',
        danger: true,
        done: 'A link to choose a new password is on its way.',
      },
      () => ask(`${path}/force-reset`, { method: 'POST' }),
    );
    return [
      heading(
        user.full_name || user.email,
        h(
          'div.actions',
          {},
          actionButton(user.is_active ? 'Disable' : 'Enable', user.is_active ? disable : enable, {
            class: user.is_active ? 'danger' : '',
          }),
          actionButton('Unlock sign-in', unlock, { class: 'quiet' }),
          actionButton('End sessions', revoke, { class: 'quiet' }),
          actionButton('Force a reset', reset, { class: 'quiet' }),
        ),
      ),
      facts([
        ['Address', user.email],
        ['Name', user.full_name],
        ['Role', user.role],
        ['Account', accountBadges(user)],
        ['Disabled because', user.disabled_reason],
        ['Disabled until', user.disabled_until && when(user.disabled_until, { age: true })],
        ['Identity', h('a', { href: `#/kyc/${encodeURIComponent(user.user_id)}` }, badge(user.kyc_status))],
        ['Since', when(user.created_at)],
        ['Changed', when(user.updated_at)],
        ['Id', h('span.id', {}, user.user_id)],
      ]),
      h(
        'p.links',
        {},
        h('a', { href: `#/audit?target=${encodeURIComponent(user.user_id)}` }, 'What was done to it'),
        h('a', { href: `#/audit?actor=${encodeURIComponent(user.user_id)}` }, 'What it did'),
        h('a', { href: `#/emails?user_id=${encodeURIComponent(user.user_id)}` }, 'What it was mailed'),
      ),
    ];
  }
  show(ctx.place, h('p.back', {}, h('a', { href: '#/users' }, '← Users')), place);
  again();
}
