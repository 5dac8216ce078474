import { createHmac, randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';
import { submission } from '../../domain/kyc/stage.ts';
import { eventually } from '../../harness.ts';
import { type Answered, type KycBench, openKycBench, type Person } from './kyc-bench.ts';

const SECRET = 'whsec_a secret that the provider knows';
const seconds = (ago = 0) => Math.floor(Date.now() / 1000) - ago;
const hmac = (algorithm: string, text: string, secret = SECRET) =>
  createHmac(algorithm, secret).update(text).digest('hex');

/** What both providers' tests do with their bench. */
function using(bench: () => KycBench, path: string) {
  return {
    post: (text: string, headers: Record<string, string>, to = path): Promise<Answered> =>
      bench().request('POST', `/kyc/providers/${to}/callbacks`, text, headers),
    async submitted(): Promise<{ user: Person; attemptId: string }> {
      const user = await bench().person();
      const { body } = await user.call('PATCH', '/users/me/kyc', submission());
      expect(body.data).toMatchObject({ status: 'processing', provider: path });
      return { user, attemptId: body.data.id };
    },
    own: async (user: Person) => (await user.call('GET', '/users/me/kyc')).body.data,
    /** What became of a call, once it is handled. */
    outcome: (eventId: string) =>
      eventually(
        async () =>
          (
            await bench().rows(
              sql<{ outcome: string; detail: string | null; attempt_id: string | null }>`
                select outcome, detail, attempt_id from kyc_callbacks
                where provider = ${path} and event_id = ${eventId} and outcome <> 'received'`,
            )
          )[0],
        `${eventId} is handled`,
        30_000,
      ),
    stored: async () => Number((await bench().rows(sql<{ n: string }>`select count(*) as n from kyc_callbacks`))[0]?.n),
    /** The body of a call as it was kept. */
    async kept(eventId: string): Promise<string> {
      const [row] = await bench().rows(
        sql<{ id: string; sealed_body: Buffer }>`
          select id, sealed_body from kyc_callbacks where event_id = ${eventId}`,
      );
      const { keyring } = bench().harness;
      return keyring.decrypt('kyc', row?.sealed_body as Buffer, row?.id ?? '').toString();
    },
  };
}

describe('Stripe Identity', () => {
  let bench: KycBench;
  beforeAll(async () => {
    bench = await openKycBench({ KYC_PROVIDER: 'stripe', KYC_PROVIDER_SECRET: SECRET });
  });
  afterAll(() => bench.harness.close());
  const { post, submitted, own, outcome, stored, kept } = using(() => bench, 'stripe');

  /** As Stripe signs (docs.stripe.com/webhooks/signature): hex HMAC-SHA256 of "t.body", with a v0 that is not for us. */
  const sign = (text: string, t = seconds(), secret = SECRET) =>
    `t=${t},v1=${hmac('sha256', `${t}.${text}`, secret)},v0=${'ab'.repeat(32)}`;
  const event = (kind: string, attemptId: string | undefined, more: object = {}, session: object = {}) => ({
    id: `evt_${randomUUID().replaceAll('-', '')}`,
    object: 'event',
    api_version: '2026-10-01',
    created: seconds(),
    livemode: false,
    type: `identity.verification_session.${kind}`,
    data: {
      object: {
        id: 'vs_1NuN4zLkdIwHu7ixleE6HvkI',
        object: 'identity.verification_session',
        last_error: null,
        metadata: attemptId ? { attempt_id: attemptId } : {},
        status: kind,
        ...session,
      },
    },
    ...more,
  });
  const send = (body: unknown, signature?: string) => {
    const text = typeof body === 'string' ? body : JSON.stringify(body, null, 2);
    return post(text, { 'stripe-signature': signature ?? sign(text) });
  };

  test('a verified session approves the attempt that its metadata names, and the body is kept as it came', async () => {
    const { user, attemptId } = await submitted();
    const verified = event('verified', attemptId);
    expect(await send(verified)).toMatchObject({
      status: 200,
      body: { data: { event_id: verified.id, duplicate: false } },
    });
    expect(await outcome(verified.id)).toMatchObject({ outcome: 'applied' });
    expect(await own(user)).toMatchObject({ status: 'approved', kyc_status: 'verified', reason: null });
    expect(await kept(verified.id)).toBe(JSON.stringify(verified, null, 2));
  });

  test('a check that failed asks the user for other input, with the reason', async () => {
    const { user, attemptId } = await submitted();
    const failed = event(
      'requires_input',
      attemptId,
      {},
      { last_error: { code: 'document_expired', reason: 'The document\n is expired.\t' } },
    );
    await send(failed);
    expect(await outcome(failed.id)).toMatchObject({ outcome: 'applied' });
    expect(await own(user)).toMatchObject({ status: 'awaiting_input', reason: 'The document  is expired.' });
    const again = event('requires_input', attemptId);
    await send(again);
    expect(await outcome(again.id)).toMatchObject({ outcome: 'refused' });
  });

  test('a canceled session cancels the attempt', async () => {
    const { user, attemptId } = await submitted();
    const canceled = event('canceled', attemptId);
    await send(canceled);
    expect(await outcome(canceled.id)).toMatchObject({ outcome: 'applied' });
    expect(await own(user)).toMatchObject({ status: 'cancelled', kyc_status: 'unverified' });
  });

  test('what moves no attempt is recorded and answered', async () => {
    const { user, attemptId } = await submitted();
    for (const other of [
      event('processing', attemptId),
      event('created', attemptId),
      event('redacted', attemptId),
      event('verified', undefined),
      event('verified', undefined, {}, { metadata: null }),
      event('verified', 'order-1774'),
      { ...event('verified', attemptId), type: 'charge.succeeded', data: { object: { amount: 100 } } },
    ]) {
      expect(await send(other)).toMatchObject({ status: 200, body: { data: { event_id: other.id } } });
      const named = JSON.stringify(other).includes(attemptId);
      expect(await outcome(other.id)).toMatchObject({ outcome: 'ignored', attempt_id: named ? attemptId : null });
    }
    expect((await own(user)).status).toBe('processing');
  });

  test('the same event, also at once, is taken once', async () => {
    const { user, attemptId } = await submitted();
    const verified = event('verified', attemptId);
    const answers = await Promise.all([send(verified), send(verified), send(verified)]);
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(answers.filter(({ body }) => !body.data.duplicate)).toHaveLength(1);
    await outcome(verified.id);
    expect((await send({ ...verified, type: 'identity.verification_session.canceled' })).body.data.duplicate).toBe(
      true,
    );
    expect((await own(user)).status).toBe('approved');
  });

  test('an older event than the one applied is recorded and not applied', async () => {
    const { user, attemptId } = await submitted();
    const late = event('verified', attemptId, { created: seconds(10) });
    const early = event('requires_input', attemptId, { created: seconds(60) });
    await send(late);
    await outcome(late.id);
    expect((await send(early)).status).toBe(200);
    expect(await outcome(early.id)).toMatchObject({ outcome: 'stale' });
    expect((await own(user)).status).toBe('approved');
  });

  test('several signatures of which one is right, as while a secret is rolled', async () => {
    const { attemptId } = await submitted();
    const text = JSON.stringify(event('created', attemptId));
    const t = seconds();
    const wrong = `v1=${hmac('sha256', `${t}.${text}`, 'the secret before')}`;
    expect((await send(text, `t=${t},${wrong},v1=${hmac('sha256', `${t}.${text}`)}`)).status).toBe(200);
    expect((await send(text, `t=${t},${wrong},${wrong}`)).status).toBe(401);
  });

  describe('is not believed', () => {
    const text = JSON.stringify(event('verified', newId()));
    test.each<[string, string, string]>([
      ['without a signature', text, ''],
      ['signed with another secret', text, sign(text, seconds(), 'another secret of that length')],
      ['when the body was changed', text.replace('verified', 'canceled'), sign(text)],
      ['when the time was changed', text, sign(text, seconds(200)).replace(/^t=\d+/, `t=${seconds()}`)],
      ['when it is replayed after 301 s', text, sign(text, seconds(301))],
      ['when it is signed for a time to come', text, sign(text, seconds(-3600))],
      ['when only v0 is right', text, sign(text).replace('v1=', 'v0=')],
      ['when it is signed with SHA-512', text, `t=${seconds()},v1=${hmac('sha512', `${seconds()}.${text}`)}`],
      ['when the signature is cut', text, sign(text).replace(/(v1=[0-9a-f]{62})[0-9a-f]{2}/, '$1')],
    ])('%s', async (_, body, signature) => {
      const before = await stored();
      expect(await send(body, signature)).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHORIZED' } } });
      expect(await stored()).toBe(before);
    });
  });

  test.each<[string, string | undefined, unknown]>([
    ['no JSON', undefined, '{"id":'],
    ['a list', undefined, '[]'],
    ['no id', 'id', { ...event('verified', newId()), id: undefined }],
    ['an id that is none', 'id', { ...event('verified', newId()), id: 'evt 1' }],
    ['a time that is a text', 'created', { ...event('verified', newId()), created: '2026' }],
    ['a time that there is not', 'created', { ...event('verified', newId()), created: 9e15 }],
    ['no session', 'data', { ...event('verified', newId()), data: undefined }],
    ['an error that is a text', 'data.object.last_error', event('verified', newId(), {}, { last_error: 'x' })],
  ])('genuine, but %s: kept, and refused', async (_, field, body) => {
    const before = await stored();
    const answer = await send(body);
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR' } } });
    expect(answer.body.error.field).toBe(field);
    expect(await stored()).toBe(before + 1);
  });

  test('other providers are not there', async () => {
    const text = JSON.stringify(event('verified', newId()));
    for (const to of ['webhook', 'sumsub', 'manual', 'constructor'])
      expect((await post(text, { 'stripe-signature': sign(text) }, to)).status).toBe(404);
  });
});

describe('Sumsub', () => {
  let bench: KycBench;
  beforeAll(async () => {
    bench = await openKycBench({ KYC_PROVIDER: 'sumsub', KYC_PROVIDER_SECRET: SECRET });
  });
  afterAll(() => bench.harness.close());
  const { post, submitted, own, outcome, stored, kept } = using(() => bench, 'sumsub');
  const HASHES = { HMAC_SHA1_HEX: 'sha1', HMAC_SHA256_HEX: 'sha256', HMAC_SHA512_HEX: 'sha512' };
  type Algorithm = keyof typeof HASHES;

  const at = (ago = 0) => new Date(Date.now() - ago).toISOString().replace('T', ' ').replace('Z', '');
  const call = (type: string, attemptId: string | undefined, more: object = {}) => ({
    applicantId: '5cb56e8e0a975a35f333cb83',
    inspectionId: '5cb56e8e0a975a35f333cb84',
    correlationId: `req-${randomUUID()}`,
    ...(attemptId ? { externalUserId: attemptId } : {}),
    levelName: 'basic-kyc-level',
    type,
    reviewStatus: 'completed',
    createdAt: '2026-11-01 10:00:00+0000',
    createdAtMs: at(),
    sandboxMode: false,
    ...more,
  });
  const reviewed = (attemptId: string | undefined, result: object, more: object = {}) =>
    call('applicantReviewed', attemptId, { reviewResult: result, ...more });
  const GREEN = { reviewAnswer: 'GREEN' };
  const red = (reviewRejectType?: string, moderationComment?: string) => ({
    reviewAnswer: 'RED',
    rejectLabels: ['FORGERY'],
    clientComment: 'for us alone: a suspected forgery',
    ...(reviewRejectType ? { reviewRejectType } : {}),
    ...(moderationComment ? { moderationComment } : {}),
  });
  const headersOf = (text: string, algorithm: Algorithm = 'HMAC_SHA256_HEX', secret = SECRET) => ({
    'x-payload-digest': hmac(HASHES[algorithm], text, secret),
    'x-payload-digest-alg': algorithm,
  });
  const send = async (body: unknown, algorithm?: Algorithm) => {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    const answer = await post(text, headersOf(text, algorithm));
    return { ...answer, eventId: answer.body.data?.event_id as string };
  };

  test.each<[string, object, object]>([
    ['GREEN approves', GREEN, { status: 'approved', kyc_status: 'verified', reason: null }],
    [
      'RED and FINAL refuses, with the comment that is for the user',
      red('FINAL', 'We could not accept the document.'),
      { status: 'rejected', kyc_status: 'rejected', reason: 'We could not accept the document.' },
    ],
    [
      'RED and RETRY asks for other input',
      red('RETRY', 'Please upload a sharper picture.'),
      { status: 'awaiting_input', kyc_status: 'pending', reason: 'Please upload a sharper picture.' },
    ],
    [
      'RED that does not say whether it is final is for a person to look at',
      red(),
      { status: 'in_review', kyc_status: 'pending' },
    ],
    ['RED without a comment has a reason all the same', red('FINAL'), { reason: 'The provider gave no reason.' }],
    ['a very long comment is cut', red('FINAL', 'é'.repeat(2000)), { reason: 'é'.repeat(500) }],
  ])('%s', async (_, result, expected) => {
    const { user, attemptId } = await submitted();
    const { status, eventId } = await send(reviewed(attemptId, result));
    expect(status).toBe(200);
    expect(await outcome(eventId)).toMatchObject({ outcome: 'applied' });
    expect(await own(user)).toMatchObject(expected);
    expect(JSON.stringify(await own(user))).not.toContain('forgery');
  });

  test('on hold is in review, and decided by the provider that put it there', async () => {
    const { user, attemptId } = await submitted();
    const held = await send(call('applicantOnHold', attemptId, { createdAtMs: at(5000) }));
    await outcome(held.eventId);
    expect((await own(user)).status).toBe('in_review');
    const { eventId } = await send(reviewed(attemptId, GREEN));
    expect(await outcome(eventId)).toMatchObject({ outcome: 'applied' });
    expect((await own(user)).status).toBe('approved');
  });

  test('approved and later refused: the latest to have happened counts, in whatever order they come', async () => {
    const { user, attemptId } = await submitted();
    const refused = await send(reviewed(attemptId, red('FINAL', 'forged'), { createdAtMs: at(1000) }));
    await outcome(refused.eventId);
    const approved = await send(reviewed(attemptId, GREEN, { createdAtMs: at(60_000) }));
    expect(await outcome(approved.eventId)).toMatchObject({ outcome: 'stale' });
    expect((await own(user)).status).toBe('rejected');
  });

  test('the time may come with an offset and without milliseconds', async () => {
    const { user, attemptId } = await submitted();
    const late = { createdAtMs: undefined, createdAt: '2026-11-01 12:00:00+0200' };
    await outcome((await send(reviewed(attemptId, GREEN, late))).eventId);
    const early = { createdAtMs: '2026-11-01 09:59:59.999' };
    expect(await outcome((await send(reviewed(attemptId, red('FINAL'), early))).eventId)).toMatchObject({
      outcome: 'stale',
    });
    const later = { createdAtMs: '2026-11-01 10:00:00.001' };
    expect(await outcome((await send(reviewed(attemptId, red('FINAL'), later))).eventId)).toMatchObject({
      outcome: 'applied',
    });
    expect((await own(user)).status).toBe('rejected');
  });

  test('what moves no attempt is recorded and answered', async () => {
    const { user, attemptId } = await submitted();
    for (const other of [
      call('applicantPending', attemptId),
      call('applicantCreated', attemptId),
      call('applicantDeleted', undefined),
      reviewed(undefined, GREEN),
      reviewed('user-77', GREEN),
      reviewed(attemptId, { reviewAnswer: 'YELLOW' }),
      call('applicantReviewed', attemptId),
    ]) {
      const { status, eventId } = await send(other);
      expect(status).toBe(200);
      const named = 'externalUserId' in other && other.externalUserId === attemptId;
      expect(await outcome(eventId)).toMatchObject({ outcome: 'ignored', attempt_id: named ? attemptId : null });
    }
    expect((await own(user)).status).toBe('processing');
  });

  test('sent again byte by byte it is the same call; another one with the same words is not', async () => {
    const { attemptId } = await submitted();
    const body = reviewed(attemptId, { reviewAnswer: 'RED', reviewRejectType: 'RETRY' });
    const [one, two] = await Promise.all([send(body), send(body)]);
    expect(one.eventId).toBe(two.eventId);
    expect([one, two].filter((answer) => !answer.body.data.duplicate)).toHaveLength(1);
    expect((await send({ ...body, correlationId: 'req-2' })).body.data.duplicate).toBe(false);
    expect(await kept(one.eventId)).toBe(JSON.stringify(body));
  });

  test('SHA-512 is taken too', async () => {
    expect((await send(call('applicantPending', newId()), 'HMAC_SHA512_HEX')).status).toBe(200);
  });

  describe('is not believed', () => {
    const text = JSON.stringify(call('applicantReviewed', newId(), { reviewResult: GREEN }));
    const digest = (algorithm: Algorithm, secret?: string) => headersOf(text, algorithm, secret)['x-payload-digest'];
    test.each<[string, string | undefined, string | undefined, string]>([
      ['without a digest', undefined, 'HMAC_SHA256_HEX', text],
      ['without an algorithm', digest('HMAC_SHA256_HEX'), undefined, text],
      ['with SHA-1, right as it is', digest('HMAC_SHA1_HEX'), 'HMAC_SHA1_HEX', text],
      ['with an algorithm that there is not', digest('HMAC_SHA256_HEX'), 'NONE', text],
      ['with an algorithm in lower case', digest('HMAC_SHA256_HEX'), 'hmac_sha256_hex', text],
      ['when another algorithm is named', digest('HMAC_SHA512_HEX'), 'HMAC_SHA256_HEX', text],
      ['when the digest is cut', digest('HMAC_SHA256_HEX').slice(0, 62), 'HMAC_SHA256_HEX', text],
      ['when the digest is no hex', 'zz'.repeat(32), 'HMAC_SHA256_HEX', text],
      ['with another secret', digest('HMAC_SHA256_HEX', 'another secret'), 'HMAC_SHA256_HEX', text],
      ['when the body was changed', digest('HMAC_SHA256_HEX'), 'HMAC_SHA256_HEX', text.replace('GREEN', 'RED')],
    ])('%s', async (_, value, algorithm, body) => {
      const before = await stored();
      const answer = await post(body, {
        ...(value === undefined ? {} : { 'x-payload-digest': value }),
        ...(algorithm === undefined ? {} : { 'x-payload-digest-alg': algorithm }),
      });
      expect(answer).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHORIZED' } } });
      expect(await stored()).toBe(before);
    });
  });

  test.each<[string, string | undefined, unknown]>([
    ['no JSON', undefined, '{"type"'],
    ['no type', 'type', { ...call('applicantReviewed', newId()), type: undefined }],
    ['an applicant that is a number', 'externalUserId', { ...call('applicantReviewed', newId()), externalUserId: 7 }],
    ['no time', 'createdAtMs', reviewed(newId(), GREEN, { createdAt: undefined, createdAtMs: undefined })],
    ['a time that there is not', 'createdAtMs', reviewed(newId(), GREEN, { createdAtMs: '2026-13-41 10:00:00.000' })],
    ['an answer that is a number', 'reviewResult.reviewAnswer', reviewed(newId(), { reviewAnswer: 1 })],
  ])('genuine, but %s: kept, and refused', async (_, field, body) => {
    const before = await stored();
    const answer = await send(body);
    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'VALIDATION_ERROR' } } });
    expect(answer.body.error.field).toBe(field);
    expect(await stored()).toBe(before + 1);
  });
});
