import { describe, expect, it } from 'vitest';
import { type Check, compileSchema } from '../../../src/domain/events/schema-check.ts';
import { TimeLimitExceeded, withinTime, workedMs } from '../../../src/domain/events/time-limit.ts';

const compiled = (schema: Record<string, unknown>): Check => {
  const check = compileSchema(schema);
  if (typeof check !== 'function') throw new Error(`${check.path.join('.')} ${check.message}`);
  return check;
};
const faultOf = (schema: Record<string, unknown>, data: unknown) => compiled(schema)(data, JSON.stringify(data).length);

const ORDER = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  $id: 'https://example.com/order.json',
  type: 'object',
  required: ['order_id'],
  properties: {
    order_id: { type: 'string', minLength: 1 },
    items: { type: 'array', items: { $ref: '#/$defs/item' } },
    at: { type: 'string', format: 'date-time' },
    kind: { enum: ['a', 'b'] },
  },
  additionalProperties: false,
  $defs: {
    item: { type: 'object', required: ['price'], properties: { price: { type: 'number' }, 'a/b~c': { type: 'null' } } },
  },
};

describe('data', () => {
  it('fits', () => {
    expect(
      faultOf(ORDER, { order_id: 'o', items: [{ price: 1 }], at: '2026-11-20T10:00:00Z', kind: 'a' }),
    ).toBeUndefined();
    expect(faultOf({}, { anything: 1 })).toBeUndefined();
    expect(faultOf({ properties: { a: { format: 'not-a-format' } }, 'x-mine': 1 }, { a: 'x' })).toBeUndefined();
  });

  it.each([
    [{}, ['order_id'], 'is required'],
    [{ order_id: 7 }, ['order_id'], 'must be string'],
    [{ order_id: 'o', items: [{ price: 1 }, {}] }, ['items', 1, 'price'], 'is required'],
    [{ order_id: 'o', items: [{ price: 1, 'a/b~c': 2 }] }, ['items', 0, 'a/b~c'], 'must be null'],
    [{ order_id: 'o', more: 1 }, ['more'], 'is not a known field'],
    [{ order_id: 'o', kind: 'c' }, ['kind'], 'must be one of "a","b"'],
    [{ order_id: 'o', at: 'soon' }, ['at'], 'must match format "date-time"'],
  ])('%j does not, and the fault is named', (data, path, message) => {
    expect(faultOf(ORDER, data)).toEqual({ path, message });
  });

  it('is asked for fields of its own, not inherited ones', () => {
    expect(faultOf({ required: ['constructor'] }, {})?.path).toEqual(['constructor']);
    expect(faultOf({ required: ['toString'] }, { toString: 1 })).toBeUndefined();
  });

  it.each([
    ['a pattern that backtracks for ever', { properties: { a: { pattern: '^(a+)+$' } } }, { a: `${'a'.repeat(40)}!` }],
    [
      'a comparison of all with all',
      { properties: { a: { uniqueItems: true } } },
      { a: Array.from({ length: 50_000 }, (_, i) => ({ i })) },
    ],
  ])('is refused in bounded time for %s', (_what, schema, data) => {
    const began = workedMs();
    expect(faultOf(schema, data)?.message).toMatch(/takes too long/);
    expect(workedMs() - began).toBeLessThan(1500);
  });

  it('shares one budget of time with the rest of its request', () => {
    const check = compiled({ properties: { a: { pattern: '^(a+)+$' } } });
    const slow = { a: `${'a'.repeat(40)}!` };
    const budget = { ms: 100 };
    const began = workedMs();
    for (let n = 0; n < 50; n += 1) expect(check(slow, 60, budget)).toBeDefined();
    expect(workedMs() - began).toBeLessThan(1000);
    expect(check({ a: 'aaa' }, 10)).toBeUndefined();
  });
});

describe('a schema is refused', () => {
  const deep = (levels: number): Record<string, unknown> =>
    levels === 0 ? {} : { properties: { a: deep(levels - 1) } };
  const doubling = (n: number) => ({
    $ref: '#/$defs/d0',
    $defs: Object.fromEntries([
      ...Array.from({ length: n }, (_, i) => [
        `d${i}`,
        { allOf: [{ $ref: `#/$defs/d${i + 1}` }, { $ref: `#/$defs/d${i + 1}` }] },
      ]),
      [`d${n}`, {}],
    ]),
  });
  const wide = (n: number) => ({
    properties: Object.fromEntries(Array.from({ length: n }, (_, i) => [`f${i}`, { type: 'string', minLength: 1 }])),
  });

  it.each<[string, Record<string, unknown>, string]>([
    ['with an unknown type', { properties: { a: { type: 'strin' } } }, 'properties.a.type'],
    ['with a keyword of the wrong kind', { required: 'a' }, 'required'],
    ['of another draft', { $schema: 'http://json-schema.org/draft-07/schema#' }, '$schema'],
    ['with a $id that is no text', { $id: 1 }, '$id'],
    ['with a second $id', { $defs: { a: { $id: 'https://example.com/a' } } }, '$defs.a.$id'],
    ['with a reference to elsewhere', { $ref: 'https://evil.example/schema' }, '$ref'],
    ['with a reference to a file', { properties: { a: { $ref: 'file:///etc/passwd' } } }, 'properties.a.$ref'],
    ['with a reference to the dialect', { $ref: 'https://json-schema.org/draft/2020-12/schema' }, '$ref'],
    ['with a dynamic reference to elsewhere', { $dynamicRef: 'x#y' }, '$dynamicRef'],
    ['with a reference to nothing', { $ref: '#/$defs/none' }, ''],
    ['that refers to itself without end', { $ref: '#' }, ''],
    ['that doubles at every step', doubling(30), ''],
    ['that is asynchronous', { $async: true }, '$async'],
    ['that is asynchronous below', { $defs: { a: { $async: true } } }, '$defs.a.$async'],
    ['nested too deep', deep(20), ''],
    ['too wide to be compiled', wide(3000), ''],
    ['with a long pattern', { pattern: 'a'.repeat(201) }, 'pattern'],
    ['with a long pattern for names', { patternProperties: { ['a'.repeat(201)]: {} } }, 'patternProperties'],
    ['with a pattern that is none', { properties: { a: { pattern: '(' } } }, 'properties.a.pattern'],
    ['with a pattern for names that is none', { patternProperties: { '[': {} } }, 'patternProperties'],
    ['with a field named __proto__', JSON.parse('{"properties":{"__proto__":{}}}'), 'properties.__proto__'],
  ])('%s', (_what, schema, path) => {
    const began = workedMs();
    const fault = compileSchema(schema);
    expect(fault).not.toBeTypeOf('function');
    expect('path' in fault ? fault.path.join('.') : '').toBe(path);
    expect(workedMs() - began).toBeLessThan(3000);
  });

  it('not for its own names, however they look', () => {
    const evil = `a"]);process.exitCode=99;//\`\${process.exit(1)}\u2028\n`;
    const schema = {
      properties: { [evil]: { const: evil }, pattern: { type: 'string' }, $ref: { type: 'string' } },
      title: evil,
    };
    expect(faultOf(schema, { [evil]: 'x' })).toEqual({ path: [evil], message: 'must be equal to constant' });
    expect(faultOf(schema, { [evil]: evil, pattern: 'x', $ref: 'https://example.com' })).toBeUndefined();
    expect(process.exitCode).not.toBe(99);
  });
});

describe('a time limit', () => {
  it('hands on what the work returns or throws, and ends what goes on for ever', () => {
    expect(withinTime(1000, () => 7)).toBe(7);
    expect(() => withinTime(1000, () => JSON.parse('{'))).toThrow(SyntaxError);
    expect(() =>
      withinTime(20, () => {
        for (;;);
      }),
    ).toThrow(TimeLimitExceeded);
    expect(withinTime(1000, () => withinTime(1000, () => 'inner'))).toBe('inner');
  });
});
