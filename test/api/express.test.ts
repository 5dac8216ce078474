import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { HttpServer } from '../../src/api/server.ts';
import { apiServer } from '../../src/cli/http.ts';
import type { Runtime } from '../../src/cli/runtime.ts';
import { createApiKey } from '../../src/domain/api-keys/api-keys.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { createIdentity } from '../../src/domain/sessions/identity.ts';
import { ensureAdmin } from '../../src/domain/users/administration.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

const ADMIN = { email: 'admin@example.com', password: 'an admin password' };
const EVENT = { type: 'payment.succeeded', data: { payment_id: 'p1', amount: 1, currency: 'EUR' } };
/** The lane leaves requests of browsers to the application. */
const AROUND = { origin: 'http://elsewhere.example' };

let h: Harness;
let server: HttpServer;
let base: string;
let token: string;

beforeAll(async () => {
  h = await createHarness({ RATE_LIMITS: 'admin=100000/60' });
  const { config, log, database, keyring, metrics, messaging } = h;
  const operationIds = new OperationIds(keyring.for('operation-id').current().key);
  const identity = createIdentity({ database, keyring, config });
  const runtime: Runtime = { config, log, database, keyring, metrics, messaging, identity, operationIds };
  await ensureAdmin({ em: database.em.fork(), transact: messaging.transact, passwords: identity.passwords }, ADMIN);
  server = await apiServer(runtime, { stopping: false }, 0);
  await server.start();
  base = `http://127.0.0.1:${server.address().port}/api/v1`;
  token = await signIn();
});
afterAll(async () => {
  await server.stop(5000);
  await h.close();
});

async function signIn(): Promise<string> {
  const response = await send('/auth/login', ADMIN, {}, '');
  return ((await response.json()) as { data: { access_token: string } }).data.access_token;
}

function send(path: string, body: unknown, headers: Record<string, string> = {}, bearer = token): Promise<Response> {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return fetch(`${base}${path}`, {
    method: 'POST',
    body: text,
    headers: {
      'content-type': 'application/json',
      ...(bearer ? { authorization: `Bearer ${bearer}` } : {}),
      ...headers,
    },
  });
}

/** An answer without what differs from one request to the next. */
async function answerOf(response: Response) {
  const volatile = ['date', 'x-request-id', 'x-ratelimit-remaining', 'x-ratelimit-reset', 'content-length'];
  const text = (await response.text()).replace(/"(timestamp|request_id|event_id)":"[^"]*"/g, '"$1":"…"');
  const headers = [...response.headers].filter(([name]) => !volatile.includes(name)).sort();
  return { status: response.status, headers, body: JSON.parse(text) as unknown };
}

const published = async (id: string) => {
  const queue = h.messaging.topology.queue('fanout');
  const channel = await h.messaging.publisherBroker.model?.createChannel();
  if (!channel) throw new Error('not connected');
  try {
    return await eventually(async () => {
      const message = await channel.get(queue, { noAck: true });
      if (!message) return undefined;
      const envelope = JSON.parse(message.content.toString()) as { id: string } & Record<string, unknown>;
      return envelope.id === id ? envelope : undefined;
    }, `the event ${id}`);
  } finally {
    await channel.close();
  }
};

describe('the express lane', () => {
  it('answers as the application does, to the header', async () => {
    const lane = await send('/events', EVENT);
    const application = await send('/events', EVENT, AROUND);
    expect(lane.headers.get('x-ratelimit-remaining')).not.toBeNull();
    expect(await answerOf(lane)).toEqual(await answerOf(application));
  });

  it('publishes what the application publishes', async () => {
    const context = {
      'x-request-id': 'req-7',
      traceparent: `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`,
      'user-agent': 'test',
    };
    const [one, two] = [newId(), newId()];
    await send('/events', { ...EVENT, id: one, channels: ['a'] }, context);
    const lane = await published(one);
    await send('/events', { ...EVENT, id: two, channels: ['a'] }, { ...context, ...AROUND });
    const application = await published(two);
    expect(lane).toEqual({ ...application, id: one, time: lane.time });
    expect(lane).toMatchObject({ requestid: 'req-7', correlationid: 'req-7', source: 'client', tenant: 'default' });
  });

  it.each([
    ['no token', EVENT, {}, ''],
    ['a forged token', EVENT, {}, 'eyJhbGciOiJub25lIn0.e30.'],
    ['broken JSON', '{"type":', {}, undefined],
    ['a list', '[]', {}, undefined],
    ['an unknown field', { ...EVENT, more: 1 }, {}, undefined],
    ['an unknown type', { ...EVENT, type: 'nobody.knows' }, {}, undefined],
    ['a type of the platform', { ...EVENT, type: 'user.created' }, {}, undefined],
    ['data that does not fit', { ...EVENT, data: { payment_id: 'p1' } }, {}, undefined],
    [
      'U+0000',
      `{"type":"payment.succeeded","data":{"payment_id":"a\\u0000","amount":1,"currency":"EUR"}}`,
      {},
      undefined,
    ],
    [
      'half a surrogate pair',
      `{"type":"payment.succeeded","data":{"payment_id":"\\ud800","amount":1,"currency":"EUR"}}`,
      {},
      undefined,
    ],
    [
      'a number beyond a double',
      `{"type":"payment.succeeded","data":{"payment_id":"a","amount":1e999,"currency":"EUR"}}`,
      {},
      undefined,
    ],
    ['deep nesting', `{"type":"payment.succeeded","data":${'{"a":'.repeat(70)}1${'}'.repeat(70)}}`, {}, undefined],
    ['another media type', JSON.stringify(EVENT), { 'content-type': 'text/plain' }, undefined],
    ['a bad id', { ...EVENT, id: 'a.b' }, {}, undefined],
  ])('leaves %s to the application', async (_, body, headers, bearer) => {
    const lane = await answerOf(await send('/events', body, headers, bearer));
    const application = await answerOf(await send('/events', body, { ...headers, ...AROUND }, bearer));
    expect(lane.status).toBeGreaterThanOrEqual(400);
    expect(lane).toEqual(application);
  });

  it('takes a key with the scope, for its tenant, and no other key', async () => {
    const key = (scopes: ('events:write' | 'webhooks:read')[]) =>
      h.messaging.transact({ requestId: 't', correlationId: 't', actor: SYSTEM }, (unit) =>
        createApiKey(unit, { name: 'test', scopes, tenant: 'acme' }),
      );
    const id = newId();
    expect((await send('/events', { ...EVENT, id }, {}, (await key(['events:write'])).key)).status).toBe(202);
    expect(await published(id)).toMatchObject({ tenant: 'acme', actor: expect.stringMatching(/^api_key:/) });
    expect((await send('/events', EVENT, {}, (await key(['webhooks:read'])).key)).status).toBe(403);
  });

  it('refuses a token with the request after the one that ended its session', async () => {
    const mine = await signIn();
    for (let n = 0; n < 3; n += 1) expect((await send('/events', EVENT, {}, mine)).status).toBe(202);
    const out = await fetch(`${base}/auth/logout`, { method: 'POST', headers: { authorization: `Bearer ${mine}` } });
    expect(out.status).toBe(200);
    expect((await send('/events', EVENT, {}, mine)).status).toBe(401);
  });

  it('notices within its cache life what changed without a word', async () => {
    const mine = await signIn();
    expect((await send('/events', EVENT, {}, mine)).status).toBe(202);
    await sql`update sessions set revoked_at = now() where revoked_at is null`.execute(
      h.database.em.fork().getKysely(),
    );
    await eventually(async () => (await send('/events', EVENT, {}, mine)).status === 401, 'the token is refused', 3000);
    token = await signIn();
  });

  it('answers 503 within two seconds, once, while the broker takes nothing', async () => {
    h.messaging.publisherBroker.blockedBy = 'a drill';
    const began = performance.now();
    const response = await send('/events', EVENT);
    h.messaging.publisherBroker.blockedBy = undefined;
    expect(response.status).toBe(503);
    expect(response.headers.get('retry-after')).toBe('2');
    expect(performance.now() - began).toBeLessThan(2500);
    const body = (await response.json()) as { error: unknown };
    expect(body.error).toMatchObject({ code: 'SERVICE_UNAVAILABLE', retry_after: 2 });
  });
});
