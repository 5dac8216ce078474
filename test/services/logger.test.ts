import { describe, expect, test } from 'vitest';
import { createLogger, scrub } from '../../src/services/logger.ts';

const JWT = 'eyJhbGciOiJFZDI1NTE5IiwidHlwIjoiYXQrand0In0.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLWJ5dGVz';
const JWE = 'eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aXYtaXYtaXYtaXY.Y2lwaGVydGV4dA.dGFnLXRhZy10YWc';

/** What is logged in `work`, as text and parsed. */
function logged(work: (log: ReturnType<typeof createLogger>) => void): {
  text: string;
  lines: Record<string, unknown>[];
} {
  const written: string[] = [];
  work(createLogger({ level: 'trace', destination: { write: (line: string) => written.push(line) } }));
  return { text: written.join(''), lines: written.map((line) => JSON.parse(line) as Record<string, unknown>) };
}

const SECRETS: [what: string, text: string, secret: string][] = [
  ['an e-mail address', 'ada.lovelace+x@mail.example.com', 'ada'],
  ['an address with other letters', 'jörg@münchen.example', 'jörg'],
  ['an address in a query', 'GET /users?search=ada%40example.com', 'ada%40'],
  ['an address after a line break', 'to:\nada@example.com', 'ada'],
  ['an access token', JWT, 'eyJ'],
  ['an access token after a line break', `token\n${JWT}`, 'eyJ'],
  ['a sealed value', JWE, 'eyJ'],
  ['a webhook secret', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'MfKQ'],
  ['a webhook signing key', 'whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfV', '6Xb'],
  ['an API key', 'wb_0123456789abcdef', '0123'],
  ['a refresh token', 'wbr_0123456789abcdef', '0123'],
  ['a refresh token after a tab', 'a\twbr_0123456789abcdef', '0123'],
  ['a bearer token', 'Authorization: Bearer opaque-token.value', 'opaque'],
  ['a token in a link', 'https://a.example/verify-email?token=abcDEF-123&x=1', 'abcDEF'],
  ['a refresh token in a query', '/x?a=1&refresh_token=abcDEF-123', 'abcDEF'],
  ['a password in a URL', 'connect amqp://me:hunter2@mq:5672', 'hunter2'],
  ['a password in a URL of a domain', 'smtp://me:hunter2@mail.example.com', 'hunter2'],
  ['a password in JSON in a text', 'body was {"password":"hunter\\"2","a":1}', 'hunter'],
  ['a password in spaced JSON in a text', 'body was { "new_password": "hunter2" }', 'hunter'],
];

describe.each(SECRETS)('%s', (_what, text, secret) => {
  test.each<[string, (log: ReturnType<typeof createLogger>) => void]>([
    ['a message', (log) => log.info(text)],
    ['a message between others', (log) => log.info(`before ${text} after`)],
    ['a field', (log) => log.info({ detail: text }, 'x')],
    ['a deep field', (log) => log.info({ a: { b: { c: [{ d: text }] } } }, 'x')],
    ['an error', (log) => log.error(new Error(text))],
    ['an error with a cause', (log) => log.error({ err: new Error('outer', { cause: new Error(text) }) }, 'x')],
    ['a stack', (log) => log.error({ stack: `Error: ${text}\n    at f (file.ts:1:1)` }, 'x')],
    ['a child', (log) => log.child({ detail: text }).info('x')],
  ])('does not reach the log in %s, and the line stays JSON', (_where, work) => {
    const { text: line, lines } = logged(work);
    expect(line).not.toContain(secret);
    expect(lines).toHaveLength(1);
  });
});

describe('a secret by its key', () => {
  test.each([
    'password',
    'current_password',
    'new_password',
    'newPassword',
    'password_hash',
    'token',
    'refresh_token',
    'access_token',
    'accessToken',
    'secret',
    'client_secret',
    'authorization',
    'cookie',
    'set-cookie',
    'key',
    'api_key',
    'secrets_key',
  ])('does not reach the log under %s at any depth', (key) => {
    const { text, lines } = logged((log) => {
      log.info({ [key]: 'hunter2' });
      log.info({ a: { [key]: 'hunter"2' } });
      log.info({ a: { b: [{ c: { [key]: 'hunter\\2\n' } }] } });
      log.info(JSON.stringify({ a: { [key]: 'hunter"2\\' }, after: 'kept' }));
    });
    expect(text).not.toContain('hunter');
    expect(lines[3]?.msg).toContain('kept');
  });

  test('leaves keys that only look like one', () => {
    const fields = { routing_key: 'user.registered', token_type: 'x', keys: 'a', monkey: 'b' };
    expect(logged((log) => log.info(fields)).lines[0]).toMatchObject(fields);
  });
});

test('what is no secret stays as it is', () => {
  const text =
    'GET /api/v1/users/0190 200 in 3 ms at 12:00 from 10.0.0.1 (user:1), "quoted" \\ and \n lines; wb_ 3 @ 4';
  const { lines } = logged((log) => log.info({ request_id: 'r-1', n: 3 }, text));
  expect(lines[0]).toMatchObject({ level: 'info', msg: text, request_id: 'r-1', n: 3 });
  expect(lines[0]?.time).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
});

test('what is scrubbed leaves a mark and the rest of the text', () => {
  expect(scrub('to ada@example.com with Bearer abc and whsec_0123456789')).toBe(
    'to [email] with Bearer [token] and [secret]',
  );
  expect(scrub('amqp://me:pw@mq.example.com/v?x=1')).toBe('amqp://me:[password]@mq.example.com/v?x=1');
  expect(scrub('/verify-email?token=abc&next=1')).toBe('/verify-email?token=[token]&next=1');
});

test('a long line is scrubbed in no time', () => {
  const started = performance.now();
  scrub(`${'a.'.repeat(50_000)} ${'\\n'.repeat(20_000)} ${'x:/'.repeat(20_000)}`);
  expect(performance.now() - started).toBeLessThan(1000);
});

test('levels below the one set are not written', () => {
  const written: string[] = [];
  const log = createLogger({ level: 'warn', destination: { write: (line: string) => written.push(line) } });
  log.info('no');
  log.warn('yes');
  expect(written).toHaveLength(1);
});
