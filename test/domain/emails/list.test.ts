import { afterAll, beforeAll, expect, it } from 'vitest';
import { listEmails } from '../../../src/domain/emails/list.ts';
import { queueEmail } from '../../../src/domain/emails/queue.ts';
import { type EmailBench, openEmailBench } from './database.ts';

let bench: EmailBench;
beforeAll(async () => {
  bench = await openEmailBench();
  const mail = {
    userId: null,
    to: 'ada@example.org',
    template: 'password-changed',
    data: { full_name: 'Ada' },
  } as const;
  await bench.transact(bench.context, (unit) => queueEmail(unit, mail, bench.keyring));
});
afterAll(() => bench.close());

// Each is a time of RFC 3339 that PostgreSQL does not take as text, or takes for another one.
it.each([
  ['0000-01-01T00:00:00Z', 1, 0],
  ['0000-01-01T00:00:00+23:59', 1, 0],
  ['0001-01-01T00:00:00Z', 1, 0],
  ['9999-12-31T23:59:59-23:59', 0, 1],
  ['2024-01-01T00:00:00.123456789Z', 1, 0],
  ['2024-02-29T12:00:00+14:00', 1, 0],
])('takes %s as a bound', async (time, after, before) => {
  const em = () => bench.database.em.fork();
  expect(await listEmails(em(), { createdAfter: time }, 10)).toHaveLength(after);
  expect(await listEmails(em(), { createdBefore: time }, 10)).toHaveLength(before);
});
