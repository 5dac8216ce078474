import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { csvCell } from '../../../src/domain/audit/export.ts';
import { auditRecord, isPersonal, subjectOf } from '../../../src/domain/audit/record.ts';
import { record } from './log.ts';

const refused = (over: object) => auditRecord.safeParse({ ...record(), ...over }).success === false;

describe('audit record', () => {
  it.each([
    ['id', { id: 'no' }],
    ['time', { occurred_at: 'yesterday' }],
    ['time beyond PostgreSQL and Date', { occurred_at: '0000-01-01T00:00:00Z' }],
    ['action without a dot', { action: 'registered' }],
    ['actor type', { actor: { type: 'robot', id: null } }],
    ['eleven targets', { targets: Array.from({ length: 11 }, () => ({ type: 'user', id: 'x' })) }],
    ['51 keys', { metadata: Object.fromEntries(Array.from({ length: 51 }, (_, i) => [`k${i}`, i])) }],
    ['key of 41', { metadata: { ['k'.repeat(41)]: 1 } }],
    ['value of 501', { metadata: { k: 'v'.repeat(501) } }],
    ['fraction', { metadata: { k: 1.5 } }],
    ['unsafe integer', { metadata: { k: 2 ** 53 } }],
    ['U+0000', { metadata: { k: 'a\0b' } }],
    ['lone surrogate', { metadata: { k: '\ud800' } }],
    ['nested value', { metadata: { k: {} } }],
    ['unknown field', { extra: 1 }],
  ])('refuses a wrong %s', (_, over) => {
    expect(refused(over)).toBe(true);
  });

  it('cuts what a stranger sends instead of refusing it, and parses its own output', () => {
    const long = record({ context: { user_agent: `${'a'.repeat(511)}😀`, ip: '::1\0' } });
    expect(long.context.user_agent).toBe(`${'a'.repeat(511)}\ufffd`);
    expect(long.context.ip).toBe('::1');
    expect(auditRecord.parse(long)).toEqual(long);
  });

  it('takes the subject, then the acting user, then nobody', () => {
    const id = randomUUID();
    const subject = randomUUID();
    expect(subjectOf(record({ actor: { type: 'user', id }, subject }))).toBe(subject);
    expect(subjectOf(record({ actor: { type: 'user', id } }))).toBe(id);
    expect(subjectOf(record({ actor: { type: 'api_key', id } }))).toBeNull();
    expect(subjectOf(record({ actor: { type: 'anonymous', id: null } }))).toBeNull();
  });

  it('knows personal keys alone and after a prefix', () => {
    expect(['email', 'previous_email', 'full_name', 'Address', 'ip'].every(isPersonal)).toBe(true);
    expect(['emails_sent', 'reason', 'role', 'skip'].some(isPersonal)).toBe(false);
  });
});

describe('CSV cell', () => {
  it.each([
    ['=1+1', "'=1+1"],
    ['+1', "'+1"],
    ['-1', "'-1"],
    ['@x', "'@x"],
    ['a,"b"', '"a,""b"""'],
    ['=a,b', '"\'=a,b"'],
    [-5, '-5'],
    [null, ''],
  ])('%j becomes %s', (value, cell) => {
    expect(csvCell(value)).toBe(cell);
  });
});
