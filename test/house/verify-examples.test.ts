import { spawn, spawnSync } from 'node:child_process';
import { generateKeyPairSync, randomBytes, sign as signBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Webhook } from 'standardwebhooks';
import { describe, expect, onTestFinished, test } from 'vitest';

const root = join(import.meta.dirname, '../..');
const folder = join(root, 'docs/learn/verify');

const SECRET = `whsec_${randomBytes(32).toString('base64')}`;
const ID = 'evt_7f3a';
const BODY = '{"type":"user.created","data":{"name":"naïve ☃","path":"a\\\\b %s"}}\n';
const now = () => Math.floor(Date.now() / 1000);

/** Signed by the public library, not by our own code. */
const sign = (timestamp = now(), body = BODY, secret = SECRET) =>
  new Webhook(secret).sign(ID, new Date(timestamp * 1000), body);

interface Message {
  body?: string;
  id?: string;
  timestamp?: number | string;
  signature: string;
  secret?: string;
}

function run([command, ...args]: string[], { body = BODY, id = ID, timestamp = now(), signature, secret }: Message) {
  const { status, stdout, stderr } = spawnSync(command ?? '', args, {
    cwd: folder,
    input: body,
    encoding: 'utf8',
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      WEBHOOK_SECRET: secret ?? SECRET,
      WEBHOOK_PUBLIC_KEY: secret ?? '',
      WEBHOOK_ID: id,
      WEBHOOK_TIMESTAMP: String(timestamp),
      WEBHOOK_SIGNATURE: signature,
    },
  });
  return { status, text: stdout + stderr };
}

const has = (command: string, argument: string) => spawnSync(command, [argument]).status === 0;

const V1: [string, string[], boolean][] = [
  ['verify.ts', [process.execPath, 'verify.ts'], true],
  ['verify.py', ['python3', 'verify.py'], has('python3', '--version')],
  ['verify.go', ['go', 'run', 'verify.go'], has('go', 'version')],
  ['verify.sh', ['bash', 'verify.sh'], has('bash', '--version') && has('openssl', 'version')],
];

const VERIFIED = { status: 0, text: 'verified\n' };
const NOT_VERIFIED = { status: 1, text: expect.stringMatching(/^not verified/) };

for (const [file, command, there] of V1) {
  const name = there ? file : `${file} (skipped: ${command[0]} is not installed here)`;
  describe.skipIf(!there)(name, () => {
    test('takes what was signed, also while a secret rotates', () => {
      expect(run(command, { signature: sign() })).toEqual(VERIFIED);
      const other = sign(now(), BODY, `whsec_${randomBytes(24).toString('base64')}`);
      expect(run(command, { signature: `${other} v1a,AAAA ${sign()}` })).toEqual(VERIFIED);
    });

    test.each<[string, () => Message]>([
      ['a changed body', () => ({ body: BODY.replace('user', 'usir'), signature: sign() })],
      ['a body without its last byte', () => ({ body: BODY.trimEnd(), signature: sign() })],
      ['another id', () => ({ id: 'evt_7f3b', signature: sign() })],
      ['another timestamp', () => ({ timestamp: now() - 10, signature: sign() })],
      ['another secret', () => ({ secret: `whsec_${randomBytes(32).toString('base64')}`, signature: sign() })],
      ['an old message', () => ({ timestamp: now() - 400, signature: sign(now() - 400) })],
      ['one from the future', () => ({ timestamp: now() + 400, signature: sign(now() + 400) })],
      ['a timestamp that is none', () => ({ timestamp: 'soon', signature: sign() })],
      ['another scheme’s signature', () => ({ signature: sign().replace('v1,', 'v1a,') })],
      ['no signature', () => ({ signature: '' })],
    ])('refuses %s', (_, message) => {
      expect(run(command, message())).toEqual(NOT_VERIFIED);
    });
  });
}

describe('verify-v1a.ts', () => {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const raw = publicKey.export({ type: 'spki', format: 'der' }).subarray(-32);
  const secret = `whpk_${raw.toString('base64')}`;
  const command = [process.execPath, 'verify-v1a.ts'];
  const signed = (timestamp = now(), body = BODY) =>
    `v1a,${signBytes(null, Buffer.from(`${ID}.${timestamp}.${body}`), privateKey).toString('base64')}`;

  test('takes what was signed', () => {
    expect(run(command, { secret, signature: signed() })).toEqual(VERIFIED);
    expect(run(command, { secret, signature: `v1,AAAA v1a,AAAA ${signed()}` })).toEqual(VERIFIED);
  });

  test.each<[string, () => Message]>([
    ['a changed body', () => ({ secret, body: `${BODY} `, signature: signed() })],
    ['another id', () => ({ secret, id: 'x', signature: signed() })],
    ['another timestamp', () => ({ secret, timestamp: now() - 10, signature: signed() })],
    ['another key', () => ({ secret: `whpk_${'A'.repeat(43)}=`, signature: signed() })],
    ['an old message', () => ({ secret, timestamp: now() - 400, signature: signed(now() - 400) })],
    ['another scheme’s signature', () => ({ secret, signature: signed().replace('v1a,', 'v1,') })],
    ['no signature', () => ({ secret, signature: '' })],
  ])('refuses %s', (_, message) => {
    expect(run(command, message())).toEqual(NOT_VERIFIED);
  });
});

test('receiver.ts takes what was signed and refuses what was tampered with', async () => {
  const receiver = spawn(process.execPath, ['receiver.ts'], {
    cwd: folder,
    env: { PATH: process.env.PATH, PORT: '0', WEBHOOK_SECRET: SECRET },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void receiver.kill());
  let printed = '';
  const port = await new Promise<string>((resolve, reject) => {
    receiver.once('exit', () => reject(new Error(printed)));
    receiver.stdout.on('data', (chunk) => {
      printed += chunk;
      const [, found] = /port: (\d+)/.exec(printed) ?? [];
      if (found) resolve(found);
    });
  });
  const post = async (body: string) => {
    const headers = { 'webhook-id': ID, 'webhook-timestamp': String(now()), 'webhook-signature': sign() };
    return (await fetch(`http://localhost:${port}/`, { method: 'POST', headers, body })).status;
  };
  expect([await post(BODY), await post(`${BODY} `)]).toEqual([204, 400]);
});

test('docs/learn/webhooks.md shows each of them as it is', () => {
  const page = readFileSync(join(root, 'docs/learn/webhooks.md'), 'utf8');
  const blocks = [...page.matchAll(/^```\w+\n([\s\S]*?)^```$/gm)].map(([, code]) => code);
  const files = readdirSync(folder);
  expect(files.length).toBeGreaterThan(5);
  for (const file of files) {
    expect(page).toContain(`](verify/${file})`);
    expect([file, blocks.includes(readFileSync(join(folder, file), 'utf8'))]).toEqual([file, true]);
  }
});
