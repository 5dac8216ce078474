/**
 * The API, and who is signed in to it. States: signed out (`session` undefined) → signed in → refreshing (one renewal
 * at a time; whoever needs a token waits for it) → signed in or out. Tokens are in this module's memory and nowhere else:
 * a reload signs out.
 */
const BASE = new URL('../api/v1', import.meta.url).href;
const ROOT = new URL('..', import.meta.url).href;
const DEADLINE_MS = 20_000;
/** A token that ends within this is renewed before it is used. */
const RENEW_MS = 20_000;

let session;
let renewing;
const listeners = { answer: [], end: [] };

/** What the API, or the way to it, says against a request. */
export class Problem extends Error {
  constructor({ status = 0, code, message, field, details, retry_after, request_id }) {
    super(message);
    Object.assign(this, {
      name: 'Problem',
      status,
      code,
      field,
      details,
      retryAfter: retry_after,
      requestId: request_id,
    });
  }
}

/** `answer` hears of every request's end: `true`, or the `Problem` of an API that did not answer. `end` of the end of a sign-in. */
export const on = (event, listener) => listeners[event].push(listener);
const tell = (event, value) => {
  for (const listener of listeners[event]) listener(value);
};

export const me = () => session?.me;
export const isRole = (...roles) => session !== undefined && roles.includes(session.me.role);

/** `{a: 1, b: ''}` → `?a=1`. */
export function queryOf(values) {
  const query = new URLSearchParams(
    Object.entries(values ?? {}).flatMap(([key, value]) =>
      value === undefined || value === null || value === '' ? [] : [[key, String(value)]],
    ),
  ).toString();
  return query ? `?${query}` : '';
}

async function fetched(url, { method = 'GET', body, token, signal, deadlineMs = DEADLINE_MS } = {}) {
  const headers = { accept: 'application/json' };
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers['content-type'] = 'application/json';
  const deadline = AbortSignal.timeout(deadlineMs);
  try {
    const response = await fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      credentials: 'omit',
      cache: 'no-store',
      redirect: 'error',
    });
    const answer = await response.json().catch((error) => {
      if (signal?.aborted || deadline.aborted) throw error;
    });
    tell('answer', true);
    return { response, answer };
  } catch (error) {
    if (signal?.aborted) throw error;
    const message = deadline.aborted ? `no answer within ${deadlineMs / 1000} s` : 'the API does not answer';
    const problem = new Problem({ code: 'UNREACHABLE', message });
    tell('answer', problem);
    throw problem;
  }
}

function problemOf(response, answer) {
  const error = answer?.error ?? { code: `HTTP ${response.status}`, message: `the answer was ${response.status}` };
  const request_id = answer?.meta?.request_id ?? response.headers.get('x-request-id') ?? undefined;
  return new Problem({ ...error, status: response.status, request_id });
}

/**
 * `ask('/admin/pools', {method, body, query, signal, deadlineMs})` → `{data, pagination, message, status}`.
 * Throws `Problem`; whatever `signal` ends throws an `AbortError`.
 */
export async function ask(path, { query, ...options } = {}) {
  const url = BASE + path + queryOf(query);
  const used = await freshToken();
  let { response, answer } = await fetched(url, { ...options, token: used });
  if (response.status === 401 && session) {
    // Somebody else may have renewed it meanwhile.
    if (session.access === used) await renew();
    if (session) ({ response, answer } = await fetched(url, { ...options, token: session.access }));
    if (response.status === 401) endSession('Your sign-in has ended. Sign in again to go on.');
  }
  if (!response.ok || answer?.status !== 'success') throw problemOf(response, answer);
  return { data: answer.data, pagination: answer.pagination, message: answer.message, status: response.status };
}

/** Documents at the root, such as `health`, without an envelope: `{status, body}`. */
export async function root(path, signal) {
  const { response, answer } = await fetched(ROOT + path, { signal });
  if (answer === undefined) throw problemOf(response, answer);
  return { status: response.status, body: answer };
}

async function post(path, body) {
  const { response, answer } = await fetched(BASE + path, { method: 'POST', body });
  if (!response.ok) throw problemOf(response, answer);
  return answer.data;
}

const keep = (tokens, who) => {
  session = {
    access: tokens.access_token,
    refresh: tokens.refresh_token,
    endsAt: Date.now() + tokens.expires_in * 1000,
    me: who,
  };
};

/** Resolves to the user; a `Problem` with `details.mfa_required` asks for `code`. */
export async function signIn({ email, password, code }) {
  const tokens = await post('/auth/login', { email, password, ...(code ? { code } : {}) });
  const { response, answer } = await fetched(`${BASE}/users/me`, { token: tokens.access_token });
  if (!response.ok) throw problemOf(response, answer);
  keep(tokens, answer.data);
  return session.me;
}

/** Ends the session here at once, and at the API as soon as it hears of it. */
export async function signOut() {
  const token = session?.access;
  endSession('');
  if (token) await fetched(`${BASE}/auth/logout`, { method: 'POST', token }).catch(() => undefined);
}

function endSession(why) {
  if (!session) return;
  session = undefined;
  tell('end', why);
}

async function freshToken() {
  if (session && session.endsAt - Date.now() < RENEW_MS) await renew();
  return session?.access;
}

function renew() {
  renewing ??= renewed().finally(() => {
    renewing = undefined;
  });
  return renewing;
}

async function renewed() {
  const mine = session;
  if (!mine) return;
  try {
    const tokens = await post('/auth/refresh', { refresh_token: mine.refresh });
    if (session === mine) keep(tokens, mine.me);
  } catch (error) {
    // An API that is away says nothing about the session.
    if (error.status !== 400 && error.status !== 401) throw error;
    if (session === mine) endSession('Your sign-in has ended. Sign in again to go on.');
  }
}
