import type { z } from 'zod';
import type { Problem } from '../problem.ts';

/** The first thing wrong as a VALIDATION_ERROR that names the field (`document.expires_on`) and never its value. */
export function invalid(error: z.ZodError, whole: string): Problem {
  const issue = error.issues[0];
  const unknown = issue?.code === 'unrecognized_keys' ? issue.keys.slice(0, 1) : [];
  const field = [...(issue?.path ?? []), ...unknown].join('.');
  const why = unknown.length > 0 ? 'is not a known field' : (issue?.message ?? 'is not valid');
  return { code: 'VALIDATION_ERROR', message: `${field || whole} ${why}`, ...(field ? { field } : {}) };
}
