import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkImports } from '../../scripts/check-imports.ts';
import { moduleImports } from '../../scripts/module-imports.ts';

const script = join(import.meta.dirname, '../../scripts/check-imports.ts');
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'waybill-imports-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const write = (file: string, text: string) => {
  mkdirSync(dirname(join(root, file)), { recursive: true });
  writeFileSync(join(root, file), text);
};

describe('the import rule', () => {
  test('holds for the source as it is', () => {
    expect(execFileSync(process.execPath, [script], { encoding: 'utf8' })).toBe('');
  });

  test.each([
    ['domain/users/a.ts', '../../queues/b.ts', 'stands above domain'],
    ['domain/a.ts', '../webhooks/b.ts', 'stands above domain'],
    ['domain/a.ts', '../api/b.ts', 'stands above domain'],
    ['services/a.ts', '../queues/b.ts', 'stands above services'],
    ['config.ts', './api/b.ts', 'stands above config'],
    ['queues/a.ts', '../workers/b.ts', 'stands above queues'],
    ['webhooks/a.ts', '../main.ts', 'stands above webhooks'],
    ['workers/a.ts', '../cli/b.ts', 'stands above workers'],
    ['queues/a.ts', '../webhooks/b.ts', 'neighbour of queues'],
    ['webhooks/a.ts', '../queues/b.ts', 'neighbour of webhooks'],
    ['api/a.ts', '../workers/b.ts', 'neighbour of api'],
    ['workers/a.ts', '../api/b.ts', 'neighbour of workers'],
    ['workers/a.ts', 'amqplib', 'only queues may import'],
    ['services/a.ts', 'bullmq', 'only queues may import'],
    ['cli/a.ts', 'amqplib/callback_api.js', 'only queues may import'],
    ['domain/a.ts', 'hono', 'is HTTP'],
    ['domain/a.ts', '@hono/zod-openapi', 'is HTTP'],
    ['domain/a.ts', 'undici', 'is HTTP'],
    ['domain/a.ts', 'node:http', 'is HTTP'],
    ['domain/a.ts', 'node:https', 'is HTTP'],
    ['domain/a.ts', 'ioredis', 'is a transport'],
    ['domain/a.ts', 'nodemailer', 'is a transport'],
    ['domain/a.ts', '../services/redis.ts', 'is a transport'],
    ['api/routes/a.ts', 'kysely', 'is SQL'],
    ['api/a.ts', '@mikro-orm/postgresql', 'is SQL'],
    ['queues/a.ts', './b.js', 'does not end in .ts'],
    ['queues/a.ts', './b', 'does not end in .ts'],
    ['queues/a.ts', '../../migrations/b.ts', 'outside of the source folder'],
    ['queues/a.ts', '../tools/b.ts', 'stands on no floor'],
  ])('%s may not import %s', (file, specifier, why) => {
    write(file, `// first\nimport { b } from '${specifier}';\n`);
    const found = checkImports(root);
    expect(found.map((line) => line.replace(join(root, file), 'FILE'))).toContainEqual(
      expect.stringMatching(/^FILE:2: imports /),
    );
    expect(found.join('\n')).toContain(`imports ${specifier}, which`);
    expect(found.join('\n')).toContain(why);
  });

  test.each([
    ['main.ts', './api/app.ts'],
    ['cli/a.ts', '../workers/index.ts'],
    ['api/a.ts', '../queues/gateway.ts'],
    ['workers/a.ts', '../webhooks/fanout.ts'],
    ['queues/a.ts', 'amqplib'],
    ['webhooks/a.ts', 'undici'],
    ['services/a.ts', '../domain/emails/mailer.ts'],
    ['domain/a.ts', '../services/database.ts'],
    ['domain/a.ts', 'kysely'],
  ])('%s may import %s', (file, specifier) => {
    write(file, `import '${specifier}';`);
    expect(checkImports(root)).toEqual([]);
  });

  test.each(['utils', 'helpers', 'common', 'misc'])('nothing is named %s', (name) => {
    write(`domain/${name}/a.ts`, '');
    write(`queues/${name}.ts`, '');
    expect(checkImports(root).filter((line) => line.includes(`is named ${name}`))).toHaveLength(2);
  });

  test('a folder that is on no floor is named', () => {
    write('tools/a.ts', '');
    expect(checkImports(root)).toEqual([
      `${join(root, 'tools/a.ts')}:1: stands on no floor (main, cli, api, workers, queues, webhooks, domain, services, config)`,
    ]);
  });

  test('the command prints the violations and fails', () => {
    write('domain/a.ts', `export * from '../api/b.ts';`);
    const run = spawnSync(process.execPath, [script, root], { encoding: 'utf8' });
    expect(run.status).toBe(1);
    expect(run.stderr).toBe(
      `${join(root, 'domain/a.ts')}:1: imports ../api/b.ts, which stands above domain: imports run only downwards\n`,
    );
  });
});

describe('imports of a module', () => {
  const specifiers = (source: string) => moduleImports(source).map((found) => found.specifier);

  test.each([
    [`import 'a';`],
    [`import x from 'a';`],
    [`import type { X } from "a";`],
    [`import {\n  x,\n  type Y as Z,\n} from 'a';`],
    [`import * as x from 'a'; `],
    [`import x from 'a' with { type: 'json' };`],
    [`export { x } from 'a';`],
    [`export type * from 'a';`],
    [`const x = await import('a');`],
    [`const x = await import(\n  /* lazily */ 'a'\n);`],
    [`let x: import('a').X;`],
    [`const x = require('a');`],
    [`const x = require.resolve('a');`],
    [`const x = import.meta.resolve('a');`],
    [`const page = html\`<p>\${list.map((x) => html\`<i>\${x}</i>\`)}</p>\`; import('a');`],
    [`const quote = /['"\`/]\\//g; import('a');`],
    [`const half = (a + b) / 2; import('a'); // c / d`],
    [`const half = \`\${{ a: 1 }.a}\` / 2; import('a')`],
  ])('sees %j', (source) => {
    expect(specifiers(source)).toEqual(['a']);
  });

  test.each([
    [`// import 'a';`],
    [`/* import x from 'a' */`],
    ["const text = `import x from 'a'`;"],
    [`const text = "import 'a'";`],
    [`Buffer.from('a');`],
    [`keys.import('a'); parts.require('a');`],
    [`const pattern = /import('a')/;`],
  ])('sees none in %j', (source) => {
    expect(specifiers(source)).toEqual([]);
  });

  test('tells the line of each', () => {
    expect(moduleImports(`/*\n\n*/ import {\n x } from 'a';\n\nexport * from 'b';`)).toEqual([
      { specifier: 'a', line: 4 },
      { specifier: 'b', line: 6 },
    ]);
  });
});
