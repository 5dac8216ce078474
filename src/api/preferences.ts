/** The longest that a caller may ask to wait. */
const MAX_WAIT_S = 30;

export interface Preferences {
  respondAsync: boolean;
  /** `undefined` when the caller did not say. */
  waitMs: number | undefined;
  /** For `Preference-Applied`. */
  applied: string[];
}

/**
 * `respond-async` and `wait` of a `Prefer` header (RFC 7240, sections 4.1 and 4.3). Of a preference given twice the
 * first counts (section 2); unknown and malformed ones are ignored; a wait beyond 30 s is 30 s.
 */
export function preferencesOf(header: string | undefined): Preferences {
  const given = new Map<string, string>();
  for (const part of (header ?? '').split(',')) {
    const [, name, quoted, bare] = /^\s*([\w-]+)\s*(?:=\s*(?:"([^"]*)"|([^\s;"]*)))?\s*(?:;.*)?$/.exec(part) ?? [];
    if (name && !given.has(name.toLowerCase())) given.set(name.toLowerCase(), quoted ?? bare ?? '');
  }
  const wait = given.get('wait');
  const seconds = wait !== undefined && /^\d{1,9}$/.test(wait) ? Math.min(Number(wait), MAX_WAIT_S) : undefined;
  const respondAsync = given.has('respond-async');
  return {
    respondAsync,
    waitMs: seconds === undefined ? undefined : seconds * 1000,
    applied: [...(respondAsync ? ['respond-async'] : []), ...(seconds === undefined ? [] : [`wait=${seconds}`])],
  };
}
