import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { hostname } from 'node:os';
import { pause } from '../services/service.ts';
import { parseSecret } from '../webhooks/signature.ts';
import { CommandFailed } from './failure.ts';
import { type Forwarded, Forwarder } from './forwarder.ts';
import { say } from './say.ts';

/** What `waybill listen` takes on its command line. */
export interface ListenOptions {
  forward: string;
  /** Types and patterns; all when absent. */
  events?: string[];
  api: string;
  key?: string;
  tenant?: string;
  publicUrl?: string;
  port?: number;
  /** Print the secret that the endpoint signs with, for a server that verifies. */
  showSecret?: boolean;
}

const REQUEST_MS = 10_000;
/** How often it is looked whether the endpoint is still as it should be, in ms. */
const LOOK_MS = 5000;

/**
 * `waybill listen`: makes an endpoint for as long as it runs, prints every webhook that comes and hands it on. Resolves
 * when `stop` fires: by default at Ctrl-C, SIGTERM or SIGHUP; the endpoint is deleted then.
 */
export async function listen(options: ListenOptions, stop: AbortSignal = signalled()): Promise<void> {
  const target = urlOf(options.forward, '--forward');
  const client = new Client(urlOf(options.api, '--api'), credentialOf(options.key), options.tenant);
  const path = `/${randomBytes(16).toString('hex')}`;
  const forwarder = new Forwarder({ target, path, port: options.port ?? 0, onForwarded: (one) => say(line(one)) });
  const port = await forwarder.start();
  try {
    const base = options.publicUrl ? urlOf(options.publicUrl, '--public-url').href : `http://127.0.0.1:${port}`;
    const { id, secret } = await createEndpoint(client, `${base.replace(/\/+$/, '')}${path}`, options);
    try {
      forwarder.verifyWith(parseSecret(secret));
      say(`Listening for ${options.events?.join(', ') ?? 'every event'}, forwarding to ${target.href}`);
      say(`Endpoint ${id} takes them at ${base}; Ctrl-C deletes it`);
      if (options.showSecret) say(`Signed with ${secret}`);
      if (!stop.aborted) await Promise.race([once(stop, 'abort'), lookAfter(client, id, stop)]);
    } finally {
      await removeEndpoint(client, id);
    }
  } finally {
    await forwarder.close();
  }
}

async function createEndpoint(
  client: Client,
  url: string,
  { events, publicUrl }: ListenOptions,
): Promise<{ id: string; secret: string }> {
  const { status, body } = await client.call('POST', '/webhooks/endpoints', {
    url,
    description: DESCRIPTION,
    event_types: events ?? [],
  });
  const { id, secret } = body.data ?? {};
  if (status === 201 && typeof id === 'string' && typeof secret === 'string') return { id, secret };
  const { field, message = `status ${status}` } = body.error ?? {};
  if (field === 'url' && publicUrl === undefined)
    throw new CommandFailed(
      `the platform does not send to this machine's loopback (${message}).\nStart it with WEBHOOK_ALLOW_NETWORKS=127.0.0.0/8,::1/128, or, when it runs elsewhere, give --public-url and --port of a tunnel to here.`,
    );
  if (status === 403) throw new CommandFailed(`no endpoint can be made: ${message} (a key needs webhooks:write)`);
  throw new CommandFailed(`no endpoint can be made: ${message}`);
}

/**
 * Says so when the platform is away and back, and enables the endpoint again when it was disabled: a server under work
 * that answers 410 should not end the session. Throws when the endpoint is gone.
 */
async function lookAfter(client: Client, id: string, stop: AbortSignal): Promise<void> {
  const path = `/webhooks/endpoints/${id}`;
  let away = false;
  for (await pause(LOOK_MS, stop); !stop.aborted; await pause(LOOK_MS, stop)) {
    // A change of nothing: a key that may write and not read can do this too.
    const answer = await client.call('PATCH', path, { description: DESCRIPTION }).catch((error: Error) => {
      if (error instanceof Unreachable) return { status: 503, body: {} } satisfies Answer;
      throw error;
    });
    if (stop.aborted) return;
    if (answer.status === 404) throw new CommandFailed(`the endpoint ${id} was deleted by somebody else`);
    const wasAway: boolean = away;
    away = answer.status >= 500;
    if (away !== wasAway) say(away ? 'The platform does not answer; waiting for it' : 'The platform is back');
    const { status, disabled_reason } = (answer.body as Answer['body']).data ?? {};
    if (status !== 'disabled') continue;
    const enabled = await client.call('PATCH', path, { status: 'enabled' }).catch(() => undefined);
    if (enabled?.status === 200) say(`The endpoint was disabled (${disabled_reason}); it is enabled again`);
  }
}

const DESCRIPTION = `waybill listen on ${hostname()}`.slice(0, 500);

async function removeEndpoint(client: Client, id: string): Promise<void> {
  const gone = await client.call('DELETE', `/webhooks/endpoints/${id}`).then(
    ({ status }) => (status === 200 || status === 404 ? undefined : `status ${status}`),
    (error: Error) => error.message,
  );
  if (gone !== undefined) throw new CommandFailed(`the endpoint ${id} could not be deleted: ${gone}`);
  say(`Deleted endpoint ${id}`);
}

type Credential = { key: string } | { email: string; password: string };

/** `--key`, else WAYBILL_KEY, else the administrator of ADMIN_EMAIL and ADMIN_PASSWORD. */
function credentialOf(given: string | undefined): Credential {
  const { WAYBILL_KEY, ADMIN_EMAIL: email, ADMIN_PASSWORD: password } = process.env;
  const key = given || WAYBILL_KEY;
  if (key) return { key };
  if (email && password) return { email, password };
  throw new CommandFailed(
    'give an API key with --key or WAYBILL_KEY, or ADMIN_EMAIL and ADMIN_PASSWORD to sign in with',
  );
}

interface Answer {
  status: number;
  body: { data?: Record<string, unknown>; error?: { code?: string; message?: string; field?: string } };
}

class Unreachable extends CommandFailed {}

/** The platform's API. An access token that has expired is replaced by signing in again. */
class Client {
  readonly #base: URL;
  readonly #credential: Credential;
  readonly #query: string;
  #token: string | undefined;

  constructor(base: URL, credential: Credential, tenant: string | undefined) {
    this.#base = base;
    this.#credential = credential;
    this.#query = tenant === undefined ? '' : `?tenant=${encodeURIComponent(tenant)}`;
  }

  async call(method: string, path: string, body?: unknown): Promise<Answer> {
    this.#token ??= await this.#signIn();
    const answer = await this.#send(method, path + this.#query, this.#token, body);
    if (answer.status !== 401 || 'key' in this.#credential) {
      if (answer.status === 401) throw new CommandFailed(answer.body.error?.message ?? 'the API key is not valid');
      return answer;
    }
    this.#token = await this.#signIn();
    return this.#send(method, path + this.#query, this.#token, body);
  }

  async #signIn(): Promise<string> {
    if ('key' in this.#credential) return this.#credential.key;
    const { status, body } = await this.#send('POST', '/auth/login', undefined, this.#credential);
    const token = body.data?.access_token;
    if (typeof token === 'string') return token;
    throw new CommandFailed(
      `cannot sign in as ${this.#credential.email}: ${body.error?.message ?? `status ${status}`}; an API key (--key) needs no password`,
    );
  }

  async #send(method: string, path: string, token: string | undefined, body: unknown): Promise<Answer> {
    const url = new URL(`/api/v1${path}`, this.#base);
    try {
      const answer = await fetch(url, {
        method,
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        redirect: 'error',
        signal: AbortSignal.timeout(REQUEST_MS),
      });
      return { status: answer.status, body: (await answer.json()) as Answer['body'] };
    } catch (error) {
      const { cause } = error as Error & { cause?: { code?: string } };
      throw new Unreachable(
        `${this.#base.origin} does not answer as Waybill (${cause?.code ?? (error as Error).message}): is it running? Say where with --api`,
      );
    }
  }
}

function urlOf(text: string, option: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url && /^https?:$/.test(url.protocol) && !url.username && !url.password) return url;
  throw new CommandFailed(`${option} must be an http or https URL, as in http://localhost:4000/hooks`);
}

/** `12:34:56  payment.succeeded  019a…  204  12 ms`. */
function line({ at, type, id, status, durationMs, fault }: Forwarded): string {
  const result = status === null ? fault : `${status}  ${durationMs} ms`;
  return `${at.toTimeString().slice(0, 8)}  ${type}  ${id}  ${result}`;
}

/** Fires at the first signal; a second one ends the process at once. */
function signalled(): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(1);
      stop.abort();
    });
  return stop.signal;
}
