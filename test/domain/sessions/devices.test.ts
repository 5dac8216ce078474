import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { networkOf } from '../../../src/domain/sessions/devices.ts';
import { signIn } from '../../../src/domain/sessions/signin.ts';
import { anonymously, openStage, PASSWORD, query, type Stage } from '../users/stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

const FIREFOX = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0';

test('the owner is mailed of a sign-in from a new device, never of the first', async () => {
  const { email } = await stage.user();
  const { keyring, messaging } = stage.harness;
  const deps = { em: stage.em(), transact: messaging.transact, keyring, ...stage.identity };
  const from = async (ip: string, userAgent: string) => {
    const before = (await stage.mails(email)).length;
    await signIn(deps, anonymously({ ip, userAgent }), { email, password: PASSWORD });
    const mails = await stage.mails(email);
    return mails.slice(0, mails.length - before).map(({ template }) => template);
  };
  expect(await from('192.0.2.7', FIREFOX)).toEqual([]);
  expect(await from('192.0.2.200', FIREFOX)).toEqual([]);
  expect(await from('192.0.3.7', FIREFOX)).toEqual(['new-sign-in']);
  expect(await from('192.0.3.8', FIREFOX)).toEqual([]);
  expect(await from('192.0.2.7', 'curl/8.0')).toEqual(['new-sign-in']);
  expect(await from('2001:db8:1::1', FIREFOX)).toEqual(['new-sign-in']);
  expect(await from('2001:db8:1:ffff::9', FIREFOX)).toEqual([]);
  expect(await from('2001:db8:2::1', FIREFOX)).toEqual(['new-sign-in']);
});

test('the mail says where from and with what, without an address that the client chose to write', async () => {
  const { id, email } = await stage.user();
  const { keyring, messaging } = stage.harness;
  const deps = { em: stage.em(), transact: messaging.transact, keyring, ...stage.identity };
  await signIn(deps, anonymously({ ip: '192.0.2.7' }), { email, password: PASSWORD });
  const userAgent = 'Call us at https://evil.example/now or www.evil.example';
  await signIn(deps, anonymously({ ip: '198.51.100.3', userAgent }), { email, password: PASSWORD });
  const [row] = await query(stage, sql<{ sealed_data: string }>`select sealed_data from emails where user_id = ${id}`);
  const data = JSON.parse(await keyring.open('email', row?.sealed_data ?? ''));
  expect(data).toMatchObject({ ip: '198.51.100.3', at: expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d UTC$/) });
  expect(data.user_agent).toContain('Call us at');
  expect(data.user_agent).not.toContain('evil');
});

test('a wrong password or a missing code mails nothing', async () => {
  const { email } = await stage.user();
  const { keyring, messaging } = stage.harness;
  const deps = { em: stage.em(), transact: messaging.transact, keyring, ...stage.identity };
  await signIn(deps, anonymously({ ip: '192.0.2.7' }), { email, password: PASSWORD });
  const attempt = signIn(deps, anonymously({ ip: '198.51.100.3' }), { email, password: 'wrong' });
  await expect(attempt).rejects.toMatchObject({ problem: { code: 'UNAUTHORIZED' } });
  expect(await stage.mails(email)).toEqual([]);
});

test('a network is a /24 or a /48, however the address is written', () => {
  expect(networkOf('192.0.2.1')).toBe(networkOf('::ffff:192.0.2.99'));
  expect(networkOf('192.0.2.1')).not.toBe(networkOf('192.0.3.1'));
  expect(networkOf('2001:db8:1::1')).not.toBe(networkOf('2001:db8:2::1'));
  expect(networkOf(null)).toBe('unknown');
  expect(networkOf('nonsense')).toBe('unknown');
});
