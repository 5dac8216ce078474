import { describe, expect, test } from 'vitest';
import { COUNTRIES } from '../../../src/domain/kyc/countries.ts';
import { parseSubmission } from '../../../src/domain/kyc/submission.ts';
import { Refusal } from '../../../src/domain/problem.ts';
import { day, submission } from './stage.ts';

const fieldRefused = (input: unknown): string | undefined => {
  try {
    parseSubmission(input);
  } catch (error) {
    if (error instanceof Refusal && error.problem.code === 'VALIDATION_ERROR') return error.problem.field ?? '(body)';
    throw error;
  }
  return undefined;
};

describe('a submission', () => {
  test('is taken as it is, the number without the spaces around it', () => {
    expect(parseSubmission(submission({ number: '  AB 123 ' })).document.number).toBe('AB 123');
    expect(fieldRefused(submission({ expires_on: day(0) }))).toBeUndefined();
    expect(fieldRefused(submission({ number: 'МП3456789' }))).toBeUndefined();
  });

  test.each<[string, unknown]>([
    ['date_of_birth', '1987-02-30'],
    ['date_of_birth', '1987-4-12'],
    ['date_of_birth', '12.04.1987'],
    ['date_of_birth', '1987-04-12T00:00:00Z'],
    ['date_of_birth', day(0)],
    ['date_of_birth', day(400)],
    ['date_of_birth', `${new Date().getUTCFullYear() - 131}-01-01`],
    ['date_of_birth', 19870412],
    ['date_of_birth', undefined],
    ['country', 'Portugal'],
    ['country', 'PRT'],
    ['country', 'pt'],
    ['country', 'XX'],
    ['country', 'EU'],
    ['country', 'UK'],
    ['country', ''],
    ['country', null],
    ['document', undefined],
    ['document', 'passport'],
    ['document', []],
  ])('is refused for %s: %j', (field, value) => {
    expect(fieldRefused({ ...submission(), [field]: value })).toBe(field);
  });

  test.each<[string, unknown]>([
    ['type', 'library_card'],
    ['type', undefined],
    ['number', 'AB'],
    ['number', ' A  '],
    ['number', 'A'.repeat(65)],
    ['number', 'AB\u00001'],
    ['number', 'AB\n123'],
    ['number', 'AB\ud800123'],
    ['number', 123456],
    ['expires_on', day(-1)],
    ['expires_on', '2031-02-29'],
    ['expires_on', 'never'],
    ['expires_on', undefined],
  ])('is refused for document.%s: %j', (field, value) => {
    const input = submission();
    expect(fieldRefused({ ...input, document: { ...input.document, [field]: value } })).toBe(`document.${field}`);
  });

  test('is refused with a field that nobody asked for', () => {
    expect(fieldRefused({ ...submission(), selfie: 'x' })).toBe('selfie');
    expect(fieldRefused(submission({ selfie: 'x' } as object))).toBe('document.selfie');
  });

  test('a refusal never repeats what was handed in', () => {
    expect(() => parseSubmission(submission({ number: 'SECRET-NUMBER\u0000' }))).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('SECRET-NUMBER') }),
    );
  });
});

test('the countries are the 249 of ISO 3166-1', () => {
  expect(COUNTRIES.size).toBe(249);
  const names = new Intl.DisplayNames('en', { type: 'region', fallback: 'none' });
  expect([...COUNTRIES].filter((code) => names.of(code) === undefined)).toEqual([]);
});
