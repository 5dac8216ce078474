import { expect, test } from 'vitest';
import { createAdmin } from '../../src/cli/admin.ts';
import { call } from './waybill.ts';

// Refused before anything is connected: nothing listens there.
const env = { DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/none', ADMIN_EMAIL: '', NODE_ENV: 'test' };

test.each([
  ['password1', 'the password is one of the most used ones; choose another'],
  ['PassWord1', 'the password is one of the most used ones; choose another'],
  ['grace.hopper', 'the password is too much like the e-mail address'],
  ['Grace.Hopper@example.com', 'the password is too much like the e-mail address'],
])('admin create does not take %s', async (password, why) => {
  const { error } = await call({ ...env, ADMIN_PASSWORD: password }, () => createAdmin('grace.hopper@example.com'));
  expect(error).toContain(why);
});
