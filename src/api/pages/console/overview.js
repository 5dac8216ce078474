/** How the installation is, at this moment: what it stands on, its pools and their workers. */
import { ask, isRole, root } from './api.js';
import { h, s, show } from './dom.js';
import { clock, count, moment, plural, span } from './format.js';
import { actionButton, badge, every, heading, notify, problemBox, question, table } from './ui.js';

const ROUND_MS = 3000;
/** Rounds that a curve shows. */
const REMEMBERED = 60;
const MAX_CONCURRENCY = 10_000;

/** Fills `ctx.place` and keeps it up to date until the view is left. */
export function overview(ctx) {
  const staff = isRole('admin', 'operator');
  const freshness = h('div.freshness', {}, 'Asking …');
  const services = h('section', { 'aria-label': 'Services' });
  const totals = h('section.tiles', { 'aria-label': 'In all' });
  const pools = h('section', { 'aria-label': 'Pools' });
  const workers = h('section', { 'aria-label': 'Workers' });
  const live = h('div.live', {}, services, totals, pools, workers);
  show(ctx.place, heading('Overview', freshness), live);
  if (!staff) show(pools, h('p.empty', {}, `The pools are for admins and operators; your role is ${ctx.me.role}.`));

  const backlogs = new Map();
  let answeredAt;
  let drawn;

  async function round() {
    try {
      const [health, states] = await Promise.all([
        root('health', ctx.signal),
        staff ? ask('/admin/pools', { signal: ctx.signal }) : undefined,
      ]);
      answeredAt = new Date();
      live.classList.remove('stale');
      freshness.className = 'freshness';
      const text = `as of ${clock(answeredAt)}`;
      show(freshness, text);
      show(services, healthOf(health.body));
      if (states) drawPools(states.data);
    } catch (error) {
      // Said once, not every time that it is asked in vain.
      if (ctx.signal.aborted || live.classList.contains('stale')) return;
      live.classList.add('stale');
      freshness.className = 'freshness stale';
      show(
        freshness,
        h('strong', {}, answeredAt ? `Stale: as of ${moment(answeredAt)}. ` : 'Nothing known yet. '),
        problemBox(error),
        h('p.small', {}, 'Asking again by itself.'),
      );
    }
  }

  function drawPools(states) {
    for (const { pool, backlog } of states)
      backlogs.set(pool, [...(backlogs.get(pool) ?? []), backlog].slice(-REMEMBERED));
    const sum = (of) => states.reduce((total, state) => total + of(state), 0);
    const processes = new Set(states.flatMap((state) => state.workers.map(({ host, pid }) => `${host} ${pid}`)));
    const dead = sum(({ dead_letters }) => dead_letters);
    show(totals, [
      tile('Waiting', count(sum(({ backlog }) => backlog))),
      tile('In flight', count(sum(({ in_flight }) => in_flight))),
      tile('Oldest waits', span(Math.max(0, ...states.map(({ oldest_age_ms }) => oldest_age_ms)))),
      tile('Dead letters', dead > 0 ? h('a', { href: '#/dead-letters' }, count(dead)) : '0', dead > 0 ? 'bad' : ''),
      tile('Worker processes', count(processes.size), processes.size === 0 ? 'bad' : ''),
    ]);
    // Whoever is about to press a button finds it where it was.
    const shape = JSON.stringify(states.map(({ pool, paused, concurrency }) => [pool, paused, concurrency]));
    if (shape === drawn?.shape) return drawn.update(states);
    drawn = { shape, ...poolTable(states, { backlogs, again: round, signal: ctx.signal }) };
    show(pools, h('h2', {}, 'Pools'), drawn.node);
    drawn.update(states);
    return undefined;
  }

  /** By process: each reports for every pool that it runs. */
  function workersOf(states) {
    const reports = states.flatMap((state) => state.workers.map((worker) => ({ ...worker, pool: state.pool })));
    const rows = [...Map.groupBy(reports, ({ host, pid }) => `${host}:${pid}`).values()];
    return table({
      caption: 'Workers',
      empty: 'No worker has reported.',
      rows,
      columns: [
        ['Host', ([first]) => first.host],
        ['Process', ([first]) => first.pid, 'n'],
        ['Version', ([first]) => first.version],
        ['Pools', (all) => all.map(({ pool }) => pool).join(', ')],
        ['In flight', (all) => count(all.reduce((sum, { in_flight }) => sum + in_flight, 0)), 'n'],
        ['Seen', (all) => clock(all.map(({ seen_at }) => seen_at).sort()[0])],
      ],
    });
  }

  function poolTable(states, tools) {
    const live = new Map(states.map(({ pool }) => [pool, {}]));
    const cell =
      (name, tag = 'span') =>
      (state) => {
        const node = h(tag, {});
        live.get(state.pool)[name] = node;
        return node;
      };
    const node = table({
      caption: 'Pools',
      rows: states,
      columns: [
        ['Pool', ({ pool }) => h('strong', {}, pool)],
        ['State', cell('state')],
        ['Backlog', cell('backlog', 'div'), 'n'],
        ['Oldest', cell('oldest'), 'n'],
        ['In flight', cell('flight'), 'n'],
        ['Dead letters', cell('dead'), 'n'],
        ['Workers', cell('workers'), 'n'],
        ['Concurrency', ({ concurrency }) => count(concurrency), 'n'],
        ['', (state) => poolActions(state, tools), 'end'],
      ],
    });
    const update = (next) => {
      for (const state of next) {
        const at = live.get(state.pool);
        show(
          at.state,
          state.paused
            ? badge('paused')
            : state.workers.length > 0
              ? badge('active', 'at work')
              : badge('down', 'no worker'),
        );
        show(at.backlog, curve(tools.backlogs.get(state.pool)), h('span', {}, count(state.backlog)));
        show(at.oldest, state.backlog > 0 ? span(state.oldest_age_ms) : '–');
        show(at.flight, count(state.in_flight));
        show(at.dead, state.dead_letters > 0 ? h('a.bad', { href: '#/dead-letters' }, count(state.dead_letters)) : '0');
        show(at.workers, count(state.workers.length));
      }
      show(workers, h('h2', {}, 'Workers'), workersOf(next));
    };
    return { node, update };
  }

  every(ctx, ROUND_MS, round);
}

const tile = (label, value, tone = '') =>
  h('div.tile', { class: tone }, h('span.figure', {}, value), h('span.small', {}, label));

function healthOf({ status, checks, uptime_s }) {
  return h(
    'div.health',
    {},
    h(
      'p',
      {},
      badge(status, status === 'ok' ? 'ready' : status),
      h('span.soft', {}, ` up for ${span(uptime_s * 1000)}`),
    ),
    h(
      'ul.checks',
      {},
      Object.entries(checks).map(([name, state]) => h('li', {}, badge(state, name), h('span.hidden', {}, ` ${state}`))),
    ),
  );
}

/** The last backlogs as a line that ends now; none while nothing waited. */
function curve(values = []) {
  const most = Math.max(...values);
  if (!(most > 0)) return undefined;
  const from = REMEMBERED - values.length;
  const at = (value, i) => `${((from + i) * 60) / (REMEMBERED - 1)},${15 - (value / most) * 13}`;
  return s(
    'svg.curve',
    { viewBox: '0 0 60 16', 'aria-hidden': 'true' },
    s('polyline', { points: values.map(at).join(' ') }),
  );
}

function poolActions({ pool, paused, concurrency }, { again }) {
  if (pool === 'housekeeping') return h('span.soft', {}, 'always runs');
  const change = async (body) => {
    const { data } = await ask(`/admin/pools/${encodeURIComponent(pool)}`, { method: 'PATCH', body });
    await again();
    return data;
  };
  const pause = async () => {
    if (paused) return change({ paused: false });
    return question({
      title: `Pause ${pool}?`,
      body: h('p', {}, 'What is in flight is finished; nothing new is taken until you let it go on. Nothing is lost.'),
      action: 'Pause',
      submit: () => change({ paused: true }),
    });
  };
  const resize = () =>
    question({
      title: `Concurrency of ${pool}`,
      body: h('p', {}, 'Work in flight per process. Empty goes back to what each worker was started with.'),
      fields: [
        { name: 'concurrency', label: 'Concurrency', type: 'number', min: 1, max: MAX_CONCURRENCY, value: concurrency },
      ],
      action: 'Set',
      submit: async ({ concurrency: given }) => {
        const data = await change({ concurrency: given === undefined ? null : Number(given) });
        notify(`${pool} works on ${plural(data.concurrency, 'piece')} at a time and process.`);
      },
    });
  return h(
    'div.actions',
    {},
    actionButton(paused ? 'Resume' : 'Pause', pause, {
      class: paused ? '' : 'quiet',
      'aria-label': `${paused ? 'Resume' : 'Pause'} ${pool}`,
      'data-key': `pause ${pool}`,
    }),
    actionButton('Resize', resize, { class: 'quiet', 'aria-label': `Resize ${pool}`, 'data-key': `resize ${pool}` }),
  );
}
