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

/**
 * Patterns scrubbed from every finished line, wherever they stand: in a message, an error or a nested object. A line
 * without the text that stands first cannot match, and to look for a text costs next to nothing.
 */
const SCRUBBED: [string, RegExp, string][] = [
  ['@', /(\b[a-z][a-z0-9+.-]{0,19}:\/\/[^:@/\s"\\]{0,100}:)[^@/\s"\\]{1,200}@/gi, '$1[password]@'],
  ['=', /([?&#](?:[\w-]*token|password|secret)=)[^&\s"\\]+/gi, '$1[token]'],
  ['":', new RegExp(String.raw`("(?:${SECRET_KEY})":\s*)"(?:[^"\\]|\\.)*"`, 'gi'), '$1"[redacted]"'],
  [
    '\\"',
    new RegExp(String.raw`(\\"(?:${SECRET_KEY})\\":\s*\\")(?:\\\\(?:\\.|[^\\])|[^"\\])*\\"`, 'gi'),
    '$1[redacted]\\"',
  ],
  ['eyJ', new RegExp(String.raw`${START}eyJ[\w-]{8,}\.[\w-]*\.[\w-]*(?:\.[\w-]*\.[\w-]*)?`, 'gu'), '[token]'],
  ['_', new RegExp(`${START}(?:whsec_|whsk_|wb_|wbr_)[A-Za-z0-9+/=_-]{8,}`, 'gu'), '[secret]'],
  [' ', new RegExp(String.raw`${START}Bearer +[\w.~+/=-]+`, 'giu'), 'Bearer [token]'],
];

/** An e-mail address, `@` plain or percent-encoded; an escape is matched first, so that its letter is no part of one. */
const ADDRESS =
  /(\\(?:u[\da-f]{4}|.))|[\p{L}\p{N}_.!#$%&'*+/=?^`{|}~-]{1,64}(?:@|%40)[\p{L}\p{N}-]{1,63}(?:\.[\p{L}\p{N}-]{1,63})+/giu;

/** Removes e-mail addresses, tokens, secrets and passwords in URLs from a line of text; JSON stays JSON. */
export function scrub(line: string): string {
  let out = line;
  for (const [text, pattern, replacement] of SCRUBBED) if (out.includes(text)) out = out.replace(pattern, replacement);
  if (!out.includes('@') && !out.includes('%40')) return out;
  return out.replace(ADDRESS, (_match, kept: string | undefined) => kept ?? '[email]');
}

/** Characters that are written at once at the latest. */
const GATHERED = 65_536;

/**
 * Lines of one turn of the event loop, written in one system call: one for each line cost a request 5 % of its time.
 * What is gathered is written too when the process ends by itself; a SIGKILL takes the lines of that turn with it.
 */
function gathering(stream: NodeJS.WritableStream): DestinationStream {
  let lines = '';
  const flush = () => {
    const text = lines;
    lines = '';
    if (text !== '') stream.write(text);
  };
  process.on('exit', flush);
  return {
    write(line) {
      if (lines === '') setImmediate(flush);
      lines += line;
      if (lines.length > GATHERED) flush();
    },
  };
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
      : gathering(process.stdout));
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
