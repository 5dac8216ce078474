import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PERMISSIONS, type Permission } from '../../src/api/permissions.ts';
import type { ApiRouter } from '../../src/api/router.ts';
import { composeApi } from '../../src/cli/http.ts';
import { createApiKey } from '../../src/domain/api-keys/api-keys.ts';
import { SCOPES, type Scope } from '../../src/domain/api-keys/scopes.ts';
import { newId, OperationIds } from '../../src/domain/ids.ts';
import { SYSTEM } from '../../src/domain/messages/envelope.ts';
import { createIdentity, type Identity } from '../../src/domain/sessions/identity.ts';
import { ROLES, type Role } from '../../src/domain/users/entities.ts';
import { cancelKycWorker } from '../../src/workers/cancel-kyc.ts';
import { createHarness, type Harness } from '../harness.ts';

let h: Harness;
let app: ApiRouter;
let identity: Identity;
const keys = new Map<string, string>();

beforeAll(async () => {
  // No worker runs; the cancelling of a check is the one command that needs no body.
  h = await createHarness({ COMMAND_WAIT_MS: '1' }, [cancelKycWorker()]);
  identity = createIdentity(h);
  const operationIds = new OperationIds(h.keyring.for('operation-id').current().key);
  app = composeApi({ ...h, identity, operationIds }, { stopping: false });
  const keyWith = async (...scopes: Scope[]) => {
    const input = { name: 'matrix', tenant: 'default', scopes };
    const context = { requestId: 'r', correlationId: 'r', actor: SYSTEM };
    return (await h.messaging.transact(context, (unit) => createApiKey(unit, input))).key;
  };
  for (const scope of SCOPES) {
    keys.set(scope, await keyWith(scope));
    keys.set(`all but ${scope}`, await keyWith(...SCOPES.filter((other) => other !== scope)));
  }
});
afterAll(() => h.close());

/** A user of their own for every call, so that none is signed out or deleted by another. */
async function userOf(role: Role): Promise<{ id: string; token: string }> {
  const [id, sessionId] = [newId(), newId()];
  const db = h.database.em.fork().getKysely();
  await sql`insert into users (id, email, full_name, role, is_verified) values (${id}, ${`${id}@example.org`}, 'M', ${role}, true)`.execute(
    db,
  );
  await sql`insert into sessions (id, user_id, family_hash, current_hash, expires_at, idle_expires_at)
    values (${sessionId}, ${id}, sha256(${sessionId}::bytea), sha256(${id}::bytea), now() + interval '1 day', now() + interval '1 day')`.execute(
    db,
  );
  return { id, token: await identity.accessTokens.issue({ userId: id, sessionId, role }) };
}

/** Every route that is mounted, in the spelling of the table. */
const mounted = (): string[] => {
  const routes = app.routes.filter(({ method }) => method !== 'ALL');
  return [...new Set(routes.map(({ method, path }) => `${method} ${path.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}')}`))];
};

/** What a caller may expect: refused with this status, or let in, whatever comes then. */
function verdict({ who, scope }: Permission, caller: { role?: Role; scopes?: readonly Scope[] }): 401 | 403 | 'in' {
  if (who === 'anyone') return 'in';
  if (caller.scopes) return who === 'caller' || (scope && caller.scopes.includes(scope)) ? 'in' : 403;
  if (!caller.role) return 401;
  return typeof who === 'string' || who.includes(caller.role) ? 'in' : 403;
}

async function call(route: string, id: string, token?: string): Promise<401 | 403 | 'in'> {
  const [method = '', pattern = ''] = route.split(' ');
  const path = pattern.replace(/\{\w+\}/g, id);
  // An event that is not there would be waited for.
  const headers = { prefer: 'wait=0', ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const answer = await app.request(path, { method, headers });
  await answer.text();
  expect(answer.status, `${route} must not fail`).not.toBe(500);
  return answer.status === 401 || answer.status === 403 ? answer.status : 'in';
}

const normal = (route: string) => route.replace(/:(\w+)/g, '{$1}');

it('the table has every mounted route, once, and no other', () => {
  const listed = PERMISSIONS.map(({ route }) => normal(route));
  expect(listed.filter((route, at) => listed.indexOf(route) !== at)).toEqual([]);
  expect(mounted().filter((route) => !listed.includes(route))).toEqual([]);
  expect(listed.filter((route) => !mounted().includes(route))).toEqual([]);
});

describe.each(PERMISSIONS.map((permission) => [permission.route, permission] as const))('%s', (route, permission) => {
  it('lets in whom the table says', async () => {
    const seen: Record<string, unknown> = { nobody: await call(route, newId()) };
    const expected: Record<string, unknown> = { nobody: verdict(permission, {}) };
    for (const role of ROLES) {
      const { id, token } = await userOf(role);
      seen[role] = await call(route, id, token);
      expected[role] = verdict(permission, { role });
    }
    const scope = permission.scope ?? 'events:read';
    for (const [name, key] of [scope, `all but ${scope}`].map((name) => [name, keys.get(name) ?? ''] as const)) {
      const scopes = name === scope ? [scope] : SCOPES.filter((other) => other !== scope);
      seen[`key: ${name}`] = await call(route, newId(), key);
      expected[`key: ${name}`] = verdict(permission, { scopes });
    }
    expect(seen).toEqual(expected);
  });
});
