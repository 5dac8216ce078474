import { connect } from 'node:net';
import { exportSPKI, generateKeyPair, type JWTPayload, SignJWT } from 'jose';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PERMISSIONS } from '../../src/api/permissions.ts';
import { createHttpServer, type HttpServer } from '../../src/api/server.ts';
import { composeApi } from '../../src/cli/http.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { createIdentity, type Identity } from '../../src/domain/sessions/identity.ts';
import { createHarness, type Harness } from '../harness.ts';

const ORIGIN = 'https://app.example';

let h: Harness;
let identity: Identity;
let operationIds: OperationIds;
let server: HttpServer;
let base: string;
beforeAll(async () => {
  h = await createHarness({
    COMMAND_WAIT_MS: '1',
    CORS_ORIGINS: ORIGIN,
    RATE_LIMITS: 'register=20/60,login=100000/60,user=100000/60,admin=100000/60',
  });
  identity = createIdentity(h);
  operationIds = new OperationIds(h.keyring.for('operation-id').current().key);
  const app = composeApi({ ...h, identity, operationIds }, { stopping: false });
  server = createHttpServer({ fetch: app.fetch as never, port: 0, hostname: '127.0.0.1', log: h.log });
  await server.start();
  base = server.address().url;
});
afterAll(async () => {
  await server?.stop(2000);
  await h?.close();
});

const query = async <T>(statement: ReturnType<typeof sql<T>>) =>
  (await statement.execute(h.database.em.fork().getKysely())).rows;

interface Someone {
  id: string;
  sessionId: string;
  token: string;
}

async function someone(role: 'user' | 'admin' = 'user'): Promise<Someone> {
  const [id, sessionId] = [newId(), newId()];
  await query(sql`insert into users (id, email, full_name, role, is_verified)
    values (${id}, ${`${id}@example.org`}, 'Some Body', ${role}, true)`);
  await query(sql`insert into sessions (id, user_id, family_hash, current_hash, expires_at, idle_expires_at)
    values (${sessionId}, ${id}, sha256(${sessionId}::bytea), sha256(${id}::bytea), now() + interval '1 day', now() + interval '1 day')`);
  return { id, sessionId, token: await identity.accessTokens.issue({ userId: id, sessionId, role }) };
}

interface Ask {
  method?: string;
  json?: unknown;
  raw?: string | ReadableStream<Uint8Array>;
  token?: string;
  headers?: Record<string, string>;
}

async function ask(path: string, { method, json, raw, token, headers }: Ask = {}) {
  const body = raw ?? (json === undefined ? undefined : JSON.stringify(json));
  const answer = await fetch(`${base}/api/v1${path}`, {
    method: method ?? (body === undefined ? 'GET' : 'POST'),
    headers: {
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(token ? { authorization: `Bearer ${token}` } : {}),
      // An event that is not there would be waited for.
      ...(path.startsWith('/events/') && body === undefined ? { prefer: 'wait=0' } : {}),
      ...headers,
    },
    ...(body === undefined ? {} : { body, duplex: 'half' }),
  } as RequestInit);
  const text = await answer.text();
  // biome-ignore lint/suspicious/noExplicitAny: the shape of an answer is what the tests are about
  let parsed: any;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  return { status: answer.status, headers: answer.headers, text, body: parsed };
}

const b64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

describe('access tokens', () => {
  let victim: Someone;
  beforeAll(async () => {
    victim = await someone('admin');
  });

  const me = async (token: string) => (await ask('/users/me', { token })).status;
  const claims = (more: { [claim: string]: unknown } = {}): JWTPayload => {
    const now = Math.floor(Date.now() / 1000);
    const { issuer, audience } = h.config.jwt;
    return {
      iss: issuer,
      aud: audience,
      sub: victim.id,
      sid: victim.sessionId,
      iat: now,
      exp: now + 900,
      jti: newId(),
      ...more,
    };
  };
  const ours = async (header: object = {}, more: { [claim: string]: unknown } = {}) => {
    const { kid, key } = await identity.signingKeys.current();
    return new SignJWT(claims(more)).setProtectedHeader({ alg: 'Ed25519', typ: 'at+jwt', kid, ...header }).sign(key);
  };

  test('that this platform signed are taken: the others below differ from it in one thing', async () => {
    expect(await me(victim.token)).toBe(200);
    expect(await me(await ours())).toBe(200);
  });

  test('without a signature are not', async () => {
    const { kid } = await identity.signingKeys.current();
    for (const alg of ['none', 'None', 'NONE', 'nOnE', '']) {
      const unsigned = `${b64({ alg, typ: 'at+jwt', kid })}.${b64(claims())}`;
      for (const token of [`${unsigned}.`, unsigned, `${unsigned}.AA`]) expect(await me(token)).toBe(401);
    }
    const [head, body] = victim.token.split('.');
    expect(await me(`${head}.${body}.`)).toBe(401);
    const { sub: _, ...rest } = claims();
    const stranger = await someone();
    expect(await me(`${head}.${b64({ ...rest, sub: stranger.id })}.${victim.token.split('.')[2]}`)).toBe(401);
  });

  test('signed with our public key as a shared secret are not', async () => {
    const { kid } = await identity.signingKeys.current();
    const key = await identity.signingKeys.publicKey(kid);
    const { keys } = (await (await fetch(`${base}/.well-known/jwks.json`)).json()) as { keys: { x: string }[] };
    const spki = key ? await exportSPKI(key) : '';
    const secrets = [spki, spki.trim(), JSON.stringify(keys[0]), JSON.stringify({ keys }), keys[0]?.x ?? ''].map(
      (text) => Buffer.from(text),
    );
    secrets.push(Buffer.from(keys[0]?.x ?? '', 'base64url'));
    for (const secret of secrets) {
      for (const alg of ['HS256', 'HS384', 'HS512']) {
        const token = await new SignJWT(claims()).setProtectedHeader({ alg, typ: 'at+jwt', kid }).sign(secret);
        expect(await me(token)).toBe(401);
      }
    }
  });

  test.each(['RS256', 'PS256', 'ES256', 'Ed25519'])(
    'signed by a stranger with %s are not, whatever the header says of the key',
    async (alg) => {
      const { kid } = await identity.signingKeys.current();
      const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
      const jwk = JSON.parse(JSON.stringify(await crypto.subtle.exportKey('jwk', publicKey)));
      for (const more of [{}, { jwk }, { jku: 'https://evil.example/jwks.json' }, { x5u: 'https://evil.example/x' }]) {
        const token = await new SignJWT(claims())
          .setProtectedHeader({ alg, typ: 'at+jwt', kid, ...more })
          .sign(privateKey);
        expect(await me(token)).toBe(401);
      }
    },
  );

  test('for another audience, from another issuer, of another type or time are not', async () => {
    const now = Math.floor(Date.now() / 1000);
    for (const token of [
      await ours({}, { aud: 'others' }),
      await ours({}, { aud: [] }),
      await ours({}, { iss: 'https://evil.example' }),
      await ours({}, { iss: `${h.config.jwt.issuer}/` }),
      await ours({ typ: 'JWT' }),
      await ours({ typ: 'refresh+jwt' }),
      await ours({ typ: undefined }),
      await ours({}, { exp: now - 1 }),
      await ours({}, { exp: undefined }),
      await ours({}, { nbf: now + 600 }),
      await ours({}, { sid: newId() }),
      await ours({}, { sub: (await someone()).id }),
      await ours({}, { sub: "' or 1=1 --" }),
    ])
      expect(await me(token)).toBe(401);
  });

  test('with a key id that is a path, a query or nobody’s are not', async () => {
    const { key } = await identity.signingKeys.current();
    for (const kid of [
      '../../../../dev/null',
      "' or '1'='1",
      "x'; drop table users; --",
      'unknown',
      '',
      '\u0000',
      'x'.repeat(4000),
    ]) {
      const token = await new SignJWT(claims()).setProtectedHeader({ alg: 'Ed25519', typ: 'at+jwt', kid }).sign(key);
      expect(await me(token)).toBe(401);
    }
    expect(await me(await ours({ kid: undefined }))).toBe(401);
    expect(await me(await ours({ kid: 7 }))).toBe(401);
  });

  test('are not what refreshes, nor a refresh token what is sent along', async () => {
    expect((await ask('/auth/refresh', { json: { refresh_token: victim.token } })).status).toBe(400);
    expect((await ask('/auth/refresh', { json: { refresh_token: victim.token.slice(0, 250) } })).status).toBe(401);
    for (const token of [
      `wbr_${'A'.repeat(43)}`,
      `wb_${'a'.repeat(40)}`,
      'x',
      'a.b.c',
      '.',
      '..',
      `${victim.token}x`,
    ]) {
      expect(await me(token)).toBe(401);
    }
  });

  test('are not taken from the query, a cookie or another scheme', async () => {
    expect((await ask(`/users/me?access_token=${victim.token}`)).status).toBe(401);
    expect((await ask('/users/me', { headers: { cookie: `access_token=${victim.token}` } })).status).toBe(401);
    expect((await ask('/users/me', { headers: { authorization: `Basic ${victim.token}` } })).status).toBe(401);
    expect((await ask('/users/me', { headers: { authorization: victim.token } })).status).toBe(401);
  });
});

test('nobody gives themselves what only others may give', async () => {
  const user = await someone();
  const admin = await someone('admin');
  const before = await query(sql`select * from users where id = ${user.id}`);
  const good = { email: 'mass@example.org', password: 'a quiet harbour at dawn', full_name: 'M', terms_accepted: true };
  const extra: Record<string, unknown> = {
    role: 'admin',
    is_verified: true,
    is_active: true,
    kyc_status: 'verified',
    id: newId(),
    user_id: newId(),
    password_hash: 'x',
    version: 9,
    deleted_at: null,
    totp_secret: 'x',
    created_at: '2020-01-01T00:00:00Z',
  };
  for (const [field, value] of Object.entries(extra)) {
    const refused = { status: 400, body: { error: { code: 'VALIDATION_ERROR', field } } };
    expect(await ask('/auth/register', { json: { ...good, [field]: value } })).toMatchObject(refused);
    const put = { method: 'PUT', token: user.token, json: { full_name: 'M', [field]: value } };
    expect(await ask('/users/me', put)).toMatchObject(refused);
    const own = await ask(`/users/${user.id}`, put);
    expect([400, 403]).toContain(own.status);
    if (field === 'role') continue;
    const made = { token: admin.token, json: { email: good.email, full_name: 'M', [field]: value } };
    expect(await ask('/users', made)).toMatchObject(refused);
  }
  expect(await query(sql`select * from users where id = ${user.id}`)).toEqual(before);
  expect(await query(sql`select 1 from users where email = ${good.email}`)).toEqual([]);
});

test('no id of somebody else opens anything', async () => {
  const [owner, thief] = [await someone(), await someone()];
  const operation = operationIds.issue();
  await query(sql`insert into operations (id, type, status, caller, result, http_status, created_at, finished_at)
    values (${operation}, 'kyc.submit', 'succeeded', ${`user:${owner.id}`}, '{"secret":true}', 200, now(), now())`);
  const [attempt, email, event] = [newId(), newId(), newId()];
  await query(
    sql`insert into kyc_attempts (id, user_id, status, provider) values (${attempt}, ${owner.id}, 'processing', 'manual')`,
  );
  await query(sql`insert into emails (id, user_id, recipient, template, subject, message_id)
    values (${email}, ${owner.id}, 'owner@example.org', 'verify-email', 'x', 'x')`);
  await query(sql`insert into events (id, type, source, subject, payload, time)
    values (${event}, 'user.created', 'waybill', ${owner.id}, '{"type":"user.created","data":{}}', now())`);
  const ids = [owner.id, owner.id.toUpperCase(), owner.sessionId, operation, attempt, email, event];
  const state = () =>
    query(sql`select u.*, (select count(*) from sessions s where s.user_id = u.id and revoked_at is null) as open,
      (select status from kyc_attempts where id = ${attempt}) as kyc from users u where id = ${owner.id}`);
  const before = await state();

  const bodies: Record<string, unknown> = {
    'PUT /api/v1/users/{id}': { full_name: 'Thief' },
    'PUT /api/v1/admin/users/{id}': { full_name: 'Thief' },
  };
  const routes = PERMISSIONS.filter(({ route }) => /\{id\}|:id/.test(route)).map(({ route }) => route);
  expect(routes.length).toBeGreaterThan(20);
  for (const route of routes) {
    const [method = '', pattern = ''] = route.split(' ');
    for (const id of ids) {
      const path = pattern.replace('/api/v1', '').replace(/\{id\}|:id/, id);
      const json = bodies[route] ?? (['PUT', 'PATCH', 'POST'].includes(method) ? {} : undefined);
      for (const token of [thief.token, undefined]) {
        const answer = await ask(path, { method, ...(json ? { json } : {}), ...(token ? { token } : {}) });
        expect([400, 401, 403, 404], `${route} with ${id}`).toContain(answer.status);
        expect(answer.text).not.toContain('secret');
      }
    }
  }
  expect(await state()).toEqual(before);
  expect((await ask(`/operations/${operation}`, { token: owner.token })).status).toBe(200);
});

describe('headers', () => {
  test('cannot be written through a name', async () => {
    const { id, token } = await someone();
    for (const full_name of ['X\r\nBcc: eve@example.org', 'X\nSubject: hi', 'X\u0000', 'X\u0085Y', 'X\u001bY']) {
      const json = { email: 'h@example.org', password: 'a quiet harbour at dawn', full_name, terms_accepted: true };
      expect(await ask('/auth/register', { json })).toMatchObject({
        status: 400,
        body: { error: { field: 'full_name' } },
      });
      expect(await ask('/users/me', { method: 'PUT', json: { full_name }, token })).toMatchObject({ status: 400 });
    }
    for (const email of ['a@example.org\r\nBcc: eve@example.org', 'a@example.org,b@example.org', '"a b"@example.org\n'])
      expect((await ask('/auth/forgot-password', { json: { email } })).status).toBe(400);
    expect((await query(sql`select full_name from users where id = ${id}`))[0]).toEqual({ full_name: 'Some Body' });
  });

  /** What comes back for bytes that no proper client would send. */
  const raw = (lines: string) =>
    new Promise<string>((resolve, reject) => {
      const { port } = server.address();
      let answer = '';
      const socket = connect(port, '127.0.0.1', () => socket.write(Buffer.from(lines, 'latin1')));
      socket.on('data', (data) => {
        answer += data.toString('latin1');
      });
      socket.on('end', () => resolve(answer));
      socket.on('error', reject);
    });

  test('cannot be written through a request id, and none goes to the log unchecked', async () => {
    const bad = [
      'a b',
      'a\tb',
      '<script>',
      'a%0d%0aSet-Cookie: x=1',
      'é',
      "a'b",
      'x'.repeat(129),
      '{"a":1}',
      '\u0024{jndi:x}',
    ];
    for (const id of bad) {
      const answer = await raw(
        `GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\nX-Request-Id: ${id}\r\nConnection: close\r\n\r\n`,
      );
      expect(answer).toMatch(/^HTTP\/1\.1 401/);
      expect(answer).not.toContain(id);
      expect(answer).toMatch(/x-request-id: [0-9a-f-]{36}\r\n/i);
    }
    const folded =
      'GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\rSet-Cookie: x=1\r\nConnection: close\r\n\r\n';
    const answer = await raw(folded);
    expect(answer).toMatch(/^HTTP\/1\.1 400/);
    expect(answer.toLowerCase()).not.toContain('set-cookie');
    expect(h.logged.join('')).not.toMatch(/<script>|jndi|Set-Cookie/);
    expect((await ask('/users/me', { headers: { 'x-request-id': 'good-1' } })).headers.get('x-request-id')).toBe(
      'good-1',
    );
  });

  test('two lengths, or a length and chunks, are refused rather than guessed at', async () => {
    const smuggled = 'POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n';
    for (const lengths of [
      'Content-Length: 5\r\nContent-Length: 6\r\n',
      'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n',
    ])
      expect(await raw(`${smuggled}${lengths}\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n`)).toMatch(
        /^HTTP\/1\.1 400/,
      );
  });

  test('are not sent back by TRACE', async () => {
    const answer = await raw(
      'TRACE /api/v1/users/me HTTP/1.1\r\nHost: x\r\nX-Secret: hidden-7\r\nConnection: close\r\n\r\n',
    );
    expect(answer).toMatch(/^HTTP\/1\.1 405/);
    expect(answer).not.toContain('hidden-7');
  });

  test('do not say where a request comes from, nor what its method is', async () => {
    const { id, token } = await someone();
    const headers = {
      'x-forwarded-for': '203.0.113.9',
      'x-real-ip': '203.0.113.9',
      forwarded: 'for=203.0.113.9',
      'cf-connecting-ip': '203.0.113.9',
      'x-http-method-override': 'DELETE',
      'x-original-url': '/api/v1/admin/users',
    };
    expect((await ask('/users/me', { token, headers })).body.data.user_id).toBe(id);
    await ask('/users/me', { method: 'PUT', json: { full_name: 'Where From' }, token, headers });
    const [row] = await query(
      sql<{
        body: string;
      }>`select body from outbox where target = 'audit' and body like ${`%${id}%`} order by id desc limit 1`,
    );
    expect(JSON.parse(row?.body ?? '{}').data.context.ip).toBe('127.0.0.1');
  });
});

const HOSTILE = [
  "' or 1=1 --",
  "'; select pg_sleep(10) --",
  '1) or pg_sleep(10) is null --',
  '\\',
  '"',
  '%',
  '$1',
  '\u0024{7*7}',
  '{{7*7}}',
  '../../etc/passwd',
  '\r\nSet-Cookie: x=1',
  '-1',
  '0',
  '1e308',
  'NaN',
  '99999999999999999999',
  'null',
  '[object Object]',
  '{"$gt":""}',
  '0000-01-01T00:00:00Z',
  '9999-12-31T23:59:59-23:59',
  'infinity',
  'now()',
  '𝕏'.repeat(200),
  'x'.repeat(3000),
].map(encodeURIComponent);
/** U+0000, half a surrogate pair, an overlong slash, a cut sequence, a lone percent sign. */
const UNREADABLE = ['%00', 'a%00b', '%ED%A0%80', '%C0%AF', '%E2%82', '%', '%zz'];

interface Operation {
  parameters?: { in: string; name: string }[];
}

describe('every filter of every list', () => {
  test('takes what is hostile as a value, or refuses it', async () => {
    const { token } = await someone('admin');
    const document = (await (await fetch(`${base}/openapi.json`)).json()) as {
      paths: Record<string, { get?: Operation }>;
    };
    let asked = 0;
    for (const [path, { get }] of Object.entries(document.paths)) {
      if (!get || !path.startsWith('/api/v1')) continue;
      const at = path.replace('/api/v1', '').replace(/\{\w+\}/g, newId());
      for (const { name } of (get.parameters ?? []).filter((parameter) => parameter.in === 'query')) {
        const ask1 = async (search: string, statuses?: number[]) => {
          const began = performance.now();
          const answer = await ask(`${at}?${search}`, { token });
          asked += 1;
          const what = `GET ${at}?${search}`;
          expect(performance.now() - began, what).toBeLessThan(9500); // pg_sleep(10)
          expect(answer.status, what).toBeLessThan(500);
          if (statuses) expect(statuses, what).toContain(answer.status);
          expect(answer.headers.get('set-cookie')).toBeNull();
          expect(answer.text).not.toMatch(/syntax error|pg_sleep|kysely|at file:|node_modules/i);
        };
        for (const value of HOSTILE) await ask1(`${name}=${value}`);
        for (const value of UNREADABLE) await ask1(`${name}=${value}`, [400]);
        for (const search of [`${name}=1&${name}=2`, `${name}[]=1`, `${name}[__proto__]=1`, `__proto__[${name}]=1`])
          await ask1(search);
      }
    }
    expect(asked).toBeGreaterThan(500);
  }, 180_000);

  test('and every id in a path', async () => {
    const { token } = await someone('admin');
    for (const { route } of PERMISSIONS.filter(({ route }) => /^GET .*[{:]/.test(route))) {
      const pattern = route.replace('GET /api/v1', '');
      for (const value of [...HOSTILE, ...UNREADABLE]) {
        const answer = await ask(pattern.replace(/\{\w+\}|:\w+/, value), { token });
        expect(answer.status, `${route} with ${value}`).toBeLessThan(500);
        expect(answer.text).not.toMatch(/syntax error|kysely|node_modules/i);
      }
    }
    expect(await query(sql`select 1 from users limit 1`)).toHaveLength(1);
  }, 120_000);
});

test('a body of 10 MB is refused, with and without a length, before it is read', async () => {
  const { token } = await someone();
  const text = JSON.stringify({ email: 'x'.repeat(10 * 1024 * 1024) });
  const stream = () => {
    const piece = new TextEncoder().encode('x'.repeat(64 * 1024));
    let left = 160;
    return new ReadableStream<Uint8Array>({
      pull(controller) {
        if (left-- > 0) controller.enqueue(piece);
        else controller.close();
      },
    });
  };
  for (const path of ['/auth/login', '/auth/register', '/auth/mfa/enable']) {
    expect((await ask(path, { raw: text, token })).status).toBe(413);
    // The connection is closed on a client that goes on sending; what it sees of it is its own business.
    const streamed = await ask(path, { raw: stream(), token }).catch(() => ({ status: 413 }));
    expect(streamed.status).toBe(413);
  }
  expect((await ask('/users/me', { token })).status).toBe(200);
});

test('no body changes what every object has', async () => {
  const { token } = await someone('admin');
  const good = '"email":"p@example.org","password":"a quiet harbour at dawn","full_name":"P","terms_accepted":true';
  for (const [path, raw, method] of [
    ['/auth/register', `{"__proto__":{"polluted":1},${good}}`, 'POST'],
    ['/auth/register', `{"constructor":{"prototype":{"polluted":1}},${good}}`, 'POST'],
    ['/auth/login', '{"email":"p@example.org","password":"x","__proto__":{"polluted":1,"role":"admin"}}', 'POST'],
    ['/users/me', '{"full_name":"P","__proto__":{"polluted":1}}', 'PUT'],
    ['/users', '{"email":"p@example.org","full_name":"P","__proto__":{"role":"admin","polluted":1}}', 'POST'],
    ['/users/me', '{"__proto__":{"full_name":"polluted"}}', 'PUT'],
  ] as const) {
    const answer = await ask(path, { raw, method, token });
    expect([400, 401], `${path} ${raw}`).toContain(answer.status);
  }
  const event =
    '{"type":"payment.succeeded","data":{"payment_id":"p","amount":1,"currency":"EUR","__proto__":{"polluted":1}}}';
  expect((await ask('/events', { raw: event, token })).status).toBeLessThan(500);
  await ask('/users?__proto__[polluted]=1&constructor.prototype.polluted=1', { token });
  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  expect(([] as unknown as Record<string, unknown>).polluted).toBeUndefined();
});

describe('other origins', () => {
  test('get nothing but what is named', async () => {
    const from = (origin: string) => ask('/users/me', { headers: { origin } });
    expect((await from(ORIGIN)).headers.get('access-control-allow-origin')).toBe(ORIGIN);
    for (const origin of [
      'https://evil.example',
      'null',
      `${ORIGIN}.evil.example`,
      'https://sub.app.example',
      'http://app.example',
      `${ORIGIN}:8443`,
    ]) {
      expect((await from(origin)).headers.get('access-control-allow-origin')).toBeNull();
      const preflight = await ask('/users/me', {
        method: 'OPTIONS',
        headers: { origin, 'access-control-request-method': 'PUT', 'access-control-request-headers': 'authorization' },
      });
      expect(preflight.headers.get('access-control-allow-origin')).toBeNull();
    }
    expect((await from(ORIGIN)).headers.get('access-control-allow-credentials')).toBeNull();
    expect((await from(ORIGIN)).headers.get('vary')?.toLowerCase()).toContain('origin');
  });
});

// The last one: it uses up what this address may ask for.
test('an address that a client claims to have does not widen a limit', async () => {
  const tries = [];
  for (let i = 0; i < 40; i += 1) {
    const spoofed = { 'x-forwarded-for': `198.51.100.${i}`, 'x-real-ip': `198.51.100.${i}` };
    tries.push((await ask('/auth/register', { json: {}, headers: spoofed })).status);
  }
  expect(tries.at(-1)).toBe(429);
});
