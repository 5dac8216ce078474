import { requestBytes } from './connection.ts';

/** What a connection sends, over and over; `n` counts its requests, `worker` the connection. */
export type Requests = (worker: number, n: number) => Buffer;

export const EVENT_DATA = {
  payment_id: 'pay_0123456789abcdef',
  amount: 1999,
  currency: 'EUR',
  customer: 'cus_0123456789',
};
export const EVENT = { type: 'payment.succeeded', data: EVENT_DATA };

export interface Target {
  url: string;
  tokens: string[];
  /** Of `timed`: the tenants `bench-0`, `bench-1` … that take turns. */
  tenants?: number;
}

/** The kinds of load by name. */
export const LOADS: Record<string, (target: Target) => Requests> = {
  /** One event after the other; the id is the server's to make. */
  event: ({ url, tokens }) => {
    const bytes = requestBytes('POST', `${url}/api/v1/events`, tokens[0], EVENT);
    return () => bytes;
  },
  /** Events that say when they were sent, for the latency. */
  timed: ({ url, tokens, tenants = 1 }) => {
    let next = 0;
    return () =>
      requestBytes('POST', `${url}/api/v1/events?tenant=bench-${next++ % tenants}`, tokens[0], {
        type: EVENT.type,
        data: { ...EVENT_DATA, sent_at: performance.timeOrigin + performance.now() },
      });
  },
  /** Hand in an identity check and take it back, in turns, each connection for a user of its own. */
  kyc: ({ url, tokens }) => {
    const submission = {
      date_of_birth: '1990-04-12',
      country: 'PT',
      document: { type: 'passport', number: 'XK447199', expires_on: '2031-05-04' },
    };
    const each = tokens.map((token) => [
      requestBytes('PATCH', `${url}/api/v1/users/me/kyc`, token, submission),
      requestBytes('DELETE', `${url}/api/v1/users/me/kyc`, token),
    ]);
    return (worker, n) => each[worker % each.length]?.[n % 2] as Buffer;
  },
  register: ({ url }) => {
    const run = Math.random().toString(36).slice(2, 10);
    return (worker, n) =>
      requestBytes('POST', `${url}/api/v1/auth/register`, undefined, {
        email: `bench-${run}-${worker}-${n}@example.com`,
        password: 'correct horse battery staple',
        full_name: 'Ada Bench',
        terms_accepted: true,
      });
  },
};
