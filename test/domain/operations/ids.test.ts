import { expect, it } from 'vitest';
import { isUuid, OperationIds, timeOfId } from '../../../src/domain/ids.ts';
import { OPERATION_TYPES } from '../../../src/domain/operations/types.ts';
import { COMMANDS } from '../../../src/workers/commands.ts';

const ids = new OperationIds(Buffer.alloc(32, 1));
const AT = Date.parse('2026-11-20T10:15:30.123Z');

it('has a place for every command', () => {
  expect([...OPERATION_TYPES].toSorted()).toEqual(COMMANDS.map(({ type }) => type).toSorted());
  expect(OPERATION_TYPES.length).toBeLessThan(16);
});

it.each([...OPERATION_TYPES, undefined])('an id for %s says so, and when', (type) => {
  const id = ids.issue(type, AT);
  expect(isUuid(id)).toBe(true);
  expect(id[14]).toBe('7');
  expect(timeOfId(id)).toBe(AT);
  expect(ids.read(id)).toEqual({ at: AT, type });
  expect(new OperationIds(Buffer.alloc(32, 2), Buffer.alloc(32, 1)).read(id)).toEqual({ at: AT, type });
  expect(new OperationIds(Buffer.alloc(32, 2)).read(id)).toBeUndefined();
});

it('a command without a place has ids that do not name it', () => {
  expect(ids.read(ids.issue('area.verb', AT))).toEqual({ at: AT, type: undefined });
});

it('an id that was changed anywhere was not issued', () => {
  for (let n = 0; n < 50; n += 1) {
    const id = ids.issue('kyc.submit');
    for (const [at, digit] of [...id].entries()) {
      if (digit === '-') continue;
      const other = ((Number.parseInt(digit, 16) + 1 + (n % 15)) % 16).toString(16);
      expect(ids.read(id.slice(0, at) + other + id.slice(at + 1))).toBeUndefined();
    }
  }
});
