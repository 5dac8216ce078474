import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { listen } from '../../src/cli/listen.ts';
import { eventually } from '../harness.ts';
import { startSubscriber } from '../webhooks/engine.ts';
import { call, createInstallation, endAll, type Installation, request, waybill } from './waybill.ts';

// Each process costs a second of computing time, more where many tests run at once.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let installation: Installation;
let base: string;
let admin: Record<string, string>;
let platform: ReturnType<typeof waybill>;

beforeAll(async () => {
  installation = await createInstallation('migrated');
  const env = { ...installation.env, WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8' };
  platform = waybill(['start'], env, { cwd: installation.directory });
  base = (await platform.prints(/Front page +(http:\/\/localhost:\d+)\//))[1] ?? '';
  const signedIn = await request(base, 'POST', '/auth/login', { body: installation.admin });
  admin = { authorization: `Bearer ${signedIn.body.data?.access_token}` };
});
afterAll(async () => {
  platform.child.kill('SIGTERM');
  await platform.exit;
  await endAll();
  await installation.remove();
});

const running: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of running.splice(0)) await end();
});

interface Endpoint {
  id: string;
  url: string;
  event_types: string[];
  description: string;
}
const endpoints = async () =>
  (await request(base, 'GET', '/webhooks/endpoints', { headers: admin })).body.data as unknown as Endpoint[];
const publish = (type: string, data: object) =>
  request(base, 'POST', '/events', { headers: admin, body: { type, data } });

async function receiver(status = 202) {
  const one = await startSubscriber(() => ({ status }));
  running.push(() => one.close());
  return one;
}

test('webhooks are printed and forwarded until Ctrl-C, which deletes the endpoint', async () => {
  const target = await receiver();
  const args = ['listen', '--forward', `${target.url}/hooks`, '--events', 'payment.*', '--api', base];
  const { ADMIN_EMAIL, ADMIN_PASSWORD } = installation.env;
  const listener = waybill(args, { ADMIN_EMAIL, ADMIN_PASSWORD });
  await listener.prints(/Listening for payment\.\*, forwarding to http:\/\/127\.0\.0\.1:\d+\/hooks/);
  const [, id = ''] = await listener.prints(
    /Endpoint (\S+) takes them at http:\/\/127\.0\.0\.1:\d+; Ctrl-C deletes it/,
  );
  expect(await endpoints()).toMatchObject([
    { id, event_types: ['payment.*'], description: expect.stringMatching(/^waybill listen on /) },
  ]);

  await publish('subscription.expired', { subscription_id: 'sub_1' });
  const data = { payment_id: 'naïve ☃', amount: 1, currency: 'EUR' };
  const { body } = await publish('payment.succeeded', data);
  const eventId = String(body.data?.event_id);
  await listener.prints(
    new RegExp(`^\\d\\d:\\d\\d:\\d\\d {2}payment\\.succeeded {2}${eventId} {2}202 {2}\\d+ ms$`, 'm'),
  );
  expect(target.received).toHaveLength(1);
  const [got] = target.received;
  expect(JSON.parse(got?.body ?? '')).toMatchObject({ type: 'payment.succeeded', data });
  expect(got?.headers).toMatchObject({
    'webhook-id': eventId,
    'webhook-signature': expect.stringMatching(/^v1,/),
    'user-agent': expect.stringMatching(/^Waybill\//),
  });
  const made = await eventually(async () => {
    const list = await request(base, 'GET', `/webhooks/endpoints/${id}/deliveries?status=delivered`, {
      headers: admin,
    });
    return (list.body.data as unknown as { id: string; event_id: string }[])[0];
  }, 'the delivery is recorded');
  expect(made.event_id).toBe(eventId);

  listener.child.kill('SIGINT');
  const { code, stdout, stderr } = await listener.exit;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain(`Deleted endpoint ${id}`);
  expect(stdout).not.toMatch(/subscription\.expired|whsec_/);
  expect(await endpoints()).toEqual([]);
});

test('it enables its endpoint again, shows its secret when asked to, and ends when the endpoint is gone', async () => {
  const target = await receiver();
  const { email: ADMIN_EMAIL, password: ADMIN_PASSWORD } = installation.admin;
  const args = ['listen', '--forward', target.url, '--api', base, '--show-secret'];
  const listener = waybill(args, { ADMIN_EMAIL, ADMIN_PASSWORD });
  const [, id = ''] = await listener.prints(/Endpoint (\S+) takes them/);
  const [, secret = ''] = await listener.prints(/Signed with (whsec_\S+)/);
  const path = `/webhooks/endpoints/${id}`;
  await request(base, 'PATCH', path, { headers: admin, body: { status: 'disabled' } });
  await listener.prints(/The endpoint was disabled \(disabled by user:.*\); it is enabled again/);
  await publish('payment.succeeded', { payment_id: 'p', amount: 1, currency: 'EUR' });
  const got = await eventually(() => target.received[0], 'a webhook', 30_000);
  expect(() => new Webhook(secret).verify(got.body, got.headers as Record<string, string>)).not.toThrow();
  await request(base, 'DELETE', path, { headers: admin });
  const { code, stderr } = await listener.exit;
  expect([code, stderr]).toEqual([1, expect.stringContaining(`the endpoint ${id} was deleted by somebody else`)]);
});

test('a platform that goes away is waited for', async () => {
  const target = await receiver();
  const { email: ADMIN_EMAIL, password: ADMIN_PASSWORD } = installation.admin;
  const open = { ...installation.env, WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8' };
  const first = waybill(['api'], open, { cwd: installation.directory });
  const [, api = ''] = await first.prints(/(http:\/\/(?:localhost|127\.0\.0\.1):\d+)/);
  const listener = waybill(['listen', '--forward', target.url, '--api', api], { ADMIN_EMAIL, ADMIN_PASSWORD });
  await listener.prints(/Ctrl-C deletes it/);
  first.child.kill('SIGTERM');
  await first.exit;
  await listener.prints(/The platform does not answer; waiting for it/);
  const second = waybill(['api'], { ...open, PORT: new URL(api).port }, { cwd: installation.directory });
  await listener.prints(/The platform is back/);
  listener.child.kill('SIGINT');
  expect((await listener.exit).code).toBe(0);
  expect(await endpoints()).toEqual([]);
  second.child.kill('SIGTERM');
  await second.exit;
});

test('an API key does, of its own tenant; a second listener has an endpoint of its own', async () => {
  const made = await request(base, 'POST', '/api-keys', {
    headers: admin,
    body: { name: 'cli', tenant: 'acme', scopes: ['webhooks:write'] },
  });
  const key = String(made.body.data?.key);
  const reader = await request(base, 'POST', '/api-keys', {
    headers: admin,
    body: { name: 'reader', tenant: 'acme', scopes: ['webhooks:read'] },
  });
  const refused = { forward: 'http://127.0.0.1:9', api: base, key: String(reader.body.data?.key) };
  expect((await call({}, () => listen(refused))).error).toMatch(/a key needs webhooks:write/);
  const target = await receiver();
  const stop = new AbortController();
  const { out, error } = await call({ WAYBILL_KEY: key }, async () => {
    const listening = listen({ forward: target.url, api: base }, stop.signal);
    await eventually(async () => {
      const list = await request(base, 'GET', '/webhooks/endpoints?tenant=acme', { headers: admin });
      return (list.body.data as unknown as Endpoint[]).length === 1;
    }, 'the endpoint is there');
    stop.abort();
    await listening;
  });
  expect(error).toBeUndefined();
  expect(out).toMatch(/Listening for every event.*\nEndpoint .*\nDeleted endpoint /);
});

test.each([
  ['nothing to sign in with', {}, {}, /give an API key with --key or WAYBILL_KEY/],
  ['a key that is none', { key: 'wb_nope' }, {}, /API key is not valid/],
  ['a wrong password', {}, { ADMIN_EMAIL: 'admin@example.com', ADMIN_PASSWORD: 'not this one' }, /cannot sign in as/],
  [
    'a platform that is not there',
    { api: 'http://127.0.0.1:9', key: 'wb_x' },
    {},
    /does not answer as Waybill \(.*--api/,
  ],
  ['a target that is no URL', { forward: 'localhost:4000', key: 'wb_x' }, {}, /--forward must be an http or https URL/],
  ['a public URL that is none', { publicUrl: 'ftp://x', key: 'wb_x' }, {}, /--public-url must be/],
  ['a target with a password', { forward: 'http://a:b@x', key: 'wb_x' }, {}, /--forward must be/],
])('%s is said in one line', async (_, options, env, why) => {
  const { error, out } = await call(env, () => listen({ forward: 'http://127.0.0.1:9', api: base, ...options }));
  expect([error, out]).toEqual([expect.stringMatching(why), '']);
  expect(await endpoints()).toEqual([]);
});

test('a pattern that is none is refused by the platform', async () => {
  const { email: ADMIN_EMAIL, password: ADMIN_PASSWORD } = installation.admin;
  const options = { forward: 'http://127.0.0.1:9', api: base, events: ['Payment'] };
  const { error } = await call({ ADMIN_EMAIL, ADMIN_PASSWORD }, () => listen(options));
  expect(error).toMatch(/^no endpoint can be made: event_types\[0\] must be an event type/);
});

test('a platform that may not send to loopback is named, with the ways out', async () => {
  const closed = waybill(['api'], { ...installation.env, WEBHOOK_ALLOW_NETWORKS: '' }, { cwd: installation.directory });
  const [, api = ''] = await closed.prints(/(http:\/\/(?:localhost|127\.0\.0\.1):\d+)/);
  const { email: ADMIN_EMAIL, password: ADMIN_PASSWORD } = installation.admin;
  const { error } = await call({ ADMIN_EMAIL, ADMIN_PASSWORD }, () => listen({ forward: 'http://127.0.0.1:9', api }));
  expect(error).toMatch(/WEBHOOK_ALLOW_NETWORKS=127\.0\.0\.0\/8,::1\/128[\s\S]*--public-url/);
  closed.child.kill('SIGTERM');
  await closed.exit;
});
