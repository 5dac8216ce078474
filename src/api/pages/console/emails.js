/** What was mailed, is being and could not be. */
import { ask, isRole } from './api.js';
import { h, show } from './dom.js';
import { count } from './format.js';
import { actionButton, badge, choices, filterForm, heading, notify, pages, table, when } from './ui.js';

/** `#/emails`. */
export function emails(ctx) {
  const query = Object.fromEntries(ctx.query);
  const form = filterForm(ctx, [
    { name: 'status', label: 'Status', type: 'select', options: choices(['pending', 'sent', 'failed']) },
    { name: 'template', label: 'Template', placeholder: 'verify-email', maxlength: 64 },
    { name: 'user_id', label: 'User id', maxlength: 36, spellcheck: 'false' },
    { name: 'created_after', label: 'After', type: 'time' },
    { name: 'created_before', label: 'Before', type: 'time' },
  ]);
  const load = (at) => ask('/admin/emails', { query: { limit: 20, ...query, ...at }, signal: ctx.signal });
  const retry = (row) => async () => {
    await ask(`/admin/emails/${encodeURIComponent(row.id)}/retry`, { method: 'POST' });
    notify('It is tried again, from the first attempt.');
    await shown.reload();
  };
  const shown = pages(ctx, load, (rows) =>
    table({
      caption: 'E-mails',
      empty: 'No e-mail is like that.',
      rows,
      columns: [
        ['Queued', (row) => when(row.created_at)],
        ['Subject', (row) => [row.subject, h('p.small', {}, row.template)]],
        ['To', (row) => (row.to === null ? h('span.soft', {}, 'for admins') : h('span.wrap', {}, row.to))],
        ['Status', (row) => [badge(row.status), row.sent_at && h('p.small', {}, when(row.sent_at))]],
        ['Attempts', (row) => count(row.attempts), 'n'],
        ['Last error', (row) => h('span.wrap', {}, row.last_error ?? '–')],
        [
          'User',
          (row) =>
            row.user_id && isRole('admin')
              ? h('a', { href: `#/users/${encodeURIComponent(row.user_id)}` }, 'account')
              : '–',
        ],
        [
          '',
          (row) =>
            row.status === 'failed' && actionButton('Retry', retry(row), { 'aria-label': `Retry “${row.subject}”` }),
          'end',
        ],
      ],
    }),
  );
  show(ctx.place, heading('E-mails'), form, shown.node);
}
