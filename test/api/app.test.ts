import { describe, expect, it } from 'vitest';
import { envelopeOf, parcelApp, post, SESSIONS } from './shell.ts';

const { app, lines } = parcelApp();
const PARCELS = '/api/v1/parcels';

async function refused(path: string, init: RequestInit, status: number) {
  const response = await app.request(path, init);
  const body = await envelopeOf(response);
  expect({ status: response.status, body }).toMatchObject({
    status,
    body: { status: 'error', meta: { request_id: expect.any(String) } },
  });
  return { ...body.error, response };
}

describe('the envelope', () => {
  it('wraps data, a message and the request id', async () => {
    const response = await app.request(PARCELS, post({ email: ' ada@example.com ' }, { 'x-request-id': 'req-1' }));
    expect(response.status).toBe(201);
    expect(await response.json()).toEqual({
      status: 'success',
      data: { email: 'ada@example.com' },
      message: 'sent',
      meta: { timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/), request_id: 'req-1' },
    });
  });

  it('puts the pagination beside the data', async () => {
    const { data, pagination } = await envelopeOf(await app.request(`${PARCELS}?page=2&limit=20`));
    expect(data).toEqual([{ page: 2, limit: 20, order: 'desc' }]);
    expect(pagination).toEqual({ page: 2, limit: 20, total_items: 41, total_pages: 3, has_next: true, has_prev: true });
  });

  it('keeps answers out of caches and browsers in their place', async () => {
    const { headers } = await app.request(PARCELS);
    expect(headers.get('cache-control')).toBe('no-store');
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('content-security-policy')).toContain("default-src 'self'");
    expect(headers.get('strict-transport-security')).toBeNull();
  });
});

describe('validation', () => {
  const valid = { email: 'ada@example.com' };
  it.each([
    ['a missing field', {}, 'email', 'email is required'],
    ['a wrong type', { email: 7 }, 'email', 'email must be a string'],
    ['an address that is none', { email: 'ada' }, 'email', 'email must be an e-mail address'],
    [
      'an address that is too long',
      { email: `${'a'.repeat(250)}@example.com` },
      'email',
      'email must have at most 255 characters',
    ],
    ['an unknown field', { ...valid, is_admin: true }, 'is_admin', 'is_admin is not a known field'],
    [
      'an unknown field inside',
      { ...valid, document: { expires_on: '2030-01-01', colour: 'red' } },
      'document.colour',
      'document.colour is not a known field',
    ],
    [
      'a nested field',
      { ...valid, document: { expires_on: 'soon' } },
      'document.expires_on',
      'document.expires_on must be a date',
    ],
    ['a field in a list', { ...valid, events: [{ type: 'a' }, {}] }, 'events[1].type', 'events[1].type is required'],
    [
      'a list that is too long',
      { ...valid, events: [1, 2, 3].map(() => ({ type: 'a' })) },
      'events',
      'events must have at most 2 items',
    ],
    ['a text that is too short', { ...valid, name: ' a ' }, 'name', 'name must have at least 2 characters'],
    ['a text that is too long', { ...valid, name: 'ä'.repeat(11) }, 'name', 'name must have at most 10 characters'],
    ['a short password', { ...valid, password: 'seven77' }, 'password', 'password must have 8 to 128 characters'],
    ['a fraction', { ...valid, count: 1.5 }, 'count', 'count must be a whole number'],
    ['a number out of range', { ...valid, count: 6 }, 'count', 'count must be at most 5'],
    ['a value of no list', { ...valid, kind: 'visa' }, 'kind', 'kind must be one of passport, id_card'],
    [
      'an alternative that came near',
      { ...valid, to: { street: { name: 7 } } },
      'to.street.name',
      'to.street.name must be a string',
    ],
    ['no alternative', { ...valid, to: 'Prague' }, 'to', 'to is not valid'],
    ['null', { email: null }, 'email', 'email must be a string'],
  ])('names the field of %s', async (_, body, field, message) => {
    expect(await refused(PARCELS, post(body), 400)).toMatchObject({ code: 'VALIDATION_ERROR', field, message });
  });

  it.each([
    ['U+0000', '{"email":"a\\u0000@example.com"}', 'email'],
    ['U+0000 deep in free data', '{"email":"a@example.com","data":{"list":[1,{"x":"\\u0000"}]}}', 'data.list[1].x'],
    ['a lone surrogate in free data', '{"email":"a@example.com","data":{"x":"\\ud83d"}}', 'data.x'],
    ['a number beyond a double', '{"email":"a@example.com","data":{"x":1e999}}', 'data.x'],
  ])('refuses %s', async (_, body, field) => {
    expect(await refused(PARCELS, post(body), 400)).toMatchObject({ code: 'VALIDATION_ERROR', field });
  });

  it('takes escaped pairs, an escaped backslash before u0000, and non-ASCII text', async () => {
    const response = await app.request(
      PARCELS,
      post('{"email":"a@example.com","data":{"x":"\\ud83d\\ude00 \\\\u0000 Žluť"}}'),
    );
    expect([response.status, (await envelopeOf(response)).data]).toEqual([
      201,
      { email: 'a@example.com', data: { x: '😀 \\u0000 Žluť' } },
    ]);
  });

  it.each([
    '{',
    '',
    'null',
    '[]',
    '"text"',
    '7',
    '{"email":"a@example.com",}',
    '{"email":"a\0@example.com"}',
    `${'['.repeat(30_000)}${']'.repeat(30_000)}`,
  ])('refuses the body %.20j', async (body) => {
    expect(await refused(PARCELS, post(body), 400)).toMatchObject({ code: 'VALIDATION_ERROR' });
  });

  it('does not let __proto__ through', async () => {
    const response = await app.request(PARCELS, post('{"email":"a@example.com","__proto__":{"role":"admin"}}'));
    if (response.status === 201) expect(Object.keys((await envelopeOf(response)).data)).toEqual(['email']);
    else expect(response.status).toBe(400);
  });

  it('says all that is wrong in details', async () => {
    const error = await refused(PARCELS, post({ email: 'x', name: 'y' }), 400);
    expect(error.details).toEqual([
      { field: 'email', message: 'email must be an e-mail address' },
      { field: 'name', message: 'name must have at least 2 characters' },
    ]);
  });

  it.each([
    'page=0',
    'page=-1',
    'page=1.5',
    'page=x',
    'limit=101',
    'limit=0',
    'page=1&page=2',
    'sort=password_hash',
    'order=up',
    'page=99999999999',
  ])('refuses ?%s', async (query) => {
    expect(await refused(`${PARCELS}?${query}`, {}, 400)).toMatchObject({
      code: 'VALIDATION_ERROR',
      field: query.split('=')[0],
    });
  });

  it.each([
    '/parcels/%00',
    '/parcels/%ff',
    '/parcels/a%',
    '/parcels/%c3%28',
    '/parcels?x=%00',
    '/parcels?x=%ff',
    '/parcels?%ff=1',
    '/parcels/%ed%a0%80',
  ])('refuses %s', async (path) => {
    expect(await refused(`/api/v1${path}`, {}, 400)).toMatchObject({ code: 'VALIDATION_ERROR' });
  });

  it('decodes a path once', async () => {
    const { data } = await envelopeOf(await app.request('/api/v1/parcels/a%2Fb%2500'));
    expect(data).toMatchObject({ id: 'a/b%00' });
  });
});

describe('bodies', () => {
  it.each(['text/plain', 'application/x-www-form-urlencoded', 'application/xml', 'application/jsonp'])(
    'answers 415 to %s',
    async (type) => {
      expect(await refused(PARCELS, post({ email: 'a@example.com' }, { 'content-type': type }), 415)).toMatchObject({
        code: 'UNSUPPORTED_MEDIA_TYPE',
      });
    },
  );

  it('answers 415 to a body without a type and to a compressed one', async () => {
    await refused(PARCELS, { method: 'POST', body: new Uint8Array([0x7b, 0x7d]) }, 415);
    await refused(PARCELS, post({}, { 'content-encoding': 'gzip' }), 415);
  });

  it('refuses what is no UTF-8', async () => {
    const body = Buffer.concat([
      Buffer.from('{"email":"a@example.com","name":"'),
      Buffer.from([0xc3, 0x28]),
      Buffer.from('"}'),
    ]);
    const error = await refused(
      PARCELS,
      { method: 'POST', headers: { 'content-type': 'application/json' }, body },
      400,
    );
    expect(error).toMatchObject({ code: 'VALIDATION_ERROR', message: 'the body is not valid UTF-8' });
  });

  it('hands a route the exact bytes', async () => {
    const body = Buffer.from('\ufeff{"a": "\\u00e9é"}\r\n');
    const { data } = await envelopeOf(
      await app.request('/api/v1/raw', { method: 'POST', headers: { 'content-type': 'application/json' }, body }),
    );
    expect(data).toBe(body.toString('hex'));
  });

  it('takes a charset', async () => {
    expect(
      (
        await app.request(
          PARCELS,
          post({ email: 'a@example.com' }, { 'content-type': 'Application/JSON; charset=utf-8' }),
        )
      ).status,
    ).toBe(201);
  });

  it('refuses a missing body by its first field', async () => {
    expect(await refused(PARCELS, { method: 'POST' }, 400)).toMatchObject({ field: 'email' });
  });

  it('takes no body where none is needed', async () => {
    expect((await app.request('/api/v1/bodiless', { method: 'POST' })).status).toBe(200);
    expect((await app.request('/api/v1/bodiless', post({}))).status).toBe(200);
  });

  it('answers 413 beyond 64 KiB, and only beyond what a route states', async () => {
    const blob = { blob: 'x'.repeat(100 * 1024) };
    expect(await refused(PARCELS, post(blob), 413)).toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
      message: 'the body is larger than 65536 bytes',
    });
    expect((await app.request('/api/v1/large', post(blob))).status).toBe(200);
    await refused('/api/v1/large', post({ blob: 'x'.repeat(300 * 1024) }), 413);
  });
});

describe('addresses and methods', () => {
  it('answers 404 with an envelope', async () => {
    expect(await refused('/api/v1/nowhere', {}, 404)).toMatchObject({ code: 'NOT_FOUND' });
    expect(await refused('/nowhere', post('{'), 404)).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('answers 405 with Allow before it looks at the body', async () => {
    const { response, code } = await refused('/api/v1/parcels/1', { method: 'PUT', body: 'x' }, 405);
    expect([code, response.headers.get('allow')]).toEqual(['METHOD_NOT_ALLOWED', 'GET, HEAD, OPTIONS']);
    expect((await refused(PARCELS, { method: 'DELETE' }, 405)).response.headers.get('allow')).toBe(
      'GET, POST, HEAD, OPTIONS',
    );
  });

  it('answers HEAD like GET without a body, and OPTIONS with Allow', async () => {
    const head = await app.request(PARCELS, { method: 'HEAD' });
    expect([head.status, await head.text()]).toEqual([200, '']);
    const options = await app.request(PARCELS, { method: 'OPTIONS' });
    expect([options.status, options.headers.get('allow')]).toEqual([204, 'GET, POST, HEAD, OPTIONS']);
  });
});

describe('errors', () => {
  it('answers a refusal as it is', async () => {
    expect(await refused('/api/v1/fault/refusal', {}, 409)).toMatchObject({
      code: 'CONFLICT',
      message: 'taken',
      field: 'email',
      details: [1],
    });
  });

  it.each(['broker', 'database'])('answers 503 with Retry-After when the %s is away', async (kind) => {
    const error = await refused(`/api/v1/fault/${kind}`, {}, 503);
    expect([error.code, error.response.headers.get('retry-after'), error.retry_after]).toEqual([
      'SERVICE_UNAVAILABLE',
      '2',
      2,
    ]);
    expect(JSON.stringify(error)).not.toMatch(/amqp|10\.0\.0\.7|ECONN/);
  });

  it('answers 500 without a detail and logs the stack', async () => {
    const error = await refused('/api/v1/fault/bug', { headers: { 'x-request-id': 'the-bug' } }, 500);
    expect(error).toMatchObject({ code: 'INTERNAL_ERROR', message: 'something went wrong on our side' });
    expect(lines.find((line) => line.request_id === 'the-bug' && line.msg === 'the request failed')).toMatchObject({
      level: 'error',
      err: { stack: expect.stringContaining('shell.ts') },
    });
  });
});

describe('the request itself', () => {
  it.each(['', 'with space', 'x'.repeat(129), '<script>', '-leading'])('replaces the request id %.20j', async (id) => {
    const response = await app.request(PARCELS, { headers: { 'x-request-id': id } });
    expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('echoes a good request id, on errors too', async () => {
    for (const path of [PARCELS, '/nowhere', '/api/v1/fault/bug', '/api/v1/parcels/%00']) {
      const response = await app.request(path, { headers: { 'x-request-id': 'Good.id_1:2' } });
      expect([response.headers.get('x-request-id'), (await envelopeOf(response)).meta.request_id]).toEqual([
        'Good.id_1:2',
        'Good.id_1:2',
      ]);
    }
  });

  it('keeps a good traceparent and replaces any other', async () => {
    const good = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    const sent = async (traceparent: string) =>
      (
        (await envelopeOf(await app.request('/api/v1/parcels/1', { headers: { traceparent } }))).data as {
          context: { traceparent: string };
        }
      ).context.traceparent;
    expect(await sent(good)).toBe(good);
    for (const bad of [
      '',
      'x',
      good.toUpperCase(),
      good.replace('4bf92f3577b34da6a3ce929d0e0e4736', '0'.repeat(32)),
      `${good}-more`,
      `ff${good.slice(2)}`,
    ]) {
      const made = await sent(bad);
      expect(made).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
      expect(made).not.toBe(good);
    }
  });

  it('writes one line per request, without the query', async () => {
    await app.request(`${PARCELS}?page=1&token=hush`, { headers: { 'x-request-id': 'one-line' } });
    const found = lines.filter((line) => line.request_id === 'one-line');
    expect(found).toEqual([
      expect.objectContaining({ level: 'info', method: 'GET', path: PARCELS, status: 200, msg: 'request' }),
    ]);
    expect(JSON.stringify(found)).not.toContain('hush');
    await app.request('/api/v1/parcels/ada@example.com', { headers: { 'x-request-id': 'scrubbed' } });
    expect(lines.find((line) => line.request_id === 'scrubbed')).toMatchObject({
      path: expect.stringContaining('[email]'),
    });
  });
});

describe('authentication', () => {
  const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });

  it('answers 401 with WWW-Authenticate without a token, and with one that does not count', async () => {
    for (const init of [{}, as('nobody'), { headers: { authorization: 'Basic YTpi' } }, as('two words')]) {
      const { code, response } = await refused('/api/v1/mine', init, 401);
      expect([code, response.headers.get('www-authenticate')]).toEqual(['UNAUTHORIZED', 'Bearer']);
    }
  });

  it('checks who it is before it looks at anything else', async () => {
    await refused('/api/v1/ours', {}, 401);
    expect(await refused('/api/v1/ours', as('ada'), 403)).toMatchObject({
      code: 'FORBIDDEN',
      message: 'this needs the role admin or operator',
    });
    expect((await app.request('/api/v1/ours', as('root'))).status).toBe(200);
  });

  it('makes the user the actor', async () => {
    const { data } = await envelopeOf(await app.request('/api/v1/mine', as('ada')));
    expect(data).toEqual({ ...SESSIONS.ada, actor: { type: 'user', id: SESSIONS.ada?.userId, role: 'user' } });
  });

  it('ignores a bad token on a public route, and a check that cannot tell', async () => {
    for (const token of ['nobody', 'broken']) expect((await app.request(PARCELS, as(token))).status).toBe(200);
    await refused('/api/v1/mine', as('broken'), 503);
  });
});

describe('CORS', () => {
  it('is off by default', async () => {
    const response = await app.request(PARCELS, { headers: { origin: 'https://app.example' } });
    expect(response.headers.get('access-control-allow-origin')).toBeNull();
  });

  it('lets the configured origins in and no other', async () => {
    const { app: open } = parcelApp({}, { corsOrigins: ['https://app.example'] });
    const preflight = (origin: string) =>
      open.request(PARCELS, {
        method: 'OPTIONS',
        headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type' },
      });
    expect((await preflight('https://app.example')).headers.get('access-control-allow-origin')).toBe(
      'https://app.example',
    );
    expect((await preflight('https://evil.example')).headers.get('access-control-allow-origin')).toBeNull();
    const failure = await open.request('/api/v1/fault/bug', { headers: { origin: 'https://app.example' } });
    expect(failure.headers.get('access-control-allow-origin')).toBe('https://app.example');
  });
});

describe('a reserved request id', () => {
  it('is not taken from a client', async () => {
    const { app: guarded } = parcelApp({ reserved: (id) => id === 'op-1' });
    const idFor = async (id: string) =>
      (await guarded.request(PARCELS, { headers: { 'x-request-id': id } })).headers.get('x-request-id');
    expect(await idFor('mine-1')).toBe('mine-1');
    expect(await idFor('op-1')).not.toBe('op-1');
  });
});
