import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { expireDueKyc } from '../../../src/domain/kyc/expire.ts';
import { DECISIONS } from '../../../src/domain/kyc/messages.ts';
import { findCase } from '../../../src/domain/kyc/queries.ts';
import { type AttemptStatus, findTransition, isOpen } from '../../../src/domain/kyc/transitions.ts';
import { Refusal } from '../../../src/domain/problem.ts';
import { openStage, type Stage } from './stage.ts';

let stage: Stage;
let reviewer: string;
beforeAll(async () => {
  stage = await openStage();
  reviewer = await stage.user('reviewer');
});
afterAll(() => stage.close());

/** What people and the clock may try, in any order. */
const step = fc.oneof(
  fc.record({ kind: fc.constant('submit' as const), provider: fc.constantFrom('manual' as const, 'webhook' as const) }),
  fc.record({ kind: fc.constant('cancel' as const) }),
  fc.record({
    kind: fc.constant('decide' as const),
    status: fc.constantFrom(...DECISIONS),
    /** Which attempt, counted from the newest; -1 is the one that stands. */
    attempt: fc.integer({ min: -1, max: 2 }),
  }),
  fc.record({ kind: fc.constant('time passes' as const) }),
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

async function take(userId: string, what: Step): Promise<void> {
  switch (what.kind) {
    case 'submit':
      await stage.submit(userId, {}, what.provider);
      return;
    case 'cancel':
      await stage.cancel(userId);
      return;
    case 'decide': {
      const named = (await findCase(stage.em(), userId))?.attempts[what.attempt]?.id;
      await stage.decide(reviewer, {
        user_id: userId,
        status: what.status,
        reason: 'as drawn',
        ...(named ? { attempt_id: named } : {}),
      });
      return;
    }
    case 'time passes':
      await stage.query(sql`
        update kyc_attempts set expires_on = current_date - 3, updated_at = now() - interval '40 days' where user_id = ${userId}`);
      await expireDueKyc(stage.em(), stage.transact, 100);
  }
}

/** The contract's projection, from what the history says of each attempt. */
function expected(newestFirst: AttemptStatus[]): string {
  if (newestFirst.some((status) => status === 'approved')) return 'verified';
  if (newestFirst.some(isOpen)) return 'pending';
  return newestFirst.find((status) => status === 'rejected' || status === 'expired') ?? 'unverified';
}

test('whatever is tried in whatever order, history, attempts and user agree', async () => {
  let moved = 0;
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 14 }), async (steps) => {
      const userId = await stage.user();
      for (const what of steps) {
        try {
          await take(userId, what);
          moved += 1;
        } catch (error) {
          if (!(error instanceof Refusal)) throw error;
          expect(['CONFLICT', 'NOT_FOUND']).toContain(error.problem.code);
          refused += 1;
        }
        const found = await findCase(stage.em(), userId);
        const attempts = found?.attempts ?? [];
        for (const { status, transitions } of attempts) {
          expect(transitions[0]?.from).toBeNull();
          transitions.forEach(({ from, to }, i) => {
            expect(from).toBe(transitions[i - 1]?.to ?? null);
            expect(findTransition(from, to)).toBeDefined();
          });
          expect(transitions.at(-1)?.to).toBe(status);
        }
        const statuses = attempts.map(({ status }) => status);
        expect(statuses.filter(isOpen).length).toBeLessThanOrEqual(1);
        expect(found?.kyc_status).toBe(expected(statuses));
      }
      const events = (await stage.emitted(userId)).filter(({ target }) => target === 'events');
      const sequences = events.map(({ sequence }) => sequence ?? 0);
      expect(sequences).toEqual([...new Set(sequences)].toSorted((a, b) => a - b));
    }),
    { numRuns: 25 },
  );
  expect(moved).toBeGreaterThan(25);
  expect(refused).toBeGreaterThan(25);
}, 120_000);
