/*
 * What a tenant's JSON Schema may hold. A schema comes from a machine client and is compiled into code that runs in the
 * API process, so it is looked through before the compiler sees it: bounded in size and depth, no reference outside of
 * itself, no asynchronous validation (its verdict would be a promise, which is never false), and only patterns short
 * enough to be read by whoever has to.
 */

export const MAX_SCHEMA_BYTES = 64 * 1024;
const MAX_DEPTH = 32;
const MAX_PATTERN = 200;
const DIALECT = /^https:\/\/json-schema\.org\/draft\/2020-12\/schema#?$/;

/** What is wrong, and where in the schema or the data. */
export interface Fault {
  path: PropertyKey[];
  message: string;
}

/** A schema that was looked through. */
export interface GuardedSchema {
  schema: Record<string, unknown>;
  /** Its size, for an estimate of what it costs to apply. */
  nodes: number;
  /** Whether that cost is not bounded by the size of schema and data: patterns, comparisons of all with all, references. */
  costly: boolean;
}

const COSTLY = new Set(['pattern', 'patternProperties', 'uniqueItems', '$ref', '$dynamicRef', 'contains']);

/** The schema without what only names it (`$id`, `$schema`), or the first fault found. */
export function guardSchema(given: Record<string, unknown>): GuardedSchema | Fault {
  const { $id, $schema, ...schema } = given;
  if ($schema !== undefined && !(typeof $schema === 'string' && DIALECT.test($schema)))
    return { path: ['$schema'], message: 'must be https://json-schema.org/draft/2020-12/schema' };
  if ($id !== undefined && typeof $id !== 'string') return { path: ['$id'], message: 'must be a string' };
  const found = { nodes: 0, costly: false };
  const fault = walk(schema, [], found);
  return fault ?? { schema, ...found };
}

/** Looks at examples and constants as if they were schemas too: nothing hides there, at the price of a rare refusal. */
function walk(value: unknown, path: PropertyKey[], found: { nodes: number; costly: boolean }): Fault | undefined {
  found.nodes += 1;
  if (typeof value !== 'object' || value === null) return undefined;
  if (path.length >= MAX_DEPTH) return { path: [], message: `must be nested ${MAX_DEPTH} levels deep at most` };
  for (const [key, inner] of Object.entries(value)) {
    const here = [...path, Array.isArray(value) ? Number(key) : key];
    if (COSTLY.has(key)) found.costly = true;
    const message = objection(key, inner);
    if (message !== undefined) return { path: here, message };
    const fault = walk(inner, here, found);
    if (fault) return fault;
  }
  return undefined;
}

/** What is wrong with a keyword. A property of the data may have the same name, but its value is then a schema. */
function objection(key: string, value: unknown): string | undefined {
  if (key === '$async') return 'is not supported';
  if (key === '__proto__') return 'is no name for a field';
  if (key === 'patternProperties' && typeof value === 'object' && value !== null)
    return Object.keys(value).map(patternFault).find(Boolean);
  if (typeof value !== 'string') return undefined;
  if (key === '$id' || key === '$schema') return 'can stand at the root alone';
  if (/^\$(ref|dynamicRef|recursiveRef)$/.test(key) && !value.startsWith('#'))
    return 'must refer to this schema itself (#…)';
  return key === 'pattern' ? patternFault(value) : undefined;
}

function patternFault(pattern: string): string | undefined {
  if (pattern.length > MAX_PATTERN) return `must have patterns of at most ${MAX_PATTERN} characters`;
  try {
    new RegExp(pattern, 'u');
    return undefined;
  } catch {
    return 'must be a regular expression (ECMA-262, with the flag u)';
  }
}
