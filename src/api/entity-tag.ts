import { type Answer, ok } from './respond.ts';
import type { ApiContext } from './router.ts';

/** A strong validator (RFC 9110, section 8.8.3): whose representation it is, and of which version. */
const entityTag = (id: string, version: number): string => `"${id}.${version}"`;

const tagsOf = (header: string): string[] => header.match(/(?:W\/)?"[^"]*"/g) ?? [];

/** 200 with `ETag`, or 304 when `If-None-Match` names what the client has (weak comparison, RFC 9110, section 13.1.2). */
export function okTagged(c: ApiContext, data: unknown, of: { id: string; version: number }): Answer {
  const tag = entityTag(of.id, of.version);
  const known = c.req.header('if-none-match')?.trim();
  const headers = { ETag: tag, Vary: 'Authorization' };
  if (known === '*' || (known && tagsOf(known).some((given) => given.replace(/^W\//, '') === tag)))
    return c.body(null, 304, headers) as unknown as Answer;
  return ok(c, data, { headers });
}

/**
 * The versions of the resource `id` that `If-Match` allows (strong comparison, section 13.1.1): `undefined` without the
 * header or with `*`, none when nothing in it is a tag of this resource.
 */
export function matchingVersions(c: ApiContext, id: string): number[] | undefined {
  const wanted = c.req.header('if-match')?.trim();
  if (wanted === undefined || wanted === '*') return undefined;
  return tagsOf(wanted).flatMap((tag) => {
    const [, whose, version] = /^"([^".]*)\.(\d{1,9})"$/.exec(tag) ?? [];
    return whose?.toLowerCase() === id.toLowerCase() && version ? [Number(version)] : [];
  });
}
