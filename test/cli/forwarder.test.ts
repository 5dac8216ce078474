import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { request } from 'undici';
import { afterEach, expect, onTestFinished, test } from 'vitest';
import { type Forwarded, Forwarder } from '../../src/cli/forwarder.ts';
import { generateSecret, parseSecret, sign } from '../../src/webhooks/signature.ts';
import { type Answer, type Received, type Subscriber, startSubscriber } from '../webhooks/engine.ts';

const key = parseSecret(generateSecret());
const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

async function start(answer?: (request: Received, nth: number) => Answer, target?: URL) {
  const receiver: Subscriber = await startSubscriber(answer);
  const seen: Forwarded[] = [];
  const forwarder = new Forwarder({
    target: target ?? new URL(`${receiver.url}/hooks?a=1`),
    path: '/only-mine',
    port: 0,
    onForwarded: (one) => seen.push(one),
  });
  const port = await forwarder.start();
  forwarder.verifyWith(key);
  closing.push(
    () => receiver.close(),
    () => forwarder.close(),
  );
  return { receiver, seen, forwarder, base: `http://127.0.0.1:${port}` };
}

interface Change {
  path?: string;
  method?: 'POST' | 'GET';
  headers?: Record<string, string>;
  body?: string;
  at?: number;
  signedBody?: string;
}

async function post(base: string, change: Change = {}) {
  const body = change.body ?? '{"type":"kyc.approved","data":"naïve ☃"}';
  const timestamp = Math.floor((change.at ?? Date.now()) / 1000);
  const id = 'evt_1';
  const {
    statusCode,
    headers,
    body: answer,
  } = await request(`${base}${change.path ?? '/only-mine'}`, {
    method: change.method ?? 'POST',
    headers: {
      'content-type': 'application/json',
      'user-agent': 'Waybill/test',
      'X-Team': 'Billing',
      'webhook-id': id,
      'webhook-timestamp': String(timestamp),
      'webhook-signature': `v1,AAAA ${sign([key], { id, timestamp, body: change.signedBody ?? body })}`,
      ...change.headers,
    },
    ...(change.method === 'GET' ? {} : { body }),
  });
  return { status: statusCode, headers, text: await answer.text() };
}

test('a webhook goes on as it came, and its answer comes back', async () => {
  const { base, receiver, seen } = await start(() => ({ status: 429, headers: { 'retry-after': '7', 'x-own': 'no' } }));
  const answer = await post(base);
  expect([answer.status, answer.headers['retry-after'], answer.headers['x-own']]).toEqual([429, '7', undefined]);
  const [got] = receiver.received;
  expect(got).toMatchObject({ path: '/hooks?a=1', body: '{"type":"kyc.approved","data":"naïve ☃"}' });
  expect(got?.headers).toMatchObject({ 'user-agent': 'Waybill/test', 'x-team': 'Billing', 'webhook-id': 'evt_1' });
  expect(got?.headers.host).toBe(new URL(receiver.url).host);
  expect(Object.keys(got?.headers ?? {}).toSorted()).toEqual(
    [
      'connection',
      'content-length',
      'content-type',
      'host',
      'user-agent',
      'webhook-id',
      'webhook-signature',
      'webhook-timestamp',
      'x-team',
    ].toSorted(),
  );
  expect(seen).toMatchObject([{ id: 'evt_1', type: 'kyc.approved', status: 429 }]);
});

test.each<[string, Change, RegExp]>([
  ['a changed body', { signedBody: '{}' }, /signature does not hold/],
  ['another id', { headers: { 'webhook-id': 'evt_2' } }, /signature does not hold/],
  ['no signature', { headers: { 'webhook-signature': '' } }, /signature does not hold/],
  ['no id', { headers: { 'webhook-id': '' } }, /not signed/],
  ['a timestamp that is none', { headers: { 'webhook-timestamp': 'soon' } }, /not signed/],
  ['an old timestamp', { at: Date.now() - 400_000 }, /40\d s off/],
  ['a timestamp to come', { at: Date.now() + 400_000 }, /s off this machine/],
])('%s is named and not forwarded', async (_, change, why) => {
  const { base, receiver, seen } = await start();
  expect((await post(base, change)).status).toBe(401);
  expect(receiver.received).toEqual([]);
  expect(seen).toMatchObject([{ status: null, fault: expect.stringMatching(why) }]);
});

test('a terminal sees no control characters of a stranger', async () => {
  const { base, seen } = await start();
  await post(base, { body: '{"type":"\\u001b[2Jx"}' });
  expect(seen).toMatchObject([{ type: '?[2Jx', status: 204 }]);
});

test('what is not for it is not found, and what is too large not read', async () => {
  const { base, receiver, seen } = await start();
  expect((await post(base, { path: '/other' })).status).toBe(404);
  expect((await post(base, { method: 'GET' })).status).toBe(404);
  expect((await post(base, { body: 'x'.repeat(1024 * 1024 + 1) })).status).toBe(413);
  expect([receiver.received, seen]).toEqual([[], []]);
});

test('a receiver that is not there is a 502, and said', async () => {
  const gone = createServer();
  await new Promise<void>((resolve) => gone.listen(0, '127.0.0.1', resolve));
  const { port } = gone.address() as AddressInfo;
  await new Promise((resolve) => gone.close(resolve));
  const { base, seen } = await start(undefined, new URL(`http://127.0.0.1:${port}/`));
  expect((await post(base)).status).toBe(502);
  expect(seen).toMatchObject([{ status: null, fault: expect.stringMatching(/gave no answer: ECONNREFUSED/) }]);
});

test('closing lets what is on its way be answered', async () => {
  let arrived: () => void = () => undefined;
  const begun = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  const { base, forwarder } = await start(() => {
    arrived();
    return { status: 204, delayMs: 300 };
  });
  const answered = post(base);
  onTestFinished(() => answered.then(() => undefined));
  await begun;
  await forwarder.close();
  expect((await answered).status).toBe(204);
  closing.pop();
});
