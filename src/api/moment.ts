import { timestamp } from './schemas.ts';

/** An RFC 3339 time in a query, as UTC. PostgreSQL knows no year 0 and none beyond 9999, whatever the offset makes of it. */
export const moment = timestamp
  .transform((value, issues) => {
    const at = new Date(value);
    const year = at.getUTCFullYear();
    if (year >= 1 && year <= 9999) return at.toISOString();
    issues.addIssue({ code: 'custom', message: 'must be an RFC 3339 time' });
    return value;
  })
  .openapi({ type: 'string', format: 'date-time', example: '2026-11-20T10:15:30.000Z' });
