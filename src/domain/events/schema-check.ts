import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { type Fault, guardSchema } from './schema-guard.ts';
import { TimeLimitExceeded, withinTime, workedMs } from './time-limit.ts';

/** What compiling a new schema may take, in ms; 1,000 fields take 250 (two cores, November 2026). */
const COMPILE_MS = 500;
/** What checking the events of one request may take where it could take for ever, in ms. */
export const CHECK_MS = 250;
/** What a schema has at least, however often it ran out of its time; a quick check must fit in with its watching. */
const LEAST_MS = 5;
/** Schema nodes times bytes of data: below it a check without costly keywords ends in a few ms. */
const CHEAP = 2_000_000;

/** The time that the costly checks of one request have left, in ms. */
export interface Budget {
  ms: number;
}

/** What is wrong with data of `bytes` as JSON; `undefined` when it fits. */
export type Check = (data: unknown, bytes: number, budget?: Budget) => Fault | undefined;

const options = {
  strict: false,
  allErrors: false,
  ownProperties: true,
  // Inlined, a large definition that is referred to often would become megabytes of code.
  inlineRefs: false,
  // Tidying the code of 1,500 fields takes more than a second, and saves the checks nothing that can be measured.
  code: { optimize: false },
  logger: false,
} as const;
const dialect = new Ajv2020(options);

/**
 * Compiles a tenant's JSON Schema (draft 2020-12) into a check, or says what is wrong with it. Each schema gets a
 * compiler of its own, so that none can refer to another's. Formats are those of the specification; an unknown one
 * says nothing, as an unknown keyword.
 */
export function compileSchema(given: Record<string, unknown>, withinMs: number = COMPILE_MS): Check | Fault {
  const guarded = guardSchema(given);
  if ('message' in guarded) return guarded;
  const { schema, nodes, costly } = guarded;
  let validate: ValidateFunction | Fault;
  try {
    validate = withinTime(withinMs, () => compile(schema));
  } catch (error) {
    if (!isExcess(error)) throw error;
    return { path: [], message: 'is too large or too deep to be checked in time' };
  }
  if (typeof validate !== 'function') return validate;
  const fits = validate;
  const run = (data: unknown) => (fits(data) ? undefined : faultOf(fits.errors?.at(-1), data));
  // A check holds up everything else of the process, so a schema that ran out of its time gets less of it for a while.
  let allowanceMs = CHECK_MS;
  return (data, bytes, budget = { ms: CHECK_MS }) => {
    if (!costly && nodes * bytes <= CHEAP) return run(data);
    const mine = { ms: Math.min(budget.ms, allowanceMs) };
    const before = mine.ms;
    const fault = bounded(mine, () => run(data));
    budget.ms -= before - mine.ms;
    allowanceMs = mine.ms <= 0 ? Math.max(LEAST_MS, allowanceMs / 8) : Math.min(CHECK_MS, allowanceMs * 2);
    return fault;
  };
}

/** The code of a schema nests as it goes, so the end of the stack is met before the end of time. */
const isExcess = (error: unknown): boolean => error instanceof TimeLimitExceeded || error instanceof RangeError;

function compile(schema: Record<string, unknown>): ValidateFunction | Fault {
  if (!dialect.validateSchema(schema)) {
    return faultOf(dialect.errors?.[0], schema);
  }
  const ajv = new Ajv2020({ ...options, meta: false, validateSchema: false });
  addFormats.default(ajv);
  try {
    const validate = ajv.compile(schema);
    validate({}); // only now its code is read, and a reference that leads back to itself is found out
    return validate;
  } catch (error) {
    if (error instanceof RangeError) throw error;
    return { path: [], message: `cannot be compiled: ${(error as Error).message.slice(0, 200)}` };
  }
}

function bounded(budget: Budget, run: () => Fault | undefined): Fault | undefined {
  const began = workedMs();
  const slow = { path: [], message: 'takes too long to check against the schema of its type' };
  if (budget.ms <= 0) return slow;
  try {
    return withinTime(budget.ms, run);
  } catch (error) {
    if (isExcess(error)) return slow;
    throw error;
  } finally {
    budget.ms -= workedMs() - began;
  }
}

/** Keywords whose fault is a field that `params` names. */
const NAMED: Record<string, string> = {
  required: 'missingProperty',
  dependentRequired: 'missingProperty',
  additionalProperties: 'additionalProperty',
  unevaluatedProperties: 'unevaluatedProperty',
  propertyNames: 'propertyName',
};

function faultOf(error: ErrorObject | undefined, data: unknown): Fault {
  if (!error) return { path: [], message: 'does not fit its schema' };
  const path = pathOf(error.instancePath, data);
  const field: unknown = error.params[NAMED[error.keyword] ?? ''];
  if (typeof field === 'string') path.push(field);
  return { path, message: wording(error) };
}

/** A JSON pointer (RFC 6901) into `data`; an index is told from a name by what it stands in. */
function pathOf(pointer: string, data: unknown): PropertyKey[] {
  let at = data;
  return pointer
    .split('/')
    .slice(1)
    .map((part) => {
      const name = part.replaceAll('~1', '/').replaceAll('~0', '~');
      const key = Array.isArray(at) ? Number(name) : name;
      at = (at as Record<PropertyKey, unknown> | undefined)?.[key];
      return key;
    });
}

function wording({ keyword, params, message }: ErrorObject): string {
  switch (keyword) {
    case 'required':
    case 'dependentRequired':
      return 'is required';
    case 'additionalProperties':
    case 'unevaluatedProperties':
      return 'is not a known field';
    case 'enum':
      return `must be one of ${JSON.stringify(params.allowedValues).slice(1, -1)}`.slice(0, 200);
    default:
      return (message ?? 'does not fit its schema').slice(0, 200);
  }
}
