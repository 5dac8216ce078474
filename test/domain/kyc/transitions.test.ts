import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  ATTEMPT_STATUSES,
  type AttemptStatus,
  canMove,
  findTransition,
  isOpen,
  MOVERS,
  project,
  TRANSITIONS,
} from '../../../src/domain/kyc/transitions.ts';

/** The table as the contract's prose has it, by who may make the move. */
const CONTRACT: Record<string, string[]> = {
  'new→awaiting_input': ['user'],
  'awaiting_input→processing': ['user'],
  'processing→approved': ['provider', 'reviewer'],
  'processing→rejected': ['provider', 'reviewer'],
  'processing→in_review': ['provider', 'reviewer'],
  'processing→awaiting_input': ['provider', 'reviewer'],
  'in_review→approved': ['provider', 'reviewer'],
  'in_review→rejected': ['provider', 'reviewer'],
  'in_review→awaiting_input': ['provider', 'reviewer'],
  'approved→in_review': ['provider', 'reviewer'],
  'approved→rejected': ['provider', 'reviewer'],
  'approved→expired': ['clock'],
  'awaiting_input→expired': ['clock'],
  'rejected→in_review': ['reviewer'],
  'awaiting_input→cancelled': ['provider', 'system', 'user'],
  'processing→cancelled': ['provider', 'system', 'user'],
  'in_review→cancelled': ['provider', 'system', 'user'],
};

describe('the transition table', () => {
  test('allows what the contract names and nothing else', () => {
    for (const from of [null, ...ATTEMPT_STATUSES]) {
      for (const to of ATTEMPT_STATUSES) {
        const movers = MOVERS.filter((by) => canMove(from, to, by)).toSorted();
        expect([`${from ?? 'new'}→${to}`, movers]).toEqual([
          `${from ?? 'new'}→${to}`,
          CONTRACT[`${from ?? 'new'}→${to}`] ?? [],
        ]);
      }
    }
  });

  test('has each move once', () => {
    const moves = TRANSITIONS.map(({ from, to }) => `${from}→${to}`);
    expect(new Set(moves).size).toBe(moves.length);
  });

  test('wants a reason for a refusal, a request for input and a case taken up again', () => {
    const wanting = TRANSITIONS.filter(({ reason }) => reason === 'required').map(({ from, to }) => `${from}→${to}`);
    expect(wanting.toSorted()).toEqual([
      'approved→rejected',
      'in_review→awaiting_input',
      'in_review→rejected',
      'processing→awaiting_input',
      'processing→rejected',
      'rejected→in_review',
    ]);
  });

  test('expired and cancelled are final', () => {
    for (const from of ['expired', 'cancelled'] as const) {
      expect(ATTEMPT_STATUSES.filter((to) => findTransition(from, to))).toEqual([]);
    }
  });
});

/** What a user's attempts go through: moves tried at random, of which only those of the table are made. */
const tries = fc.array(
  fc.record({
    /** Which attempt, counted from the newest; one beyond the oldest opens another. */
    attempt: fc.nat(3),
    to: fc.constantFrom(...ATTEMPT_STATUSES),
    by: fc.constantFrom(...MOVERS),
  }),
  { maxLength: 60 },
);

describe('any sequence of moves', () => {
  test('stays within the table, and the projection is what a plain reading of the history says', () => {
    fc.assert(
      fc.property(tries, (steps) => {
        const attempts: AttemptStatus[][] = []; // each attempt's history, newest attempt first
        for (const { attempt, to, by } of steps) {
          const history = attempts[attempt];
          const from = history?.at(-1) ?? null;
          const anotherOpen = attempts.some((other) => other !== history && isOpen(other.at(-1) ?? 'expired'));
          if (!canMove(from, to, by) || (isOpen(to) && anotherOpen)) continue;
          if (history) history.push(to);
          else attempts.unshift([to]);

          for (const states of attempts) {
            expect(states[0]).toBe('awaiting_input');
            states.slice(1).forEach((state, i) => {
              expect(findTransition(states[i] ?? null, state)).toBeDefined();
            });
          }
          expect(attempts.filter((states) => isOpen(states.at(-1) ?? 'expired')).length).toBeLessThanOrEqual(1);
          expect(project(attempts.map((states) => states.at(-1) ?? 'expired'))).toBe(reading(attempts));
        }
      }),
      { numRuns: 500 },
    );
  });

  /** The projection, told the other way round: from the oldest attempt on, what each does to what stood before. */
  function reading(newestFirst: AttemptStatus[][]): string {
    let stands = 'unverified';
    let verified = false;
    let pending = false;
    for (const states of newestFirst.toReversed()) {
      const now = states.at(-1);
      if (now === 'approved') verified = true;
      else if (now === 'rejected' || now === 'expired') stands = now;
      else if (now !== 'cancelled') pending = true;
    }
    if (verified) return 'verified';
    return pending ? 'pending' : stands;
  }
});

describe('the projection', () => {
  test.each<[AttemptStatus[], string]>([
    [[], 'unverified'],
    [['awaiting_input'], 'pending'],
    [['processing'], 'pending'],
    [['in_review'], 'pending'],
    [['approved'], 'verified'],
    [['rejected'], 'rejected'],
    [['expired'], 'expired'],
    [['cancelled'], 'unverified'],
    [['in_review', 'approved'], 'verified'],
    [['rejected', 'approved'], 'verified'],
    [['approved', 'rejected'], 'verified'],
    [['in_review', 'rejected'], 'pending'],
    [['cancelled', 'rejected'], 'rejected'],
    [['cancelled', 'expired'], 'expired'],
    [['rejected', 'expired'], 'rejected'],
  ])('of %j is %s', (newestFirst, expected) => {
    expect(project(newestFirst)).toBe(expected);
  });
});
