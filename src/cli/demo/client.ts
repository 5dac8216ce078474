import { pause } from '../../services/service.ts';
import { check, StepFailed } from './narrator.ts';

const REQUEST_DEADLINE_MS = 15_000;

export interface Call {
  body?: unknown;
  /** An access token. */
  token?: string;
  headers?: Record<string, string>;
  /** The status that the story promises. */
  status: number;
}

/** A client of the public API that fails the step when an answer is not the promised one. */
export class Client {
  readonly #base: string;

  constructor(base: string) {
    this.#base = base;
  }

  /** Calls `/api/v1<path>` and gives the answer's `data`; of a promised refusal its `error`. */
  async call<T>(method: string, path: string, call: Call): Promise<T> {
    const promised = `${method} ${path} answers ${call.status}`;
    const request = {
      method,
      headers: {
        ...(call.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(call.token ? { authorization: `Bearer ${call.token}` } : {}),
        ...call.headers,
      },
      ...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
      signal: AbortSignal.timeout(REQUEST_DEADLINE_MS),
    };
    const response = await fetch(`${this.#base}/api/v1${path}`, request).catch((error: Error) => {
      throw new StepFailed(promised, `no answer: ${(error.cause as Error | undefined)?.message ?? error.message}`);
    });
    const text = await response.text();
    check(response.status === call.status, promised, `${response.status} ${text}`);
    const { data, error } = JSON.parse(text) as { data?: T; error?: T };
    return (data ?? error) as T;
  }

  /** A page outside `/api/v1`, which has no envelope. */
  async page<T>(path: string): Promise<T> {
    const response = await fetch(`${this.#base}${path}`, { signal: AbortSignal.timeout(REQUEST_DEADLINE_MS) });
    const text = await response.text();
    check(response.status === 200, `GET ${path} answers 200`, `${response.status} ${text}`);
    return JSON.parse(text) as T;
  }
}

/** Looks again and again until there is something; fails the step with what `look` saw last after `ms`. */
export async function until<T>(
  expected: string,
  look: () => Promise<{ found?: T | undefined; seen: unknown }>,
  ms = 15_000,
): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const { found, seen } = await look();
    if (found !== undefined) return found;
    check(performance.now() < end, `${expected} within ${ms / 1000} s`, seen);
    await pause(50);
  }
}
