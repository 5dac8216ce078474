import { HTTPException } from 'hono/http-exception';
import { PROBLEM_STATUS, type Problem, type ProblemCode, Refusal } from '../domain/problem.ts';
import { BrokerUnavailable } from '../queues/gateway.ts';
import { isTransient } from '../services/database.ts';
import { problemResponse } from './respond.ts';
import type { ApiContext } from './router.ts';

/** Seconds after which a caller may try again what a service in trouble could not take. */
export const RETRY_AFTER = 2;
export const BROKER_AWAY = 'the request cannot be taken at the moment';

/** The one place where a thrown error becomes an answer. Only what is nobody's refusal is logged, with its stack. */
export function answerError(error: Error, c: ApiContext): Response {
  const problem = problemOf(error);
  if (problem.code === 'SERVICE_UNAVAILABLE') c.get('log')?.warn({ err: error }, 'a service is out of reach');
  if (problem.code === 'INTERNAL_ERROR') c.get('log')?.error({ err: error }, 'the request failed');
  return problemResponse(c, problem);
}

function problemOf(error: Error): Problem {
  if (error instanceof Refusal) return error.problem;
  if (error instanceof HTTPException) return fromHttp(error);
  if (error instanceof BrokerUnavailable)
    return {
      code: 'SERVICE_UNAVAILABLE',
      message: BROKER_AWAY,
      retry_after: RETRY_AFTER,
    };
  if (isCutOff(error)) return { code: 'VALIDATION_ERROR', message: 'the body did not arrive as a whole' };
  if (isTransient(error))
    return {
      code: 'SERVICE_UNAVAILABLE',
      message: 'the request cannot be served at the moment',
      retry_after: RETRY_AFTER,
    };
  return { code: 'INTERNAL_ERROR', message: 'something went wrong on our side' };
}

/** What node:http makes of a body that ends before its end: the client's doing, and nobody reads the answer. */
const isCutOff = (error: Error): boolean =>
  'code' in error && error.code === 'ECONNRESET' && error.message === 'aborted';

/** What the framework itself refuses: JSON that does not parse, a media type that a route does not take. */
function fromHttp(error: HTTPException): Problem {
  const [code] =
    (Object.entries(PROBLEM_STATUS) as [ProblemCode, number][]).find(([, status]) => status === error.status) ?? [];
  if (code === 'VALIDATION_ERROR') return { code, message: 'the body is not valid JSON' };
  if (code === 'UNSUPPORTED_MEDIA_TYPE') return { code, message: 'the body must be application/json' };
  return {
    code: code ?? 'INTERNAL_ERROR',
    message: code ? error.message || 'the request was refused' : 'something went wrong on our side',
  };
}
