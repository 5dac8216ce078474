import { randomUUID } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/app.ts';
import { answerCommand, type CommandDeps } from '../../src/api/command.ts';
import { createRouter } from '../../src/api/router.ts';
import { commandHeaders, commandResponses, errorResponses, jsonBody, success, text } from '../../src/api/schemas.ts';
import { OperationIds } from '../../src/domain/ids.ts';
import { command } from '../../src/domain/messages/contracts.ts';
import { done, reject } from '../../src/domain/messages/outcome.ts';
import { BrokerUnavailable, type CommandGateway } from '../../src/queues/gateway.ts';
import { defineWorker } from '../../src/queues/worker.ts';
import { Keyring } from '../../src/services/keyring.ts';
import { createHarness, type Harness } from '../harness.ts';
import { envelopeOf, listening, post, SESSIONS } from './shell.ts';

const engrave = command('test.engrave', z.strictObject({ text: z.string(), seal: z.string() }));
let engraved = 0;
const gate = { closed: false, opened: Promise.withResolvers<void>() };
let entered = Promise.withResolvers<void>();
const workers = [
  defineWorker({
    name: 'engrave',
    pool: 'registration',
    takes: engrave,
    retry: { attempts: 1, baseMs: 100, maxMs: 100 },
    timeoutMs: 20_000,
    perform: async () => {
      entered.resolve();
      if (gate.closed) await gate.opened.promise;
    },
    handle: async ({ data }) => {
      engraved += 1;
      if (data.text === 'taken') return reject({ code: 'CONFLICT', message: 'that text is taken', field: 'text' });
      return done({ text: data.text, n: engraved }, 201);
    },
  }),
];

let h: Harness;
let app: ReturnType<typeof appOf>;
const ids = new OperationIds(Buffer.alloc(32, 7));
const keyring = new Keyring(Buffer.alloc(32, 9));

function appOf(over: Partial<CommandDeps> = {}) {
  const deps: CommandDeps = {
    config: h.config,
    commands: h.messaging.commands,
    operationIds: ids,
    keyring,
    database: h.database,
    ...over,
  };
  const router = createRouter();
  const request = { headers: commandHeaders, body: jsonBody(z.strictObject({ text: text({ max: 100 }) })) };
  const responses = { 201: success(z.unknown()), ...commandResponses('test.engrave'), ...errorResponses(409) };
  for (const path of ['/stones', '/quarries/{id}/stones']) {
    router.openapi(createRoute({ method: 'post', path, request, responses }), (c) => {
      const body = c.req.valid('json');
      return answerCommand(c, deps, engrave, { ...body, seal: randomUUID() }, { idempotent: { fingerprintOf: body } });
    });
  }
  const config = {
    corsOrigins: [],
    trustedProxies: [],
    rateLimits: 'off' as const,
    namespace: h.config.namespace,
    publicUrl: 'http://localhost',
  };
  return createApp({ config, log: listening().log, authenticate: async (token) => SESSIONS[token] }, { api: [router] });
}

async function submit(body: unknown, headers: Record<string, string> = {}, path = '/api/v1/stones', to = app) {
  const response = await to.request(path, post(body, headers));
  const { data, error } = await envelopeOf(response);
  return {
    status: response.status,
    data: data as Record<string, unknown> | undefined,
    error,
    header: (name: string) => response.headers.get(name),
  };
}

const keys = async () =>
  (
    await sql<{ scope: string; key: string }>`select scope, key from idempotency_keys`.execute(
      h.database.em.fork().getKysely(),
    )
  ).rows;

beforeAll(async () => {
  h = await createHarness({}, workers);
  await h.start(workers, ['registration']);
  app = appOf();
});
afterAll(() => h.close());

describe('a command route', () => {
  it('answers with the worker’s result and status', async () => {
    expect(await submit({ text: 'result' })).toMatchObject({ status: 201, data: { text: 'result' } });
  });

  it('answers with the worker’s refusal', async () => {
    expect(await submit({ text: 'taken' })).toMatchObject({
      status: 409,
      error: { code: 'CONFLICT', field: 'text', message: 'that text is taken' },
    });
  });

  it('answers 202 at once to respond-async, and says where to follow it', async () => {
    const answer = await submit({ text: 'later' }, { prefer: 'respond-async' });
    const id = String(answer.data?.operation_id);
    expect(answer).toMatchObject({ status: 202, data: { operation_id: id, type: 'test.engrave', status: 'accepted' } });
    expect([answer.header('location'), answer.header('retry-after'), answer.header('preference-applied')]).toEqual([
      `/api/v1/operations/${id}`,
      '1',
      'respond-async',
    ]);
    expect(ids.issuedAt(id)).toBeDefined();
    expect(await h.messaging.commands.await(id, 5000)).toMatchObject({
      status: 'succeeded',
      result: { text: 'later' },
    });
  });

  it('answers 202 when the worker is not done in time, and the work goes on', async () => {
    gate.closed = true;
    const began = performance.now();
    const answer = await submit({ text: 'slow' }, { prefer: 'handling=lenient, wait=1, wait=20' });
    expect(answer).toMatchObject({ status: 202, data: { status: 'accepted' } });
    expect(answer.header('preference-applied')).toBe('wait=1');
    expect(performance.now() - began).toBeLessThan(3000);
    gate.closed = false;
    gate.opened.resolve();
    expect(await h.messaging.commands.await(String(answer.data?.operation_id), 5000)).toMatchObject({
      status: 'succeeded',
    });
  });

  it('makes no key row without a key', async () => {
    const before = await keys();
    await submit({ text: 'plain' });
    expect(await keys()).toEqual(before);
  });
});

describe('Idempotency-Key', () => {
  it('gives an equal repeat the same answer and does the work once', async () => {
    const headers = { 'idempotency-key': 'once' };
    const first = await submit({ text: 'once' }, headers);
    const before = engraved;
    expect(first.status).toBe(201);
    expect(await submit('{ "text" : "\\u006fnce" }', headers)).toMatchObject({ status: 201, data: first.data });
    expect(engraved).toBe(before);
  });

  it('holds when repeats race', async () => {
    const before = engraved;
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => submit({ text: 'race' }, { 'idempotency-key': 'race' })),
    );
    expect(new Set(answers.map((answer) => JSON.stringify([answer.status, answer.data]))).size).toBe(1);
    expect([answers[0]?.status, engraved]).toEqual([201, before + 1]);
  });

  it('repeats a refusal too', async () => {
    const headers = { 'idempotency-key': 'refused' };
    expect([
      (await submit({ text: 'taken' }, headers)).status,
      (await submit({ text: 'taken' }, headers)).status,
    ]).toEqual([409, 409]);
  });

  it('answers 422 to another body, and to another resource of the route', async () => {
    const headers = { 'idempotency-key': 'fixed' };
    await submit({ text: 'a' }, headers, '/api/v1/quarries/1/stones');
    for (const [body, path] of [
      [{ text: 'b' }, '/api/v1/quarries/1/stones'],
      [{ text: 'a' }, '/api/v1/quarries/2/stones'],
    ] as const) {
      expect(await submit(body, headers, path)).toMatchObject({
        status: 422,
        error: { code: 'IDEMPOTENCY_KEY_REUSED', field: 'Idempotency-Key' },
      });
    }
  });

  it('belongs to the caller and the route', async () => {
    const headers = { 'idempotency-key': 'scoped' };
    const mine = await submit({ text: 'mine' }, { ...headers, authorization: 'Bearer ada' });
    const anyone = await submit({ text: 'anyone' }, headers);
    const elsewhere = await submit({ text: 'elsewhere' }, headers, '/api/v1/quarries/1/stones');
    expect([mine.status, anyone.status, elsewhere.status]).toEqual([201, 201, 201]);
    expect(
      (await keys())
        .filter((row) => row.key === 'scoped')
        .map((row) => row.scope)
        .sort(),
    ).toEqual([
      'POST /api/v1/quarries/:id/stones',
      'POST /api/v1/stones',
      `user:${SESSIONS.ada?.userId} POST /api/v1/stones`,
    ]);
  });

  it.each(['', 'x'.repeat(256), 'tab\there', 'Straße'])('refuses the key %.20j', async (key) => {
    expect(await submit({ text: 'key' }, { 'idempotency-key': key })).toMatchObject({
      status: 400,
      error: { code: 'VALIDATION_ERROR', field: 'Idempotency-Key' },
    });
  });

  it('does not remember what was not valid', async () => {
    const headers = { 'idempotency-key': 'second-try' };
    expect((await submit({ txt: 'x' }, headers)).status).toBe(400);
    expect((await submit({ text: 'x' }, headers)).status).toBe(201);
  });

  it('lets go of a key whose command surely did not leave, and keeps one that may have', async () => {
    // A broker that cannot be reached cannot be had from the shared one; the two ways it fails are its gateway's contract.
    const failing = (sent: boolean): CommandGateway => ({
      send: async () => {
        throw new BrokerUnavailable('no confirm', sent);
      },
      await: async () => undefined,
    });
    for (const [sent, kept] of [
      [false, 0],
      [true, 1],
    ] as const) {
      const key = `away-${sent}`;
      const answer = await submit(
        { text: 'x' },
        { 'idempotency-key': key },
        '/api/v1/stones',
        appOf({ commands: failing(sent) }),
      );
      expect([answer.status, answer.error.code, answer.header('retry-after')]).toEqual([
        503,
        'SERVICE_UNAVAILABLE',
        '2',
      ]);
      expect((await keys()).filter((row) => row.key === key)).toHaveLength(kept);
      expect((await submit({ text: 'x' }, { 'idempotency-key': key })).status).toBe(201);
    }
  });

  it('keeps a key that a repeat has published under, when the first learns that its own command did not leave', async () => {
    const { commands } = h.messaging;
    const [reached, mayFail] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const failing: CommandGateway = {
      send: async () => {
        reached.resolve();
        await mayFail.promise;
        throw new BrokerUnavailable('out of reach', false);
      },
      await: commands.await.bind(commands),
    };
    const headers = { 'idempotency-key': 'overtaken' };
    const before = engraved;
    const first = submit({ text: 'x' }, headers, '/api/v1/stones', appOf({ commands: failing }));
    await reached.promise;
    const repeat = await submit({ text: 'x' }, headers);
    mayFail.resolve();
    expect([(await first).status, repeat.status]).toEqual([503, 201]);
    expect(await submit({ text: 'x' }, headers)).toMatchObject({ status: 201, data: repeat.data });
    expect(engraved).toBe(before + 1);
  });

  it('forgets a key when none of those that held it could publish', async () => {
    const held = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const mayFail = Promise.withResolvers<void>();
    let sends = 0;
    const failing: CommandGateway = {
      send: async () => {
        held[sends++]?.resolve();
        await mayFail.promise;
        throw new BrokerUnavailable('out of reach', false);
      },
      await: async () => undefined,
    };
    const headers = { 'idempotency-key': 'nobody-left' };
    const away = appOf({ commands: failing });
    const both = [1, 2].map(() => submit({ text: 'x' }, headers, '/api/v1/stones', away));
    await Promise.all(held.map(({ promise }) => promise));
    expect((await submit({ text: 'other' }, headers)).status).toBe(422);
    mayFail.resolve();
    expect((await Promise.all(both)).map(({ status }) => status)).toEqual([503, 503]);
    expect((await keys()).filter(({ key }) => key === 'nobody-left')).toEqual([]);
    expect((await submit({ text: 'other' }, headers)).status).toBe(201);
  });

  it('knows an equal repeat after SECRETS_KEY was rotated, and another body', async () => {
    const headers = { 'idempotency-key': 'rotated' };
    const first = await submit({ text: 'rotated' }, headers);
    const rotated = appOf({ keyring: new Keyring(Buffer.alloc(32, 11), Buffer.alloc(32, 9)) });
    const send = (text: string) => submit({ text }, headers, '/api/v1/stones', rotated);
    expect(await send('rotated')).toMatchObject({ status: 201, data: first.data });
    expect((await send('another')).status).toBe(422);
  });
});

// Last: nothing waits in this process after it.
it('ends every wait at once when the process drains, and waits for no worker any more', async () => {
  gate.closed = true;
  gate.opened = Promise.withResolvers();
  entered = Promise.withResolvers();
  const began = performance.now();
  const waiting = submit({ text: 'drained' }, { prefer: 'wait=20' });
  const poll = h.messaging.commands.await(ids.issue(), 20_000);
  await entered.promise;
  h.messaging.commands.release();
  expect(await waiting).toMatchObject({ status: 202, data: { status: 'accepted' } });
  expect(await poll).toBeUndefined();
  expect((await submit({ text: 'late' }, { prefer: 'wait=20' })).status).toBe(202);
  expect(performance.now() - began).toBeLessThan(5000);
  gate.closed = false;
  gate.opened.resolve();
});
