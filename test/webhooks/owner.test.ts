import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { newId } from '../../src/domain/ids.ts';
import type { Actor } from '../../src/domain/messages/envelope.ts';
import { createEndpoint } from '../../src/webhooks/endpoints.ts';
import { disableAndTell } from '../../src/webhooks/owner.ts';
import { type EndpointBench, openEndpointBench } from './endpoint-bench.ts';

let bench: EndpointBench;
beforeAll(async () => {
  bench = await openEndpointBench();
});
afterAll(() => bench.close());

async function user(name: string, more: { role?: string; active?: boolean } = {}): Promise<string> {
  const id = newId();
  await bench.query(sql`
    insert into users (id, email, full_name, role, is_active)
    values (${id}, ${`${name}@example.com`}, ${name}, ${more.role ?? 'user'}, ${more.active ?? true})`);
  return id;
}

async function key(createdBy: string): Promise<string> {
  const id = newId();
  await bench.query(sql`
    insert into api_keys (id, tenant, name, prefix, key_hash, scopes, created_by)
    values (${id}, 'default', 'k', 'wb_', ${Buffer.from(id)}, '{}', ${createdBy})`);
  return id;
}

/** Who is told when an endpoint that `actor` made is disabled. */
async function told(actor: Actor, metadata: Record<string, string> = {}): Promise<string[]> {
  const url = `https://example.com/${newId()}`;
  const { id } = await bench.transact({ ...bench.context, actor }, (unit) =>
    createEndpoint(unit, { tenant: 'default', endpoint: { url, metadata } }, bench.deps),
  );
  await bench.query(sql`delete from emails`);
  const disable = () =>
    bench.transact(bench.context, (unit) =>
      disableAndTell(unit, id, { reason: 'it answered 410 Gone', why: 'it answered 410 Gone' }, bench.keyring),
    );
  expect([await disable(), await disable()]).toEqual([true, false]);
  const mails = await bench.query(sql<{ recipient: string; template: string }>`select recipient, template from emails`);
  expect(mails.every(({ template }) => template === 'endpoint-disabled')).toBe(true);
  return mails.map(({ recipient }) => recipient).toSorted();
}

it('the owner of a disabled endpoint is told once: who is named, else who made it, else the administrators', async () => {
  const maker = await user('maker');
  const gone = await user('gone', { active: false });
  const asUser = (id: string): Actor => ({ type: 'user', id, role: 'admin' });
  expect(await told({ type: 'system', id: null })).toEqual([]);
  await user('first', { role: 'admin' });
  await user('second', { role: 'admin' });
  const admins = ['first@example.com', 'second@example.com'];
  expect(await told(asUser(maker))).toEqual(['maker@example.com']);
  expect(await told(asUser(maker), { owner_email: 'ops@example.com' })).toEqual(['ops@example.com']);
  expect(await told(asUser(maker), { owner_email: 'nobody' })).toEqual(['maker@example.com']);
  expect(await told({ type: 'api_key', id: await key(`user:${maker}`) })).toEqual(['maker@example.com']);
  expect(await told({ type: 'api_key', id: newId() })).toEqual(admins);
  expect(await told({ type: 'api_key', id: await key(`user:${gone}`) })).toEqual(admins);
  expect(await told(asUser(gone))).toEqual(admins);
  expect(await told(asUser('not-a-uuid'))).toEqual(admins);
});
