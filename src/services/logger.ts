import { type DestinationStream, type Logger, pino } from 'pino';
import pretty from 'pino-pretty';

export type { Logger };

const SECRET_KEYS = [
  'password',
  'current_password',
  'new_password',
  'token',
  'refresh_token',
  'access_token',
  'secret',
  'authorization',
  'cookie',
  'key',
];

/** Where a word starts in serialised text: not inside another word, unless what stands before is an escape such as `\n`. */
const START = String.raw`(?<=^|[^\p{L}\p{N}_]|\\[bfnrt]|\\u[\da-f]{4})`;
/** A key whose value is a secret wherever it stands, as JSON or as JSON inside a string. */
const SECRET_KEY = String.raw`[\w-]*(?:password(?:_?hash)?|secret|token|authorization|cookie)|(?:api_?|secrets?_?|private_?)?key`;

/** Patterns scrubbed from every finished line, wherever they stand: in a message, an error or a nested object. */
const SCRUBBED: [RegExp, string][] = [
  [/(\b[a-z][a-z0-9+.-]{0,19}:\/\/[^:@/\s"\\]{0,100}:)[^@/\s"\\]{1,200}@/gi, '$1[password]@'],
  [/([?&#](?:[\w-]*token|password|secret)=)[^&\s"\\]+/gi, '$1[token]'],
  [new RegExp(String.raw`("(?:${SECRET_KEY})":\s*)"(?:[^"\\]|\\.)*"`, 'gi'), '$1"[redacted]"'],
  [new RegExp(String.raw`(\\"(?:${SECRET_KEY})\\":\s*\\")(?:\\\\(?:\\.|[^\\])|[^"\\])*\\"`, 'gi'), '$1[redacted]\\"'],
  [new RegExp(String.raw`${START}eyJ[\w-]{8,}\.[\w-]*\.[\w-]*(?:\.[\w-]*\.[\w-]*)?`, 'gu'), '[token]'],
  [new RegExp(`${START}(?:whsec_|whsk_|wb_|wbr_)[A-Za-z0-9+/=_-]{8,}`, 'gu'), '[secret]'],
  [new RegExp(String.raw`${START}Bearer +[\w.~+/=-]+`, 'giu'), 'Bearer [token]'],
];

/** An e-mail address, `@` plain or percent-encoded; an escape is matched first, so that its letter is no part of one. */
const ADDRESS =
  /(\\(?:u[\da-f]{4}|.))|[\p{L}\p{N}_.!#$%&'*+/=?^`{|}~-]{1,64}(?:@|%40)[\p{L}\p{N}-]{1,63}(?:\.[\p{L}\p{N}-]{1,63})+/giu;

/** Removes e-mail addresses, tokens, secrets and passwords in URLs from a line of text; JSON stays JSON. */
export function scrub(line: string): string {
  let out = line;
  for (const [pattern, replacement] of SCRUBBED) out = out.replace(pattern, replacement);
  return out.replace(ADDRESS, (_match, kept: string | undefined) => kept ?? '[email]');
}

/**
 * JSON lines (pretty in a terminal). Every line is scrubbed of e-mail addresses, tokens and passwords
 * after it was serialised, so that no call site has to remember.
 */
export function createLogger(options: { level: string; pretty?: boolean; destination?: DestinationStream }): Logger {
  const sink =
    options.destination ??
    (options.pretty
      ? pretty({ colorize: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l', sync: true })
      : process.stdout);
  return pino(
    {
      level: options.level,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRET_KEYS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: '[redacted]' },
      hooks: { streamWrite: scrub },
    },
    sink,
  );
}
