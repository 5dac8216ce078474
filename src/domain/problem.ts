/** The codes of the public contract and the HTTP status each stands for. */
export const PROBLEM_STATUS = {
  VALIDATION_ERROR: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  CONFLICT: 409,
  PRECONDITION_FAILED: 412,
  PAYLOAD_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  IDEMPOTENCY_KEY_REUSED: 422,
  RATE_LIMIT_EXCEEDED: 429,
  INTERNAL_ERROR: 500,
  SERVICE_UNAVAILABLE: 503,
} as const;

export type ProblemCode = keyof typeof PROBLEM_STATUS;

/** What a caller is told when something is refused: the `error` member of an error response. */
export interface Problem {
  code: ProblemCode;
  message: string;
  /** The offending field, in the path notation of the body: `document.expires_on`, `events[3].type`. */
  field?: string;
  details?: unknown;
  /** Seconds. */
  retry_after?: number;
}

/** A refusal on its way out of a use case. It is an answer, not a fault: it is never retried and never logged as an error. */
export class Refusal extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.message);
    this.name = 'Refusal';
    this.problem = problem;
  }
}

/** Shorthand for `throw new Refusal({…})` in expressions. */
export function refuse(code: ProblemCode, message: string, more: Omit<Problem, 'code' | 'message'> = {}): never {
  throw new Refusal({ code, message, ...more });
}
