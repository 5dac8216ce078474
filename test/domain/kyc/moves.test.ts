import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ATTEMPT_COLUMNS, type Attempt, lockSubject } from '../../../src/domain/kyc/attempts.ts';
import { type Move, move } from '../../../src/domain/kyc/moves.ts';
import type { Case } from '../../../src/domain/kyc/save.ts';
import {
  ATTEMPT_STATUSES,
  type AttemptStatus,
  findTransition,
  type Mover,
  project,
  TRANSITIONS,
} from '../../../src/domain/kyc/transitions.ts';
import { openStage, problemOf, type Stage } from './stage.ts';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

/** Moves one attempt as `by`, in a transaction of its own. */
const moveBy = (userId: string, attemptId: string, to: Move): Promise<Case> =>
  stage.transact(stage.as(userId), async (unit) => {
    const subject = await lockSubject(unit.em, userId);
    const { rows } = await sql<Attempt>`select ${ATTEMPT_COLUMNS} from kyc_attempts where id = ${attemptId}`.execute(
      unit.em.getKysely(),
    );
    return move(unit, { subject, attempt: rows[0] as Attempt }, to);
  });

const statusOf = async (attemptId: string) =>
  (
    await stage.query(
      sql<{ status: string; version: number }>`select status, version from kyc_attempts where id = ${attemptId}`,
    )
  )[0];
const userOf = async (userId: string) =>
  (
    await stage.query(
      sql<{ kyc_status: string; version: number }>`select kyc_status, version from users where id = ${userId}`,
    )
  )[0];

const EVENT: Record<AttemptStatus, string> = {
  awaiting_input: 'kyc.resubmission_requested',
  processing: 'kyc.submitted',
  in_review: 'kyc.review_required',
  approved: 'kyc.approved',
  rejected: 'kyc.rejected',
  expired: 'kyc.expired',
  cancelled: 'kyc.cancelled',
};

const moves: [AttemptStatus, AttemptStatus, Mover][] = TRANSITIONS.flatMap(({ from, to, by }) =>
  from === null ? [] : by.map((who): [AttemptStatus, AttemptStatus, Mover] => [from, to, who]),
);

describe('each move of the table', () => {
  test.each(moves)('%s → %s by %s', async (from, to, by) => {
    const userId = await stage.user();
    const attemptId = await stage.place(userId, from);
    const moved = await moveBy(userId, attemptId, { to, by, reason: 'as agreed', comment: 'internal' });

    expect(await statusOf(attemptId)).toEqual({ status: to, version: 2 });
    expect(moved.attempt).toMatchObject({ status: to, version: 2, reason: 'as agreed', comment: 'internal' });
    expect(await userOf(userId)).toEqual({ kyc_status: project([to]), version: 2 });

    const actor = {
      user: `user:${userId}`,
      reviewer: `user:${userId}`,
      provider: 'provider:manual',
      clock: 'clock',
      system: 'system',
    }[by];
    expect(
      await stage.query(
        sql`select from_status, to_status, actor, reason, comment from kyc_transitions where attempt_id = ${attemptId}`,
      ),
    ).toEqual([{ from_status: from, to_status: to, actor, reason: 'as agreed', comment: 'internal' }]);

    const ids = { user_id: userId, attempt_id: attemptId };
    const [audit, event, ...others] = (await stage.emitted(userId)).toSorted((a, b) => (a.target < b.target ? -1 : 1));
    expect(others).toEqual([]);
    expect(event).toEqual({
      target: 'events',
      type: EVENT[to],
      sequence: 2,
      data: { ...ids, status: to, kyc_status: project([to]), reason: 'as agreed' },
    });
    expect(audit?.data).toMatchObject({
      action: EVENT[to],
      actor: by === 'user' || by === 'reviewer' ? { type: 'user', id: userId } : { type: 'system', id: null },
      targets: [
        { type: 'user', id: userId },
        { type: 'kyc_attempt', id: attemptId },
      ],
      subject: userId,
      metadata: { from, to, by: actor, kyc_status: project([to]) },
    });
  });
});

describe('any other move', () => {
  const illegal = ATTEMPT_STATUSES.flatMap((from) =>
    ATTEMPT_STATUSES.filter((to) => !findTransition(from, to)).map((to): [AttemptStatus, AttemptStatus] => [from, to]),
  );

  test.each(illegal)('%s → %s is a conflict that names both and changes nothing', async (from, to) => {
    const userId = await stage.user();
    const attemptId = await stage.place(userId, from);
    for (const by of ['user', 'provider', 'reviewer', 'clock', 'system'] as const) {
      const problem = await problemOf(moveBy(userId, attemptId, { to, by, reason: 'why not' }));
      expect(problem).toMatchObject({ code: 'CONFLICT', details: { from, to } });
      expect(problem.message).toContain(`from ${from} to ${to}`);
    }
    expect(await statusOf(attemptId)).toEqual({ status: from, version: 1 });
    expect(await userOf(userId)).toEqual({ kyc_status: 'unverified', version: 1 });
    expect(await stage.emitted(userId)).toEqual([]);
  });

  test('a move of the table by somebody else is a conflict too', async () => {
    const userId = await stage.user();
    const attemptId = await stage.place(userId, 'approved');
    for (const by of ['user', 'provider', 'reviewer', 'system'] as const) {
      expect(await problemOf(moveBy(userId, attemptId, { to: 'expired', by }))).toMatchObject({ code: 'CONFLICT' });
    }
  });

  test.each(
    TRANSITIONS.filter(({ reason, from }) => reason === 'required' && from).map(
      ({ from, to }) => [from, to] as [AttemptStatus, AttemptStatus],
    ),
  )('%s → %s without a reason is refused, naming the field', async (from, to) => {
    const userId = await stage.user();
    const attemptId = await stage.place(userId, from);
    expect(await problemOf(moveBy(userId, attemptId, { to, by: 'reviewer' }))).toMatchObject({
      code: 'VALIDATION_ERROR',
      field: 'reason',
    });
    expect(await statusOf(attemptId)).toEqual({ status: from, version: 1 });
  });

  test('taking an old case up while another is open is a conflict', async () => {
    const userId = await stage.user();
    const approved = await stage.place(userId, 'approved');
    await stage.place(userId, 'in_review');
    const problem = await problemOf(
      moveBy(userId, approved, { to: 'in_review', by: 'reviewer', reason: 'watch list' }),
    );
    expect(problem).toMatchObject({ code: 'CONFLICT', details: { from: 'approved', open: 'in_review' } });
    expect((await moveBy(userId, approved, { to: 'rejected', by: 'reviewer', reason: 'forged' })).attempt.status).toBe(
      'rejected',
    );
  });
});
