/**
 * The front page's script, as the browser gets it. Everything shown goes in as text, never as markup. The token is
 * kept in sessionStorage: it is gone with the tab.
 */
export const FRONT_SCRIPT = String.raw`
'use strict';
(() => {
  const $ = (id) => document.getElementById(id);
  const POLL_MS = 2000;
  const TOKEN = 'waybill.token';

  function el(tag, className, ...children) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    for (const child of children) if (child !== undefined && child !== null) node.append(child);
    return node;
  }

  // Code 39 (ISO/IEC 16388): nine elements each, bar first; 1 is wide.
  const CODE39 = {
    0: '000110100', 1: '100100001', 2: '001100001', 3: '101100000', 4: '000110001', 5: '100110000', 6: '001110000', 7: '000100101', 8: '100100100', 9: '001100100',
    A: '100001001', B: '001001001', C: '101001000', D: '000011001', E: '100011000', F: '001011000', I: '001001100',
    L: '001000011', W: '110000001', Y: '110010000', '-': '010000101', '*': '010010100',
  };

  function barcode(text) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    let x = 0;
    for (const character of '*' + text.toUpperCase() + '*') {
      [...(CODE39[character] || CODE39['-'])].forEach((wide, i) => {
        const width = wide === '1' ? 3 : 1;
        if (i % 2 === 0) {
          const bar = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
          for (const [name, value] of [['x', x], ['y', 0], ['width', width], ['height', 10]]) bar.setAttribute(name, value);
          svg.append(bar);
        }
        x += width;
      });
      x += 1;
    }
    svg.setAttribute('viewBox', '0 0 ' + (x - 1) + ' 10');
    svg.setAttribute('preserveAspectRatio', 'none');
    return svg;
  }
  for (const place of document.querySelectorAll('.barcode[data-code]')) place.append(barcode(place.dataset.code));

  const time = (iso) => new Date(iso).toLocaleTimeString([], { hour12: false });
  const number = (n) => el('td', n === 0 ? 'n zero' : 'n', Number(n).toLocaleString());

  async function showPools() {
    try {
      const response = await fetch('/pools.json', { headers: { accept: 'application/json' } });
      if (!response.ok) throw new Error(String(response.status));
      const { data } = await response.json();
      $('pool-rows').replaceChildren(...data.map((pool) => {
        const [state, text] = pool.paused ? ['paused', 'paused'] : pool.workers === 0 ? ['none', 'no worker'] : ['ok', 'at work'];
        return el('tr', '', el('td', '', pool.pool), el('td', '', el('span', 'mark ' + state, text)), number(pool.backlog), number(pool.in_flight), number(pool.workers));
      }));
      $('pools-state').textContent = 'as of ' + time(new Date().toISOString());
      $('pools-state').classList.remove('bad');
    } catch {
      $('pools-state').textContent = 'the pools do not answer; asking again';
      $('pools-state').classList.add('bad');
    }
  }

  const say = (text, bad) => {
    $('trail-message').textContent = text || '';
    $('trail-message').classList.toggle('bad', Boolean(bad));
  };

  function signOut(why) {
    sessionStorage.removeItem(TOKEN);
    $('operations').replaceChildren();
    $('operations').hidden = true;
    $('sign-out').hidden = true;
    $('sign-in').hidden = false;
    say(why, Boolean(why));
  }

  // Resolves to the data; undefined when the answer ended the sign-in.
  async function ask(path) {
    const token = sessionStorage.getItem(TOKEN);
    const response = await fetch('/api/v1' + path, { headers: { authorization: 'Bearer ' + token } });
    const body = await response.json().catch(() => ({}));
    if (sessionStorage.getItem(TOKEN) !== token) return undefined;
    if (response.status === 401) return void signOut('Your sign-in has ended. Sign in again to go on.');
    if (response.status === 403) return void signOut('This account may not see the requests; sign in as an administrator.');
    if (!response.ok) throw new Error((body.error && body.error.message) || 'The answer was ' + response.status + '.');
    return body.data;
  }

  $('sign-in').addEventListener('submit', async (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const button = form.querySelector('button');
    button.disabled = true;
    say('');
    try {
      const response = await fetch('/api/v1/auth/login', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ email: form.elements.email.value, password: form.elements.password.value }),
      });
      const body = await response.json().catch(() => ({}));
      if (!response.ok) {
        say('Not signed in: ' + ((body.error && body.error.message) || 'the answer was ' + response.status) + '.', true);
        return;
      }
      sessionStorage.setItem(TOKEN, body.data.access_token);
      form.elements.password.value = '';
      await showOperations();
      if (sessionStorage.getItem(TOKEN)) $('trail').focus();
    } catch {
      say('Not signed in: the API does not answer.', true);
    } finally {
      button.disabled = false;
    }
  });
  $('sign-out').addEventListener('click', () => {
    const token = sessionStorage.getItem(TOKEN);
    if (token) fetch('/api/v1/auth/logout', { method: 'POST', headers: { authorization: 'Bearer ' + token } }).catch(() => undefined);
    signOut('');
    $('sign-in').elements.email.focus();
  });

  const rows = new Map();

  function row(operation) {
    const known = rows.get(operation.operation_id);
    const item = known || el('li', '');
    if (!known) {
      const details = el('details', '', el('summary', ''), el('div', 'note'));
      details.addEventListener('toggle', () => { if (details.open) showTrail(operation.operation_id, details); });
      item.append(details);
      rows.set(operation.operation_id, item);
    }
    const details = item.firstChild;
    if (details.dataset.status !== operation.status) {
      details.dataset.status = operation.status;
      details.firstChild.replaceChildren(
        el('span', 'type', operation.type),
        el('span', 'mark ' + (/^\w+$/.test(operation.status) ? operation.status : ''), operation.status),
        el('span', 'id', operation.operation_id),
        el('time', 'when', time(operation.created_at)),
      );
      if (details.open) showTrail(operation.operation_id, details);
    }
    return item;
  }

  async function showOperations() {
    if (!sessionStorage.getItem(TOKEN)) return;
    try {
      const operations = await ask('/operations?limit=10');
      if (!operations) return;
      $('sign-in').hidden = true;
      $('sign-out').hidden = false;
      $('operations').hidden = false;
      say(operations.length === 0 ? 'No request yet. Send the one above.' : '');
      const items = operations.map(row);
      const shown = [...$('operations').children];
      if (items.length !== shown.length || items.some((item, i) => item !== shown[i])) {
        const focused = document.activeElement;
        $('operations').replaceChildren(...items);
        if (focused && focused !== document.activeElement && $('operations').contains(focused)) focused.focus();
      }
      for (const [id, item] of rows) if (!items.includes(item)) rows.delete(id);
    } catch (error) {
      say('The last requests cannot be shown: ' + error.message, true);
    }
  }

  const words = (detail) => {
    if (detail === null || detail === undefined || typeof detail !== 'object') return detail === null || detail === undefined ? '' : String(detail);
    return Object.entries(detail).filter(([, value]) => value !== null && value !== undefined)
      .map(([key, value]) => key.replaceAll('_', ' ') + ': ' + (typeof value === 'object' ? JSON.stringify(value) : value)).join(', ');
  };
  const span = (ms) => ms < 1000 ? Math.round(ms) + ' ms' : ms < 60000 ? (ms / 1000).toFixed(1) + ' s' : ms < 3600000 ? Math.round(ms / 60000) + ' min' : (ms / 3600000).toFixed(1) + ' h';

  const shown = new WeakMap();

  async function showTrail(id, details) {
    const note = details.lastChild;
    try {
      const trail = await ask('/operations/' + encodeURIComponent(id) + '/trail');
      if (!trail) return;
      const text = JSON.stringify(trail);
      if (shown.get(note) === text) return;
      shown.set(note, text);
      const code = el('div', 'barcode', barcode(id));
      code.setAttribute('aria-hidden', 'true');
      const began = trail.hops.length > 0 ? Date.parse(trail.hops[0].at) : 0;
      const hops = trail.hops.map((hop, i) => {
        const failed = hop.status === 'failed' || hop.status === 'error' || /failed$/.test(hop.kind);
        const at = el('time', 'at', i === 0 ? time(hop.at) : '+' + span(Math.max(0, Date.parse(hop.at) - began)));
        at.dateTime = hop.at;
        const status = hop.status ? String(hop.status) : '';
        const detail = words(hop.detail);
        return el('li', failed ? 'failed-hop' : '', at, el('span', 'kind', hop.kind),
          el('span', 'what', [status, detail].filter(Boolean).join(', '), hop.ref ? el('code', '', String(hop.ref)) : undefined),
          el('span', 'took', typeof hop.duration_ms === 'number' ? span(hop.duration_ms) : ''));
      });
      const error = trail.operation && trail.operation.error;
      note.replaceChildren(code, el('p', 'number', id),
        ...(error ? [el('p', 'failure bad', error.code + ': ' + error.message)] : []),
        el('ol', 'hops', ...hops));
    } catch (error) {
      shown.delete(note);
      note.replaceChildren(el('p', 'number bad', 'The trail cannot be shown: ' + error.message));
    }
  }

  async function round() {
    if (!document.hidden) {
      await Promise.all([showPools(), showOperations()]);
      await Promise.all([...rows].filter(([, item]) => item.firstChild.open).map(([id, item]) => showTrail(id, item.firstChild)));
    }
    setTimeout(round, POLL_MS);
  }
  round();
})();
`;
