import { createRoute } from '@hono/zod-openapi';
import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/app.ts';
import { forRoles, forScope, forUsers, forUsersOr } from '../../src/api/middleware/authenticate.ts';
import { ok } from '../../src/api/respond.ts';
import { createRouter } from '../../src/api/router.ts';
import { tenantOf } from '../../src/api/tenant.ts';
import type { MachineClient } from '../../src/domain/api-keys/scopes.ts';
import { listening, namespace, SESSIONS } from './shell.ts';

const KEYS: Record<string, MachineClient> = {
  wb_writer: { keyId: 'k-1', tenant: 'acme', scopes: ['webhooks:write'] },
  wb_reader: { keyId: 'k-2', tenant: 'acme', scopes: ['webhooks:read', 'users:read'] },
};

const router = createRouter();
for (const [path, middleware] of [
  ['/open', []],
  ['/users', forUsers()],
  ['/admins', forRoles('admin')],
  ['/scoped', forScope('webhooks:write')],
  ['/staffed', forScope('webhooks:write', 'admin', 'user')],
  ['/own', forUsersOr('users:read')],
  ['/callers', forUsersOr('any')],
] as const) {
  const responses = { 200: { description: 'fine' } };
  router.openapi(createRoute({ method: 'get', path, middleware: [...middleware], responses }), (c) =>
    ok(c, { actor: c.get('context').actor, tenant: tenantOf(c, c.req.query('tenant')) }),
  );
}
const { log, lines } = listening();
const app = createApp(
  {
    config: {
      corsOrigins: [],
      trustedProxies: [],
      rateLimits: 'off',
      namespace: namespace(),
      publicUrl: 'http://localhost',
    },
    log,
    authenticate: async (token) => SESSIONS[token],
    authenticateKey: async (key) => {
      if (key === 'wb_broken') throw Object.assign(new Error('the database is away'), { code: 'ECONNREFUSED' });
      return KEYS[key];
    },
  },
  { api: [router] },
);
const get = async (path: string, token?: string) => {
  const answer = await app.request(`/api/v1${path}`, { headers: token ? { authorization: `Bearer ${token}` } : {} });
  const body = (await answer.json()) as {
    data: { actor: unknown; tenant: string };
    error: { code: string; message: string };
  };
  return { ...body, status: answer.status };
};

it.each([
  ['/open', [200, 200, 200, 200, 200, 200]],
  ['/users', [401, 200, 200, 403, 403, 401]],
  ['/admins', [401, 403, 200, 403, 403, 401]],
  ['/scoped', [401, 403, 200, 200, 403, 401]],
  ['/staffed', [401, 200, 200, 200, 403, 401]],
  ['/own', [401, 200, 200, 403, 200, 401]],
  ['/callers', [401, 200, 200, 200, 200, 401]],
])('%s lets in nobody, a user, an admin, a writer, a reader and an unknown key: %j', async (path, expected) => {
  const callers = [undefined, 'ada', 'root', 'wb_writer', 'wb_reader', 'wb_unknown'];
  const seen = [];
  for (const token of callers) seen.push((await get(path, token)).status);
  expect(seen).toEqual(expected);
});

describe('an API key', () => {
  it('is the actor of what it does, in its tenant', async () => {
    expect((await get('/scoped', 'wb_writer')).data).toEqual({ actor: { type: 'api_key', id: 'k-1' }, tenant: 'acme' });
    expect((await get('/scoped?tenant=acme', 'wb_writer')).data.tenant).toBe('acme');
    expect((await get('/scoped?tenant=other', 'wb_writer')).status).toBe(403);
    expect((await get('/scoped?tenant=other', 'root')).data.tenant).toBe('other');
    expect((await get('/scoped', 'root')).data.tenant).toBe('default');
  });

  it('is told what it lacks', async () => {
    expect((await get('/scoped', 'wb_reader')).error.message).toBe('this needs the scope webhooks:write');
    expect((await get('/users', 'wb_reader')).error.message).toBe('this is not for API keys');
    expect((await get('/scoped', 'ada')).error.message).toBe('this needs the role admin');
    expect((await get('/scoped', 'wb_unknown')).error.message).toBe(
      'the API key is not valid, has expired or was revoked',
    );
  });

  it('that cannot be checked now is a 503 where it is needed, and nothing elsewhere', async () => {
    expect((await get('/open', 'wb_broken')).data.actor).toEqual({ type: 'anonymous', id: null });
    expect((await get('/scoped', 'wb_broken')).status).toBe(503);
    expect(JSON.stringify(lines)).not.toContain('wb_broken');
  });

  it('does not exist where nobody knows keys', async () => {
    const config = {
      corsOrigins: [],
      trustedProxies: [],
      rateLimits: 'off' as const,
      namespace: namespace(),
      publicUrl: '',
    };
    const bare = createApp({ config, log, authenticate: async () => SESSIONS.root }, { api: [router] });
    const answer = await bare.request('/api/v1/users', { headers: { authorization: 'Bearer wb_writer' } });
    expect(answer.status).toBe(401);
  });
});
