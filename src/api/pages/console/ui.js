/** The parts that views are made of. */
import { h, measure, nodes, show } from './dom.js';
import { clock, count, line, moment, readable, relative, toneOf, words } from './format.js';

export const badge = (status, text = words(status)) => h('span.badge', { class: toneOf(status) }, text);

/** A time in the reader's zone, with how long ago it was; the exact one on pointing. */
export const when = (iso, { age = false, exact = false } = {}) =>
  iso
    ? h(
        'time',
        { datetime: iso, title: iso },
        exact ? clock(iso, true) : moment(iso),
        age && h('span.soft', {}, ` · ${relative(iso)}`),
      )
    : h('span.soft', {}, '–');

/** An id, whole for those who copy it, short for those who read. */
export const idOf = (id, href) => {
  const text = h('span.id', { title: id }, id ?? '–');
  return href ? h('a', { href }, text) : text;
};

/** The same in a table: its beginning, which is its time, and its end; the whole of it on pointing. */
export const shortId = (id, href) => {
  const shown = id?.length > 20 ? `${id.slice(0, 8)}…${id.slice(-6)}` : id;
  const text = h('span.id', { title: id }, shown);
  return href ? h('a', { href, title: id }, text) : text;
};

export const facts = (pairs) =>
  h(
    'dl.facts',
    {},
    pairs
      .filter((pair) => pair && pair[1] !== undefined && pair[1] !== null && pair[1] !== false && pair[1] !== '')
      .map(([label, value]) => h('div', {}, h('dt', {}, label), h('dd', {}, value))),
  );

export const code = (value, label) =>
  h('pre.code', { tabindex: 0, role: 'region', 'aria-label': label }, readable(value));

/** What went wrong, with what support needs to find it: message, code, field and request id. */
export function problemBox(error, again) {
  const { message, code: name, field, status, requestId, retryAfter } = error;
  return h(
    'div.problem',
    { role: 'alert' },
    h('p', {}, status === 403 ? `Your role may not do this: ${message}.` : sentence(message, field)),
    h(
      'p.small',
      {},
      [
        name,
        field && `field ${field}`,
        retryAfter && `try again in ${retryAfter} s`,
        requestId && ['request ', h('span.id', {}, requestId)],
      ]
        .filter(Boolean)
        .flatMap((part, i) => (i > 0 ? [' · ', part] : [part])),
    ),
    again && h('button.quiet', { type: 'button', onclick: again }, 'Try again'),
  );
}

/** A message that begins with the name of a field keeps it as it is. */
const sentence = (text, named) => {
  const whole = String(text ?? 'something went wrong');
  const begun = named && whole.startsWith(named) ? whole : whole.charAt(0).toUpperCase() + whole.slice(1);
  return begun + (/[.!?]$/.test(whole) ? '' : '.');
};

/** Says something at the foot of the page, to screen readers too. Problems stay until they are closed. */
export function notify(content, { bad = false } = {}) {
  const close = () => note.remove();
  const note = h(
    'div.note',
    { class: bad ? 'bad' : 'good' },
    h('div', {}, content),
    h('button.quiet', { type: 'button', 'aria-label': 'Close this message', onclick: close }, '×'),
  );
  const place = document.getElementById('notes');
  while (place.children.length >= 4) place.firstChild.remove();
  place.append(note);
  if (!bad) setTimeout(close, 8000);
}

/** A button that does `work` once at a time; what it throws is shown. */
export function actionButton(label, work, attributes = {}) {
  const button = h('button', { type: 'button', ...attributes, onclick: act }, label);
  async function act() {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      if (error.name !== 'AbortError') notify(problemBox(error), { bad: true });
    } finally {
      button.disabled = false;
      refocus(button);
    }
  }
  return button;
}

/** A button that was disabled or drawn again has lost the focus: the keyboard goes on where it was. */
function refocus(button) {
  if (document.activeElement !== document.body) return;
  const { key } = button.dataset;
  const same = button.isConnected
    ? button
    : key && [...document.querySelectorAll('[data-key]')].find((other) => other.dataset.key === key);
  if (same) same.focus();
}

let fields = 0;

/** `{name, label, type: 'text'|'select'|'time'|'number'|'area', options?, value?, …}` as a labelled field. */
export function field({ name, label, type = 'text', options = [], value, hint, ...rest }) {
  fields += 1;
  const id = `field-${fields}`;
  const hinted = hint ? { 'aria-describedby': `${id}-hint` } : {};
  const common = { id, name, ...hinted, ...rest };
  const control =
    type === 'select'
      ? h(
          'select',
          common,
          options.map(([key, text]) => h('option', { value: key, selected: key === (value ?? '') }, text)),
        )
      : type === 'area'
        ? h('textarea', { rows: 3, ...common }, value)
        : h('input', { type: type === 'time' ? 'datetime-local' : type, value, autocomplete: 'off', ...common });
  if (type === 'time') control.setAttribute('step', '1');
  return h('div.field', {}, h('label', { for: id }, label), control, hint && h('p.small', { id: `${id}-hint` }, hint));
}

/** Names as the options of a field, with one for all of them. */
export const choices = (names, all = 'any') => [['', all], ...names.map((name) => [name, words(name)])];

/** What a form holds, without what is empty; local times as RFC 3339. */
export function valuesOf(form) {
  const found = {};
  for (const control of form.elements) {
    const value = control.name && String(control.value).trim();
    if (!value) continue;
    found[control.name] = control.type === 'datetime-local' ? new Date(value).toISOString() : value;
  }
  return found;
}

/** RFC 3339 → the value of a local time field. */
const localOf = (iso) => {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return '';
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
};

/** A form whose values become the query of the view's address. */
export function filterForm(ctx, described, extra) {
  const shown = described.map((one) => {
    const given = ctx.query.get(one.name) ?? '';
    return field({ ...one, value: one.type === 'time' && given ? localOf(given) : given });
  });
  const onsubmit = (event) => {
    event.preventDefault();
    ctx.go(ctx.path, valuesOf(event.currentTarget));
  };
  return h(
    'form.filters',
    { onsubmit, role: 'search' },
    shown,
    h(
      'div.actions',
      {},
      h('button', { type: 'submit' }, 'Show'),
      [...ctx.query].length > 0 && h('a', { href: `#/${ctx.path}` }, 'Clear'),
      extra,
    ),
  );
}

/**
 * A question in a dialog. Resolves to the values of its fields, or `undefined` when it is left. With `submit`, the
 * dialog stays open, with what was wrong, until `submit(values)` succeeds; then it resolves to what that gave.
 */
export function question({ title, body, fields: described = [], action, danger = false, submit }) {
  return new Promise((resolve) => {
    let result;
    const problem = h('div', {});
    const proceed = h('button', { type: 'submit', class: danger ? 'danger' : '' }, action);
    const onsubmit = async (event) => {
      event.preventDefault();
      const values = valuesOf(event.currentTarget);
      proceed.disabled = true;
      show(problem);
      try {
        result = submit ? await submit(values) : values;
        dialog.close();
      } catch (error) {
        show(problem, problemBox(error));
      } finally {
        proceed.disabled = false;
      }
    };
    const onclose = () => {
      dialog.remove();
      resolve(result);
    };
    const leave = () => dialog.close();
    const dialog = h(
      'dialog',
      { onclose, 'aria-labelledby': 'question' },
      h(
        'form',
        { onsubmit },
        h('h2', { id: 'question' }, title),
        body && h('div.body', {}, body),
        described.map(field),
        problem,
        h('div.actions', {}, proceed, h('button.quiet', { type: 'button', onclick: leave }, 'Cancel')),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * A table of `rows`; `columns` are `[heading, cell(row), class?]`. Narrow screens show each row as a card, for which
 * every cell carries its heading. `details(row)`, if given, is called when a row is opened.
 */
export function table({ caption, columns, rows, empty = 'There is nothing here.', details }) {
  if (rows.length === 0) return h('p.empty', {}, empty);
  const body = rows.flatMap((row) => {
    const cells = columns.map(([heading, cell, kind]) =>
      h('td', { role: 'cell', 'data-label': heading, class: kind ?? '' }, cell(row)),
    );
    const main = h('tr', { role: 'row' }, cells);
    return details ? [main, expandable(main, row, columns.length, details)] : [main];
  });
  return h(
    'div.scroll',
    {},
    h(
      'table',
      { role: 'table' },
      h('caption.hidden', {}, caption),
      h(
        'thead',
        { role: 'rowgroup' },
        h(
          'tr',
          { role: 'row' },
          columns.map(([heading, , kind]) =>
            h('th', { role: 'columnheader', scope: 'col', class: kind ?? '' }, heading),
          ),
          details && h('th', { role: 'columnheader', scope: 'col' }, h('span.hidden', {}, 'Details')),
        ),
      ),
      h('tbody', { role: 'rowgroup' }, body),
    ),
  );
}

function expandable(main, row, width, details) {
  const cell = h('td', { role: 'cell', colspan: width + 1 });
  const more = h('tr.more', { role: 'row', hidden: true }, cell);
  const toggle = h('button.quiet', { type: 'button', 'aria-expanded': 'false', onclick: turn }, 'Details');
  function turn() {
    more.hidden = !more.hidden;
    toggle.setAttribute('aria-expanded', String(!more.hidden));
    toggle.textContent = more.hidden ? 'Details' : 'Close';
    if (!more.hidden && !cell.hasChildNodes()) show(cell, details(row));
  }
  main.append(h('td.end', { role: 'cell' }, toggle));
  return more;
}

/** Shows what `load` gives in `place`; its problem with a way to try again; nothing when the view was left meanwhile. */
export async function loading(ctx, place, load) {
  place.setAttribute('aria-busy', 'true');
  if (!place.hasChildNodes()) show(place, h('p.empty', {}, 'Asking …'));
  try {
    const content = await load();
    if (!ctx.signal.aborted) show(place, content);
  } catch (error) {
    if (ctx.signal.aborted) return;
    show(
      place,
      problemBox(error, () => loading(ctx, place, load)),
    );
  } finally {
    place.setAttribute('aria-busy', 'false');
  }
}

/**
 * A list page by page. `load(position)` asks with `{cursor}` or `{page}` and gives `{data, pagination}`; `draw(rows)`
 * shows them. Both kinds of pagination are understood. Gives `{node, reload}`.
 */
export function pages(ctx, load, draw) {
  const place = h('div.list', {});
  const earlier = [];
  let here = {};
  const reload = () =>
    loading(ctx, place, async () => {
      const { data, pagination } = await load(here);
      return [draw(data), pager(pagination ?? {})];
    });
  /** A press while a page is on its way is one too many. The keyboard goes on at the same button, or at the other one. */
  const turn = (key, position) => async () => {
    if (place.getAttribute('aria-busy') === 'true') return;
    here = position();
    await reload();
    place.scrollIntoView({ block: 'nearest' });
    const buttons = [...place.querySelectorAll('.pager button:not(:disabled)')];
    (buttons.find((button) => button.dataset.key === key) ?? buttons[0])?.focus();
  };
  function pager({ page, total_pages, total_items, has_next, has_prev, has_more, next_cursor }) {
    const paged = page !== undefined;
    const back = paged ? has_prev : earlier.length > 0;
    const on = paged ? has_next : has_more;
    if (!back && !on && !paged) return undefined;
    const before = turn('back', () => (paged ? { page: page - 1 } : earlier.pop()));
    const after = turn('on', () => {
      if (paged) return { page: page + 1 };
      earlier.push(here);
      return { cursor: next_cursor };
    });
    return h(
      'nav.pager',
      { 'aria-label': 'Pages' },
      h('button.quiet', { type: 'button', 'data-key': 'back', disabled: !back, onclick: before }, '← Previous'),
      paged && h('span.soft', {}, `${count(total_items)} in all, page ${page} of ${Math.max(1, total_pages)}`),
      h('button.quiet', { type: 'button', 'data-key': 'on', disabled: !on, onclick: after }, 'Next →'),
    );
  }
  reload();
  return { node: place, reload };
}

/** Does `work` now and every `ms` after it ended, while the page is seen, until the view is left. */
export function every(ctx, ms, work) {
  const round = async () => {
    if (ctx.signal.aborted) return;
    if (!document.hidden) await work();
    if (!ctx.signal.aborted) setTimeout(round, ms);
  };
  return round();
}

/** Links from one view to those beside it. */
export const tabs = (label, items) =>
  h(
    'nav.tabs',
    { 'aria-label': label },
    items
      .filter(Boolean)
      .map(([href, text, current]) => h('a', { href, 'aria-current': current ? 'page' : undefined }, text)),
  );

/** `days` bars of what went well and what did not. */
export function bars(days) {
  const most = Math.max(1, ...days.map(({ attempts }) => attempts));
  return h(
    'ol.bars',
    {},
    days.map(({ date, attempts, delivered, failed }) =>
      h(
        'li',
        { title: `${date}: ${delivered} delivered, ${failed} failed` },
        measure(h('span.bar', {}), { all: attempts / most, 'bad-part': attempts > 0 ? failed / attempts : 0 }),
        h('span.small', {}, date.slice(5)),
        h('span.hidden', {}, `: ${delivered} delivered, ${failed} failed`),
      ),
    ),
  );
}

/** An object's fields as facts, nested ones as JSON. */
export const factsOf = (object) => facts(Object.entries(object ?? {}).map(([key, value]) => [words(key), line(value)]));

/** A heading with what can be done beside it. */
export const heading = (title, ...beside) => h('div.heading', {}, h('h1', { tabindex: -1 }, title), nodes(beside));
