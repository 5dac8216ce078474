import { z } from '@hono/zod-openapi';
import { refuse } from '../domain/problem.ts';
import type { ApiContext } from './router.ts';

export const DEFAULT_TENANT = 'default';

/** A tenant's name. */
export const tenant = z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/, 'must be 1 to 64 of letters, digits, _, . and -');

/** Whose: endpoints, events, types and keys belong to a tenant. A key has one, an admin may name one. */
export const tenantQuery = z.object({
  tenant: tenant
    .optional()
    .openapi({ description: 'For admins; `default` when absent. An API key has its own, and naming another is 403.' }),
});

/** The tenant that a request is about: a key's own, or the one that an admin names. 403 for a key that names another. */
export function tenantOf(c: ApiContext, named: string | undefined): string {
  const client = c.get('client');
  if (!client) return named ?? DEFAULT_TENANT;
  if (named !== undefined && named !== client.tenant)
    refuse('FORBIDDEN', 'this API key belongs to another tenant', { field: 'tenant' });
  return client.tenant;
}
