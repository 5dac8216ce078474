import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { z } from 'zod';
import type { ApiRouter } from '../../src/api/router.ts';
import { composeApi } from '../../src/cli/http.ts';
import { createMemory } from '../../src/cli/memory.ts';
import { createApiKey } from '../../src/domain/api-keys/api-keys.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import type { Envelope } from '../../src/domain/messages/envelope.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { createIdentity } from '../../src/domain/sessions/identity.ts';
import { defineBatchWorker } from '../../src/queues/worker.ts';
import { createHarness, eventually, type Harness } from '../harness.ts';

/*
 * Whatever a key sends to `POST /webhooks/endpoints`, `POST /events` and `POST /events/batch` of the whole API: it is
 * taken whole or refused whole with a 4xx, and what is secret is in no log.
 */

const published: Envelope[] = [];
const listener = defineBatchWorker<unknown>({
  name: 'listener',
  pool: 'fanout',
  schema: z.unknown(),
  ordered: true,
  batch: { size: 100, waitMs: 5 },
  timeoutMs: 5000,
  handle: async (items) => void published.push(...items.map((item) => item.envelope)),
});

let h: Harness;
let app: ApiRouter;
let key = '';

beforeAll(async () => {
  h = await createHarness();
  await h.start([listener], ['fanout']);
  const operationIds = new OperationIds(h.keyring.for('operation-id').current().key);
  const runtime = { ...h, identity: createIdentity(h), operationIds };
  app = composeApi(runtime, { stopping: false }, [], createMemory(runtime));
  const context = { requestId: 'r', correlationId: 'r', actor: SYSTEM };
  const input = { name: 'fuzz', tenant: 'fuzz', scopes: ['events:write' as const, 'webhooks:write' as const] };
  key = (await h.messaging.transact(context, (unit) => createApiKey(unit, input))).key;
});
afterAll(() => h.close());

interface Answer {
  status: number;
  body: {
    data: { id: string; secret?: string; event_id: string; event_ids: string[] };
    error: { code: string; message: string };
  };
}

async function post(path: string, body: string): Promise<Answer> {
  const answer = await app.request(`/api/v1${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body,
  });
  return { status: answer.status, body: (await answer.json()) as Answer['body'] };
}

/** A refusal says why and is nobody's fault but the caller's. */
function expectRefusal({ status, body }: Answer): void {
  expect([400, 413]).toContain(status);
  expect(['VALIDATION_ERROR', 'PAYLOAD_TOO_LARGE']).toContain(body.error.code);
  expect(body.error.message).not.toBe('');
}

const counts = async (): Promise<unknown> => {
  const { rows } = await sql`
    select (select count(*)::int from webhook_endpoints) as endpoints, (select count(*)::int from webhook_secrets) as secrets,
      (select count(*)::int from outbox) as outbox, (select revision from revisions where name = 'endpoints') as revision`.execute(
    h.database.em.fork().getKysely(),
  );
  return rows[0];
};

/** Text that has broken programs: controls, lone surrogates, long, hostile, and what looks like something else. */
const text = fc.oneof(
  fc.string({ maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom('', '\0', '\ud800', '‮', '\r\nx: y', "'; drop table users; --", '{{7*7}}', '__proto__', 'null', '１'),
  fc.integer({ min: 100, max: 3000 }).map((length) => 'x'.repeat(length)),
);
const anything = fc.oneof(text, fc.jsonValue({ maxDepth: 3 }));
const url = fc.oneof(
  fc.webUrl(),
  fc.ipV4().map((ip) => `http://${ip}/`),
  fc.ipV6().map((ip) => `http://[${ip}]/`),
  fc.constantFrom(
    'http://127.0.0.1:9/x',
    'https://example.com/hook',
    'http://0x7f.1',
    'file:///etc/passwd',
    'http://a@b/',
  ),
  text,
);
/** Mostly what fits, or nothing would get past the first check. */
const mostly = <T>(good: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 20, arbitrary: good }, { weight: 1, arbitrary: anything });

const endpoint = fc.record(
  {
    url: mostly(fc.oneof(fc.constantFrom('https://example.com/hook', 'http://127.0.0.1:9/x'), url)),
    description: mostly(text),
    event_types: mostly(fc.array(fc.constantFrom('kyc.*', '*', 'user.created', 'x.y.z'), { maxLength: 4 })),
    channels: mostly(fc.array(fc.constantFrom('eu', 'b2b'), { maxLength: 3 })),
    headers: mostly(fc.dictionary(fc.constantFrom('x-team', 'X-Team', 'authorization'), text, { maxKeys: 2 })),
    rate_limit: mostly(fc.option(fc.integer({ min: 1, max: 10_001 }))),
    ordered: mostly(fc.boolean()),
    timeout_ms: mostly(fc.integer({ min: 999, max: 30_001 })),
    status: mostly(fc.constantFrom('enabled', 'disabled')),
    signature: mostly(fc.constantFrom('v1', 'v1a', 'v1,v1a')),
    hex_signature: mostly(fc.boolean()),
    metadata: mostly(fc.dictionary(fc.string({ minLength: 1 }), text, { maxKeys: 2 })),
    surprise: anything,
  },
  { requiredKeys: ['url'], noNullPrototype: true },
);
/** One in a few has a member that is unknown; the others can be taken. */
const endpointBody = fc
  .tuple(endpoint, fc.integer({ min: 0, max: 5 }))
  .map(([{ surprise, ...rest }, n]) => JSON.stringify(n === 0 ? { ...rest, surprise } : rest));

const event = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.record(
      {
        type: mostly(fc.constantFrom('payment.succeeded', 'payment.succeeded', 'user.created', 'nobody.knows')),
        data: mostly(
          fc.record(
            {
              payment_id: mostly(fc.constant('p')),
              amount: mostly(fc.double()),
              currency: mostly(fc.constant('EUR')),
              note: anything,
            },
            { requiredKeys: ['payment_id', 'amount', 'currency'], noNullPrototype: true },
          ),
        ),
        id: mostly(fc.stringMatching(/^[A-Za-z0-9_-]{1,64}$/)),
        ordering_key: mostly(text),
        channels: mostly(fc.array(fc.constantFrom('eu', 'b2b'), { maxLength: 6 })),
      },
      { requiredKeys: ['type', 'data'], noNullPrototype: true },
    ),
  },
  { weight: 1, arbitrary: anything },
);

const RUNS = { numRuns: 300 };

it('an endpoint is made whole, with its secret shown once, or not at all', async () => {
  const secrets: string[] = [];
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.oneof({ weight: 12, arbitrary: endpointBody }, { weight: 1, arbitrary: fc.json() }),
      async (body) => {
        const before = await counts();
        const answer = await post('/webhooks/endpoints', body);
        if (answer.status === 201) {
          const { rows } = await sql<{ endpoints: number; secrets: number }>`
          select count(distinct e.id)::int as endpoints, count(s.id)::int as secrets
          from webhook_endpoints e join webhook_secrets s on s.endpoint_id = e.id
          where e.id = ${answer.body.data.id} and e.tenant = 'fuzz'`.execute(h.database.em.fork().getKysely());
          expect(rows[0]?.endpoints).toBe(1);
          expect(rows[0]?.secrets).toBeGreaterThan(0);
          if (answer.body.data.secret) secrets.push(answer.body.data.secret);
        } else {
          expectRefusal(answer);
          expect(await counts()).toEqual(before);
          refused += 1;
        }
      },
    ),
    RUNS,
  );
  // The generator is worth something only while both happen.
  expect(secrets.length).toBeGreaterThan(10);
  expect(refused).toBeGreaterThan(10);
  const logged = h.logged.join('\n');
  expect(logged).toContain('/api/v1/webhooks/endpoints');
  for (const secret of secrets) expect(logged).not.toContain(secret.replace('whsec_', ''));
  expect(logged).not.toContain(key);
  const { rows } = await sql<{ dump: string }>`
    select concat((select json_agg(s)::text from webhook_secrets s), (select json_agg(o)::text from outbox o),
      (select json_agg(e)::text from webhook_endpoints e)) as dump`.execute(h.database.em.fork().getKysely());
  for (const secret of secrets) expect(rows[0]?.dump).not.toContain(secret.replace('whsec_', ''));
});

/** What reached the broker since the last call: one more event is published last, and all before it are there by then. */
async function seen(): Promise<string[]> {
  const id = `sentinel-${newId()}`;
  const sentinel = { type: 'payment.succeeded', data: { payment_id: 'p', amount: 1, currency: 'EUR' }, id };
  expect((await post('/events', JSON.stringify(sentinel))).status).toBe(202);
  await eventually(() => published.some((message) => message.id === id), 'the last event', 30_000);
  const ids = published.filter((message) => message.id !== id).map((message) => message.id);
  published.length = 0;
  return ids;
}

it('an event is accepted and published, or refused and not', async () => {
  const accepted: string[] = [];
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.oneof({ weight: 12, arbitrary: event.map((one) => JSON.stringify(one)) }, { weight: 1, arbitrary: fc.json() }),
      async (body) => {
        const answer = await post('/events', body);
        if (answer.status === 202) accepted.push(answer.body.data.event_id);
        else {
          expectRefusal(answer);
          refused += 1;
        }
      },
    ),
    RUNS,
  );
  expect(accepted.length).toBeGreaterThan(10);
  expect(refused).toBeGreaterThan(10);
  // Events with an ordering key go by queues of their own, so the order of all is not one.
  expect((await seen()).toSorted()).toEqual(accepted.toSorted());
});

it('a batch is accepted and published whole, or refused whole', async () => {
  const accepted: string[] = [];
  let batches = 0;
  let refused = 0;
  const good = fc
    .nat(5)
    .map((n) => ({ type: 'payment.succeeded', data: { payment_id: 'p', amount: n, currency: 'EUR' } }));
  const batch = fc
    .tuple(
      fc.oneof(fc.array(good, { maxLength: 8 }), fc.array(fc.oneof(good, good, good, event), { maxLength: 8 })),
      anything,
    )
    .chain(([events, other]) => fc.constantFrom({ events }, { events }, { events }, { events: other }));
  await fc.assert(
    fc.asyncProperty(batch, async (body) => {
      const answer = await post('/events/batch', JSON.stringify(body));
      if (answer.status === 202) {
        expect(answer.body.data.event_ids).toHaveLength((body.events as unknown[]).length);
        accepted.push(...new Set(answer.body.data.event_ids));
        batches += 1;
      } else {
        expectRefusal(answer);
        refused += 1;
      }
    }),
    RUNS,
  );
  expect(batches).toBeGreaterThan(10);
  expect(refused).toBeGreaterThan(10);
  // Events with an ordering key go by queues of their own, so the order of all is not one.
  expect((await seen()).toSorted()).toEqual(accepted.toSorted());
  expect(h.logged.filter((line) => JSON.parse(line).level >= 50)).toEqual([]);
});
