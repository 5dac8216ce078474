import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { openEvidence } from '../../../src/domain/kyc/evidence.ts';
import { findCase, findOwnKyc, listByStatus } from '../../../src/domain/kyc/queries.ts';
import { Keyring } from '../../../src/services/keyring.ts';
import { day, openStage, problemOf, type Stage } from './stage.ts';

let stage: Stage;
let reviewer: string;
beforeAll(async () => {
  stage = await openStage();
  reviewer = await stage.user('reviewer');
});
afterAll(() => stage.close());

const historyOf = async (userId: string) =>
  ((await findCase(stage.em(), userId))?.attempts ?? []).map(({ transitions }) =>
    transitions.map(
      ({ from, to, actor }) => `${from ?? 'new'}→${to} ${actor.replace(userId, 'them').replace(reviewer, 'reviewer')}`,
    ),
  );
const kycStatus = async (userId: string) =>
  (await stage.query(sql<{ kyc_status: string }>`select kyc_status from users where id = ${userId}`))[0]?.kyc_status;
const mailsOf = (userId: string) =>
  stage.query(sql<{ template: string; recipient: string; sealed_data: string }>`
    select template, recipient, sealed_data from emails where user_id = ${userId} order by created_at`);

describe('submitting', () => {
  test('opens an attempt that the manual provider hands to review at once', async () => {
    const userId = await stage.user();
    const view = await stage.submit(userId);
    expect(view).toMatchObject({
      status: 'in_review',
      kyc_status: 'pending',
      reason: null,
      provider: 'manual',
      country: 'PT',
      document_type: 'passport',
      expires_on: day(900),
      submitted_at: expect.stringMatching(/Z$/),
      decided_at: null,
    });
    expect(await historyOf(userId)).toEqual([
      ['new→awaiting_input user:them', 'awaiting_input→processing user:them', 'processing→in_review provider:manual'],
    ]);
    const events = (await stage.emitted(userId)).filter(({ target }) => target === 'events');
    expect(events.map(({ type, sequence }) => [type, sequence])).toEqual([
      ['kyc.submitted', 3],
      ['kyc.review_required', 4],
    ]);
    expect(await findOwnKyc(stage.em(), userId)).toEqual(view);
  });

  test('leaves it to a provider outside to call back', async () => {
    const userId = await stage.user();
    expect(await stage.submit(userId, {}, 'webhook')).toMatchObject({ status: 'processing', provider: 'webhook' });
  });

  test('keeps birth date and document number encrypted, bound to the attempt, and nowhere else', async () => {
    const userId = await stage.user();
    const { id } = await stage.submit(userId, { number: 'GREPME-5520-77' });
    await stage.decide(reviewer, { user_id: userId, status: 'approved' });

    const tables = ['kyc_attempts', 'kyc_transitions', 'outbox', 'users', 'emails', 'operations'];
    for (const table of tables) {
      const rows = await stage.query(sql<{ line: string }>`select t::text as line from ${sql.table(table)} t`);
      const text = rows
        .map(({ line }) => line + Buffer.from(line.match(/\\x([0-9a-f]+)/)?.[1] ?? '', 'hex').toString('latin1'))
        .join('\n');
      expect(text).not.toMatch(/GREPME|1987-04-12/);
    }
    const [row] = await stage.query(
      sql<{ sealed_document: Buffer }>`select sealed_document from kyc_attempts where id = ${id}`,
    );
    const sealed = row?.sealed_document as Buffer;
    expect(openEvidence(stage.keyring, id, sealed)).toEqual({ date_of_birth: '1987-04-12', number: 'GREPME-5520-77' });
    expect(() => openEvidence(stage.keyring, newId(), sealed)).toThrow('cannot be opened');
    expect(() => openEvidence(new Keyring(Buffer.alloc(32, 6)), id, sealed)).toThrow('unknown key');
  });

  test('is refused while an attempt is reviewed or processed', async () => {
    const userId = await stage.user();
    await stage.submit(userId);
    expect(await problemOf(stage.submit(userId))).toMatchObject({
      code: 'CONFLICT',
      details: { from: 'in_review', to: 'processing' },
    });
    const other = await stage.user();
    await stage.submit(other, {}, 'webhook');
    expect(await problemOf(stage.submit(other))).toMatchObject({ code: 'CONFLICT', details: { from: 'processing' } });
  });

  test('many times at once opens one attempt', async () => {
    const userId = await stage.user();
    const tries = await Promise.allSettled(Array.from({ length: 6 }, () => stage.submit(userId)));
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const attempt of tries) {
      if (attempt.status === 'rejected') expect(attempt.reason.problem).toMatchObject({ code: 'CONFLICT' });
    }
    expect((await findCase(stage.em(), userId))?.attempts).toHaveLength(1);
  });

  test('again goes on with the attempt that awaits input', async () => {
    const userId = await stage.user();
    const first = await stage.submit(userId, { number: 'BLURRED-1' });
    const asked = await stage.decide(reviewer, {
      user_id: userId,
      status: 'awaiting_input',
      reason: 'the photo is blurred',
    });
    expect(asked).toMatchObject({ status: 'awaiting_input', kyc_status: 'pending', reason: 'the photo is blurred' });
    const again = await stage.submit(userId, { number: 'SHARP-1', type: 'id_card' });
    expect(again).toMatchObject({ id: first.id, status: 'in_review', reason: null, document_type: 'id_card' });
    const [row] = await stage.query(
      sql<{ sealed_document: Buffer }>`select sealed_document from kyc_attempts where id = ${first.id}`,
    );
    expect(openEvidence(stage.keyring, first.id, row?.sealed_document as Buffer).number).toBe('SHARP-1');
  });

  test('while an approval stands opens a linked attempt, and the approval goes on standing', async () => {
    const userId = await stage.user();
    const old = await stage.submit(userId);
    await stage.decide(reviewer, { user_id: userId, status: 'approved' });
    const renewal = await stage.submit(userId, { expires_on: day(3000) });
    expect(renewal).toMatchObject({ status: 'in_review', kyc_status: 'verified' });
    expect(
      (await findCase(stage.em(), userId))?.attempts.map(({ id, status, previous_id }) => [id, status, previous_id]),
    ).toEqual([
      [renewal.id, 'in_review', old.id],
      [old.id, 'approved', null],
    ]);
    expect(
      await stage.decide(reviewer, { user_id: userId, status: 'rejected', reason: 'expired stamp' }),
    ).toMatchObject({
      id: renewal.id,
      status: 'rejected',
      kyc_status: 'verified',
    });
    expect(await findOwnKyc(stage.em(), userId)).toMatchObject({ id: renewal.id, kyc_status: 'verified' });
  });

  test('after a refusal opens a linked attempt', async () => {
    const userId = await stage.user();
    const old = await stage.submit(userId);
    await stage.decide(reviewer, { user_id: userId, status: 'rejected', reason: 'not the holder' });
    expect(await kycStatus(userId)).toBe('rejected');
    const next = await stage.submit(userId);
    expect(next).toMatchObject({ status: 'in_review', kyc_status: 'pending' });
    expect((await findCase(stage.em(), userId))?.attempts[0]?.previous_id).toBe(old.id);
  });

  test('is refused for a user who is not there', async () => {
    expect(await problemOf(stage.submit(newId()))).toMatchObject({ code: 'NOT_FOUND' });
    const gone = await stage.user();
    await stage.query(sql`update users set deleted_at = now() where id = ${gone}`);
    expect(await problemOf(stage.submit(gone))).toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('cancelling', () => {
  test('takes the open attempt back', async () => {
    const userId = await stage.user();
    await stage.submit(userId);
    expect(await stage.cancel(userId)).toMatchObject({ status: 'cancelled', kyc_status: 'unverified' });
    expect(await findOwnKyc(stage.em(), userId)).toMatchObject({ status: 'cancelled' });
    expect(await problemOf(stage.cancel(userId))).toMatchObject({
      code: 'CONFLICT',
      details: { from: 'cancelled', to: 'cancelled' },
    });
  });

  test('leaves an approval alone', async () => {
    const userId = await stage.user();
    const old = await stage.submit(userId);
    await stage.decide(reviewer, { user_id: userId, status: 'approved' });
    expect(await problemOf(stage.cancel(userId))).toMatchObject({
      code: 'CONFLICT',
      details: { from: 'approved', to: 'cancelled' },
    });
    await stage.submit(userId);
    expect(await stage.cancel(userId)).toMatchObject({ status: 'cancelled', kyc_status: 'verified' });
    expect(await findOwnKyc(stage.em(), userId)).toMatchObject({ id: old.id, status: 'approved' });
  });

  test('needs an attempt', async () => {
    expect(await problemOf(stage.cancel(await stage.user()))).toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('deciding', () => {
  test('an approval verifies the user and mails it', async () => {
    const userId = await stage.user();
    await stage.submit(userId);
    expect(await stage.decide(reviewer, { user_id: userId, status: 'approved', comment: 'all good' })).toMatchObject({
      status: 'approved',
      kyc_status: 'verified',
      reason: null,
      decided_at: expect.any(String),
    });
    expect(await mailsOf(userId)).toMatchObject([{ template: 'kyc-approved', recipient: `${userId}@example.test` }]);
    expect(await historyOf(userId)).toEqual([
      [expect.any(String), expect.any(String), expect.any(String), 'in_review→approved user:reviewer'],
    ]);
  });

  test('a refusal needs a reason, and mails it', async () => {
    const userId = await stage.user();
    await stage.submit(userId);
    expect(await problemOf(stage.decide(reviewer, { user_id: userId, status: 'rejected' }))).toMatchObject({
      code: 'VALIDATION_ERROR',
      field: 'reason',
    });
    await stage.decide(reviewer, {
      user_id: userId,
      status: 'rejected',
      reason: 'the document is forged',
      comment: 'see case 7',
    });
    const [mail] = await mailsOf(userId);
    expect(mail?.template).toBe('kyc-rejected');
    expect(await stage.keyring.open('email', mail?.sealed_data ?? '')).toContain('the document is forged');
    expect(await findOwnKyc(stage.em(), userId)).not.toHaveProperty('comment');
    const audited = (await stage.emitted(userId)).filter(({ target }) => target === 'audit');
    expect(JSON.stringify(audited)).not.toMatch(/forged|case 7/);
    expect(JSON.stringify(await stage.emitted(userId))).not.toContain('case 7');
  });

  test('a refused case can be taken up again, an approval taken back', async () => {
    const userId = await stage.user();
    await stage.submit(userId);
    await stage.decide(reviewer, { user_id: userId, status: 'rejected', reason: 'blurred' });
    expect(await problemOf(stage.decide(reviewer, { user_id: userId, status: 'in_review' }))).toMatchObject({
      field: 'reason',
    });
    expect(await stage.decide(reviewer, { user_id: userId, status: 'in_review', reason: 'appeal' })).toMatchObject({
      kyc_status: 'pending',
      decided_at: null,
    });
    expect(await stage.decide(reviewer, { user_id: userId, status: 'approved' })).toMatchObject({
      kyc_status: 'verified',
    });
    expect(await stage.decide(reviewer, { user_id: userId, status: 'rejected', reason: 'late finding' })).toMatchObject(
      { kyc_status: 'rejected' },
    );
  });

  test('nobody decides on their own check', async () => {
    await stage.submit(reviewer);
    expect(await problemOf(stage.decide(reviewer, { user_id: reviewer, status: 'approved' }))).toMatchObject({
      code: 'FORBIDDEN',
    });
    expect(
      await problemOf(stage.decide(reviewer, { user_id: reviewer.toUpperCase(), status: 'approved' })),
    ).toMatchObject({ code: 'FORBIDDEN' });
    expect(await kycStatus(reviewer)).toBe('pending');
  });

  test('only people decide', async () => {
    const userId = await stage.user();
    await stage.submit(userId);
    const { decideKyc } = await import('../../../src/domain/kyc/decide.ts');
    const context = { ...stage.as(userId), actor: { type: 'api_key' as const, id: newId() } };
    const decided = stage.transact(context, (unit) =>
      decideKyc(unit, { user_id: userId, status: 'approved' }, stage.keyring),
    );
    expect(await problemOf(decided)).toMatchObject({ code: 'FORBIDDEN' });
  });

  test.each([
    ['approved', 'approved'],
    ['approved', 'rejected'],
    ['awaiting_input', 'rejected'],
  ] as const)(
    'of two at once, %s and %s on what both saw, one is done and the other is a conflict',
    async (one, two) => {
      const userId = await stage.user();
      const { id } = await stage.submit(userId);
      const version = (await findCase(stage.em(), userId))?.attempts[0]?.version ?? 0;
      const seen = { user_id: userId, attempt_id: id, version, reason: 'decided' };
      const results = await Promise.allSettled([
        stage.decide(reviewer, { ...seen, status: one }),
        stage.decide(await stage.user('admin'), { ...seen, status: two }),
      ]);
      const refused = results.filter((result) => result.status === 'rejected');
      expect(refused).toHaveLength(1);
      expect(refused[0]?.reason.problem).toMatchObject({
        code: 'CONFLICT',
        details: { from: expect.any(String), to: expect.any(String) },
      });
      expect((await historyOf(userId))[0]).toHaveLength(4);
    },
  );

  test('names the attempt it is about, or means the one that stands', async () => {
    const userId = await stage.user();
    const old = await stage.submit(userId);
    await stage.decide(reviewer, { user_id: userId, status: 'approved' });
    await stage.submit(userId);
    const late = { user_id: userId, attempt_id: old.id, status: 'rejected', reason: 'late finding' } as const;
    expect(await stage.decide(reviewer, late)).toMatchObject({ id: old.id, status: 'rejected', kyc_status: 'pending' });
    const stranger = await stage.submit(await stage.user());
    expect(await problemOf(stage.decide(reviewer, { ...late, attempt_id: stranger.id }))).toMatchObject({
      code: 'NOT_FOUND',
    });
    expect(await problemOf(stage.decide(reviewer, { user_id: await stage.user(), status: 'approved' }))).toMatchObject({
      code: 'NOT_FOUND',
    });
  });
});

test('the review queue is read oldest first, page by page, without the deleted', async () => {
  const users = [await stage.user(), await stage.user(), await stage.user(), await stage.user()];
  const ids: string[] = [];
  for (const userId of users) ids.push((await stage.submit(userId, {}, 'webhook')).id);
  await stage.query(sql`update users set deleted_at = now() where id = ${users[1]}`);
  const pages: string[] = [];
  let after: string | undefined;
  for (;;) {
    const page = await listByStatus(stage.em(), { status: 'processing', limit: 1, after });
    pages.push(...page.slice(0, 1).map(({ id }) => id));
    if (page.length < 2) break;
    after = page[0]?.id;
  }
  expect(pages.filter((id) => ids.includes(id))).toEqual([ids[0], ids[2], ids[3]].toSorted());
});
