/** The tenant that a view is about, named in its address; without one it is the default. */
export const tenantOf = (ctx) => ctx.query.get('tenant') || undefined;

/** `#/path?tenant=…&more`: the tenant goes on from page to page. */
export function inTenant(ctx, path, more = {}) {
  const tenant = tenantOf(ctx);
  const query = new URLSearchParams({ ...(tenant ? { tenant } : {}), ...more }).toString();
  return `#/${path}${query ? `?${query}` : ''}`;
}
