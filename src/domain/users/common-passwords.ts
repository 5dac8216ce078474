/**
 * The most used passwords: `passwords-common` of @zxcvbn-ts/language-common (MIT), 49,233 of them in lower case, of which
 * 17,950 have 8 characters or more. OWASP ASVS 5.0, 6.2.4, asks for 3,000 that fit the password policy.
 */
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
let common: Set<string> | undefined;

/** Read at the first password that is chosen (about 50 ms and 5 MB, November 2026): most processes never see one. */
function load(): Set<string> {
  const { dictionary } = require('@zxcvbn-ts/language-common') as typeof import('@zxcvbn-ts/language-common');
  return new Set(dictionary['passwords-common']);
}

/** Whether a password stands on the list, in whatever case. */
export function isCommonPassword(password: string): boolean {
  common ??= load();
  return common.has(password.toLowerCase());
}
