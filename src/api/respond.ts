import type { TypedResponse } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { PROBLEM_STATUS, type Problem } from '../domain/problem.ts';
import type { ApiContext } from './router.ts';

/** An answer that fits any route's declared responses: the envelope is built here and nowhere else. */
export type Answer = Response & TypedResponse<never, never, never>;

export interface PagePagination {
  page: number;
  limit: number;
  total_items: number;
  total_pages: number;
  has_next: boolean;
  has_prev: boolean;
}

export interface CursorPagination {
  limit: number;
  has_more: boolean;
  next_cursor: string | null;
}

export interface AnswerOptions {
  status?: ContentfulStatusCode;
  message?: string;
  pagination?: PagePagination | CursorPagination;
  headers?: Record<string, string>;
}

/** The success envelope (product contract, "HTTP conventions"): `pagination` stands beside `data`. */
export function ok(c: ApiContext, data: unknown, options: AnswerOptions = {}): Answer {
  const body = {
    status: 'success',
    data: data ?? null,
    ...(options.message === undefined ? {} : { message: options.message }),
    ...(options.pagination === undefined ? {} : { pagination: options.pagination }),
    meta: meta(c),
  };
  return c.json(body, options.status ?? 200, options.headers) as unknown as Answer;
}

/** The error envelope; `retry_after` becomes `Retry-After` too, and a 401 says how to sign in (RFC 9110, section 11.6.1). */
export function problemResponse(c: ApiContext, problem: Problem, headers: Record<string, string> = {}): Answer {
  const { code, message, field, details, retry_after } = problem;
  const error = {
    code,
    message,
    ...(field === undefined ? {} : { field }),
    ...(details === undefined ? {} : { details }),
    ...(retry_after === undefined ? {} : { retry_after }),
  };
  const all = {
    ...(code === 'UNAUTHORIZED' ? { 'WWW-Authenticate': 'Bearer' } : {}),
    ...(retry_after === undefined ? {} : { 'Retry-After': String(Math.max(1, Math.ceil(retry_after))) }),
    ...headers,
  };
  return c.json({ status: 'error', error, meta: meta(c) }, PROBLEM_STATUS[code] ?? 500, all) as unknown as Answer;
}

/** The `pagination` of a page list. */
export function pagination(query: { page: number; limit: number }, totalItems: number): PagePagination {
  const totalPages = Math.ceil(totalItems / query.limit);
  return {
    page: query.page,
    limit: query.limit,
    total_items: totalItems,
    total_pages: totalPages,
    has_next: query.page < totalPages,
    has_prev: query.page > 1 && totalPages > 0,
  };
}

const meta = (c: ApiContext) => ({ timestamp: new Date().toISOString(), request_id: c.get('requestId') });
