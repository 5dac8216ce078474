import { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { z } from 'zod';
import type { MachineClient } from '../domain/api-keys/scopes.ts';
import type { RequestContext } from '../domain/messages/envelope.ts';
import { Refusal } from '../domain/problem.ts';
import type { Logger } from '../services/logger.ts';
import type { RateLimiter } from './rate-limiter.ts';

/** Who is signed in, as the access token says. */
export interface Session {
  userId: string;
  sessionId: string;
  role: string;
  /** Its role needs a second factor first: `admitEnrolment` routes alone take it. */
  mustEnrol?: boolean;
}

/** What every handler finds on `c.var`. */
export interface ApiEnv {
  Variables: {
    requestId: string;
    context: RequestContext;
    session?: Session;
    /** The machine client whose API key was sent. Never together with `session`. */
    client?: MachineClient;
    log: Logger;
    limiter?: RateLimiter;
    /** Why a token that was sent does not count; only routes that need a user hear of it. */
    authentication?: { presented?: 'token' | 'key'; failure?: unknown; enrolling?: Session };
  };
}

export type ApiContext = Context<ApiEnv>;
export type ApiRouter = OpenAPIHono<ApiEnv>;

/** A router whose validation failures are a `Refusal` with VALIDATION_ERROR that names the field. */
export function createRouter(): ApiRouter {
  return new OpenAPIHono<ApiEnv>({
    defaultHook: (result) => {
      if (!result.success) throw refusalOf(result.error);
    },
  });
}

/** Of one answer: what a careless client sends can be wrong in thousands of places. */
const MAX_DETAILS = 100;
/** Of a field's name in an answer, in UTF-16 code units. */
const MAX_FIELD = 300;

/** The first issue as the answer's message and field; when there are more, the first 100 as `details`. */
export function refusalOf(error: z.ZodError): Refusal {
  const found = error.issues.slice(0, MAX_DETAILS).flatMap(flatten).slice(0, MAX_DETAILS).map(describe);
  const first = found[0] ?? { message: 'the request is not valid' };
  return new Refusal({ code: 'VALIDATION_ERROR', ...first, ...(found.length > 1 ? { details: found } : {}) });
}

/** `['events', 3, 'type']` → `events[3].type`. */
export function fieldPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, part) => (typeof part === 'number' ? `${text}[${part}]` : text ? `${text}.${String(part)}` : String(part)),
    '',
  );
}

/** A union reports the branch that came furthest: the one with the deepest complaint. */
function flatten(issue: z.core.$ZodIssue): z.core.$ZodIssue[] {
  if (issue.code !== 'invalid_union') return [issue];
  const branches = issue.errors.filter((branch) => branch.length > 0);
  const depth = (branch: z.core.$ZodIssue[]) => Math.max(...branch.map((i) => i.path.length));
  const best = branches.toSorted((a, b) => depth(b) - depth(a))[0];
  if (!best || depth(best) === 0) return [issue];
  return best.flatMap((inner) => flatten({ ...inner, path: [...issue.path, ...inner.path] } as z.core.$ZodIssue));
}

function describe(issue: z.core.$ZodIssue): { message: string; field?: string } {
  const path = issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0] ?? ''] : issue.path;
  const field = fieldPath(path).slice(0, MAX_FIELD);
  const text = wording(issue);
  return field ? { message: `${field} ${text}`, field } : { message: `the body ${text}` };
}

const TYPES: Record<string, string> = {
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  object: 'a JSON object',
  record: 'a JSON object',
  array: 'a list',
  null: 'null',
};

/** Zod's own wording is for programmers; what a schema says itself is left as it is. */
function wording(issue: z.core.$ZodIssue): string {
  if (!/^(Invalid|Too (small|big)|Unrecognized)/.test(issue.message)) return issue.message;
  switch (issue.code) {
    case 'invalid_type':
      if (issue.message.endsWith('received undefined') && issue.path.length > 0) return 'is required';
      return `must be ${TYPES[issue.expected] ?? issue.expected}`;
    case 'unrecognized_keys':
      return 'is not a known field';
    case 'invalid_value':
      return `must be ${issue.values.length > 1 ? 'one of ' : ''}${issue.values.map(String).join(', ')}`;
    case 'too_small':
      return `must ${amount(issue.origin, 'at least', Number(issue.minimum))}`;
    case 'too_big':
      return `must ${amount(issue.origin, 'at most', Number(issue.maximum))}`;
    case 'invalid_format':
      return `is not a valid ${issue.format}`;
    default:
      return 'is not valid';
  }
}

function amount(origin: string, bound: string, n: number): string {
  if (origin === 'string') return `have ${bound} ${n} ${n === 1 ? 'character' : 'characters'}`;
  if (origin === 'array' || origin === 'set') return `have ${bound} ${n} ${n === 1 ? 'item' : 'items'}`;
  return `be ${bound} ${n}`;
}
