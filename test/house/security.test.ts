import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const tests = join(import.meta.dirname, '..');
const page = readFileSync(join(tests, '../docs/security.md'), 'utf8');
/** Names that the page explains: "`attacks` is `api/attacks.test.ts`". */
const aliases = Object.fromEntries([...page.matchAll(/`(\w+)` is `([^`]+\.test\.ts)`/g)].map((m) => [m[1], m[2]]));

test('docs/security.md names tests that are there', () => {
  const named = [...new Set([...page.matchAll(/`([\w./*-]+\.test\.ts)`/g)].map(([, name = '']) => name))];
  expect(named.length).toBeGreaterThan(30);
  expect(named.filter((name) => globSync(name, { cwd: tests }).length === 0)).toEqual([]);
  expect(Object.keys(aliases)).toEqual(expect.arrayContaining(['attacks', 'auth']));
});

test('and quotes their names as they are', () => {
  const quotes = [...page.matchAll(/`([\w./-]+)` \("([^"]+)"\)/g)];
  expect(quotes.length).toBeGreaterThan(0);
  for (const [, name = '', quote = ''] of quotes) {
    const file = join(tests, aliases[name] ?? name);
    expect(existsSync(file), file).toBe(true);
    // The dots stand for what a table of cases fills in.
    for (const part of quote
      .split('…')
      .map((text) => text.trim())
      .filter(Boolean))
      expect(readFileSync(file, 'utf8'), `${name}: ${quote}`).toContain(part);
  }
});

test('every item says whether it holds', () => {
  const rows = page.split('\n').filter((line) => /^\| \d+\.\d+\.\d+/.test(line));
  expect(rows.length).toBeGreaterThan(70);
  const cells = rows.map((row) => row.split('|').map((cell) => cell.trim()));
  const known =
    /^(yes|yes, untested|yes, but one|but one|partly|with a setting|partly, with a setting|operator|\*\*no\*\*)$/;
  expect(cells.filter(([, , holds = '']) => !known.test(holds)).map(([, item]) => item)).toEqual([]);
});
