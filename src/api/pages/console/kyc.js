/** The review queue of identity checks, and deciding on one. */
import { ask, isRole } from './api.js';
import { h, show } from './dom.js';
import { words } from './format.js';
import {
  actionButton,
  badge,
  choices,
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

const STATUSES = ['awaiting_input', 'processing', 'approved', 'rejected', 'expired', 'cancelled'];
/** Which decisions a state allows a reviewer (product contract, "KYC"; the API decides for itself). */
const DECISIONS = {
  processing: ['approved', 'rejected', 'awaiting_input', 'in_review'],
  in_review: ['approved', 'rejected', 'awaiting_input'],
  approved: ['rejected', 'in_review'],
  rejected: ['in_review'],
};
const LABELS = {
  approved: 'Approve',
  rejected: 'Reject',
  awaiting_input: 'Ask for other input',
  in_review: 'Take up again',
};

const CLAIMS = [
  ['', 'anybody or nobody'],
  ['none', 'nobody'],
  ['me', 'me'],
  ['any', 'anybody'],
];

/** A claim keeps colleagues from deciding on the same check until it ends by itself. */
const isHeld = ({ claimed_by, claimed_until }) => claimed_by !== null && Date.parse(claimed_until) > Date.now();

const holder = (check, me) =>
  isHeld(check)
    ? [check.claimed_by === me.user_id ? 'you' : shortId(check.claimed_by), ' until ', when(check.claimed_until)]
    : h('span.soft', {}, 'nobody');

/** `#/kyc`, `#/kyc/<user id>`. */
export function kyc(ctx) {
  const [id] = ctx.rest;
  return id === undefined ? list(ctx) : one(ctx, id);
}

function list(ctx) {
  const query = Object.fromEntries(ctx.query);
  const form = filterForm(ctx, [
    { name: 'status', label: 'State', type: 'select', options: choices(STATUSES, 'in review') },
    { name: 'claimed_by', label: 'Held by', type: 'select', options: CLAIMS },
  ]);
  const load = (at) => ask('/admin/kyc', { query: { limit: 20, ...query, ...at }, signal: ctx.signal });
  const { node } = pages(ctx, load, (rows) =>
    table({
      caption: 'Identity checks',
      empty: 'The queue is empty.',
      rows,
      columns: [
        [
          'Submitted',
          (row) =>
            h(
              'a',
              { href: `#/kyc/${encodeURIComponent(row.user_id)}` },
              when(row.submitted_at ?? row.created_at, { age: true }),
            ),
        ],
        ['State', (row) => badge(row.status)],
        ['Document', (row) => (row.document_type ? `${words(row.document_type)}, ${row.country ?? '?'}` : '–')],
        ['Provider', (row) => row.provider],
        [
          'User',
          (row) => idOf(row.user_id, isRole('admin') ? `#/users/${encodeURIComponent(row.user_id)}` : undefined),
        ],
      ],
    }),
  );
  show(ctx.place, heading('KYC queue'), form, node);
}

function one(ctx, id) {
  const place = h('section', { 'aria-label': 'Identity checks of a user' });
  const path = `/admin/users/${encodeURIComponent(id)}/kyc`;
  const again = () => loading(ctx, place, async () => drawn((await ask(path, { signal: ctx.signal })).data));
  const decide = (attempt, status) => async () => {
    const optional = attempt.status !== 'rejected' && (status === 'approved' || status === 'in_review');
    const answer = await question({
      title: `${LABELS[status]}?`,
      fields: [
        {
          name: 'reason',
          label: optional ? 'Reason, shown to the user (optional)' : 'Reason, shown to the user',
          type: 'area',
          maxlength: 500,
          required: !optional,
        },
        { name: 'comment', label: 'Comment, for colleagues only (optional)', type: 'area', maxlength: 2000 },
      ],
      action: LABELS[status],
      danger: status === 'rejected',
      submit: (values) => ask(path, { method: 'PUT', body: { status, attempt_id: attempt.id, ...values } }),
    });
    if (!answer) return;
    if (answer.status === 202) {
      const { operation_id } = answer.data;
      notify([
        'Accepted; not done yet. ',
        h('a', { href: `#/trail/${encodeURIComponent(operation_id)}` }, 'Follow it'),
      ]);
    } else notify(`Decided: ${words(answer.data.status)}.`);
    await again();
  };
  const claim = (attempt, method) => async () => {
    await ask(`/admin/kyc/${encodeURIComponent(attempt.id)}/claim`, { method });
    notify(method === 'POST' ? 'It is yours: nobody else’s decision is taken until the claim ends.' : 'Given back.');
    await again();
  };
  function drawn({ kyc_status, attempts }) {
    return [
      heading('Identity checks', badge(kyc_status)),
      facts([['User', idOf(id, isRole('admin') ? `#/users/${encodeURIComponent(id)}` : undefined)]]),
      attempts.length === 0
        ? h('p.empty', {}, 'There was never one.')
        : h(
            'ol.attempts',
            {},
            attempts.map((attempt) => drawnAttempt(ctx, attempt, { decide, claim })),
          ),
    ];
  }
  show(ctx.place, h('p.back', {}, h('a', { href: '#/kyc' }, '← KYC queue')), place);
  again();
}

function drawnAttempt(ctx, attempt, { decide, claim }) {
  const open = ['processing', 'in_review'].includes(attempt.status);
  const held = isHeld(attempt);
  return h(
    'li',
    {},
    h('p.row', {}, badge(attempt.status), h('span.id', {}, attempt.id)),
    facts([
      ['Document', attempt.document_type && words(attempt.document_type)],
      ['Country', attempt.country],
      ['Document expires', attempt.expires_on],
      ['Provider', attempt.provider],
      ['Submitted', attempt.submitted_at && when(attempt.submitted_at, { age: true })],
      ['Decided', attempt.decided_at && when(attempt.decided_at, { age: true })],
      ['Held by', open && holder(attempt, ctx.me)],
      ['Reason', attempt.reason],
      ['Comment', attempt.comment],
    ]),
    h(
      'div.actions',
      {},
      open && !held && actionButton('Claim', claim(attempt, 'POST'), { class: 'quiet' }),
      open && held && actionButton('Give back', claim(attempt, 'DELETE'), { class: 'quiet' }),
      (DECISIONS[attempt.status] ?? []).map((status) =>
        actionButton(LABELS[status], decide(attempt, status), {
          class: status === 'rejected' ? 'danger' : status === 'approved' ? '' : 'quiet',
        }),
      ),
    ),
    h(
      'details',
      {},
      h('summary', {}, 'Every move'),
      table({
        caption: 'Moves',
        rows: attempt.transitions,
        columns: [
          ['At', (row) => when(row.at)],
          ['Move', (row) => [row.from && [badge(row.from), ' → '], badge(row.to)]],
          ['By', (row) => h('span.wrap', {}, row.actor)],
          ['Reason', (row) => h('span.wrap', {}, row.reason ?? '–')],
          ['Comment', (row) => h('span.wrap', {}, row.comment ?? '–')],
        ],
      }),
    ),
  );
}
