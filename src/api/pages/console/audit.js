/** The sealed log of who did what: its rows, the proof of one, and whether the whole holds. */
import { ask } from './api.js';
import { h, show } from './dom.js';
import { count, line, plural } from './format.js';
import { checkProof } from './proof.js';
import {
  actionButton,
  badge,
  code,
  facts,
  factsOf,
  filterForm,
  heading,
  idOf,
  loading,
  pages,
  problemBox,
  shortId,
  table,
  when,
} from './ui.js';

/** The API gives a verification 30 s. */
const VERIFY_MS = 45_000;

/** `#/audit`, `#/audit/<row id>`. */
export function audit(ctx) {
  const [id] = ctx.rest;
  return id === undefined ? list(ctx) : prove(ctx, id);
}

function list(ctx) {
  const query = Object.fromEntries(ctx.query);
  const form = filterForm(ctx, [
    { name: 'action', label: 'Action', placeholder: 'user.registered', maxlength: 100 },
    { name: 'actor', label: 'Actor id', maxlength: 255, spellcheck: 'false' },
    { name: 'target', label: 'Target id', maxlength: 255, spellcheck: 'false' },
    { name: 'operation_id', label: 'Operation id', maxlength: 255, spellcheck: 'false' },
    { name: 'occurred_after', label: 'From', type: 'time' },
    { name: 'occurred_before', label: 'Before', type: 'time' },
  ]);
  const verdict = h('div', { role: 'status' });
  const load = (at) => ask('/admin/audit', { query: { limit: 20, ...query, ...at }, signal: ctx.signal });
  const { node } = pages(ctx, load, (rows) =>
    table({
      caption: 'Audit log',
      empty: 'No row is like that.',
      rows,
      details: rowDetails,
      columns: [
        ['Occurred', (row) => when(row.occurred_at)],
        ['Action', (row) => h('strong', {}, row.action)],
        ['Outcome', (row) => badge(row.outcome)],
        [
          'Actor',
          (row) => [
            row.actor.type,
            row.actor.id && [' ', shortId(row.actor.id, `#/audit?actor=${encodeURIComponent(row.actor.id)}`)],
          ],
        ],
        [
          'Target',
          (row) =>
            row.targets.map(({ type, id }) =>
              h('div', {}, `${type} `, shortId(id, `#/audit?target=${encodeURIComponent(id)}`)),
            ),
        ],
        ['Checkpoint', (row) => `${count(row.checkpoint)} / ${row.leaf_index}`, 'n'],
      ],
    }),
  );
  show(
    ctx.place,
    heading(
      'Audit',
      actionButton('Verify the whole log', () => verifyAll(ctx, verdict)),
    ),
    verdict,
    form,
    node,
  );
}

function rowDetails(row) {
  return h(
    'div.opened',
    {},
    facts([
      ['Row', h('span.id', {}, row.id)],
      ['Recorded', when(row.recorded_at, { exact: true })],
      ['From', line(row.context.ip)],
      ['User agent', line(row.context.user_agent)],
      ['Request', row.context.request_id && h('span.id', {}, row.context.request_id)],
      [
        'Operation',
        row.context.operation_id &&
          idOf(row.context.operation_id, `#/trail/${encodeURIComponent(row.context.operation_id)}`),
      ],
      ['Tenant', row.tenant],
    ]),
    Object.keys(row.metadata).length > 0 && [h('h3', {}, 'Metadata'), factsOf(row.metadata)],
    h('p', {}, h('a', { href: `#/audit/${encodeURIComponent(row.id)}` }, 'Prove this row')),
  );
}

async function verifyAll(ctx, verdict) {
  show(
    verdict,
    h('p.empty', {}, 'Reading the whole log: rows, leaves, roots, the chain of checkpoints and their signatures …'),
  );
  try {
    const { data, status } = await ask('/admin/audit/verify', { signal: ctx.signal, deadlineMs: VERIFY_MS });
    show(verdict, status === 202 ? followed(data) : result(data));
  } catch (error) {
    if (!ctx.signal.aborted) show(verdict, problemBox(error));
  }
}

const followed = ({ operation_id }) =>
  h(
    'p',
    {},
    'The log is long; its verification goes on by itself. ',
    h('a', { href: `#/trail/${encodeURIComponent(operation_id)}` }, 'Follow it'),
  );

function result({ intact, rows, checkpoints, first_broken: broken }) {
  const read = `${plural(rows, 'row')} in ${plural(checkpoints, 'checkpoint')}`;
  if (intact)
    return h(
      'p.verdict.good',
      {},
      h('strong', {}, 'The log is whole. '),
      `Nothing was changed, removed or put in: ${read} were read.`,
    );
  return h(
    'div.verdict.bad',
    {},
    h('p', {}, h('strong', {}, 'The log is broken. '), `${read} were read, up to the first that does not hold:`),
    facts([
      ['Why', broken?.why],
      ['Checkpoint', broken && count(broken.checkpoint)],
      ['Row', broken?.id && h('span.id', {}, broken.id)],
    ]),
  );
}

function prove(ctx, id) {
  const place = h('section', { 'aria-label': 'Proof' });
  show(ctx.place, h('p.back', {}, h('a', { href: '#/audit' }, '← Audit')), heading('Proof of a row'), place);
  loading(ctx, place, async () => {
    const { data: proof } = await ask(`/admin/audit/${encodeURIComponent(id)}/proof`, { signal: ctx.signal });
    const { checkpoint } = proof;
    const steps = await checkProof(proof);
    const holds = steps.every(({ holds }) => holds);
    return [
      h(
        'div.verdict',
        { class: holds ? 'good' : steps.some(({ holds }) => holds === false) ? 'bad' : '' },
        h(
          'p',
          {},
          h('strong', {}, holds ? 'This row is in the log. ' : 'Not everything could be confirmed. '),
          'Checked in this browser, without the log:',
        ),
        h(
          'ol.steps',
          {},
          steps.map(({ text, holds }) =>
            h(
              'li',
              {},
              badge(
                holds === undefined ? 'waiting' : holds ? 'success' : 'failed',
                holds === undefined ? 'not checked' : holds ? 'holds' : 'does not hold',
              ),
              ' ',
              text,
            ),
          ),
        ),
      ),
      facts([
        ['Row', h('span.id', {}, proof.event_id)],
        ['Leaf', h('span.id', {}, proof.leaf)],
        ['Place', `leaf ${proof.leaf_index} of ${checkpoint.size}`],
        ['Checkpoint', count(checkpoint.n)],
        ['Root', h('span.id', {}, checkpoint.root)],
        ['Hash', h('span.id', {}, checkpoint.hash)],
        ['Follows', h('span.id', {}, checkpoint.previous_hash)],
        ['Key', h('span.id', {}, checkpoint.kid)],
        ['Sealed', when(checkpoint.created_at)],
      ]),
      h('details', {}, h('summary', {}, 'The proof as it was given'), code(proof, 'Proof')),
    ];
  });
}
