import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { withEvents } from '../../scripts/event-reference.ts';
import { program } from '../../src/cli/program.ts';
import { POOLS } from '../../src/config.ts';
import { EVENT_TYPES } from '../../src/domain/events/catalogue.ts';
import { PROBLEM_STATUS } from '../../src/domain/problem.ts';

const root = join(import.meta.dirname, '../..');
const page = (name: string) => readFileSync(join(root, 'docs', name), 'utf8');

test('docs/reference/errors.md has every code with its status', () => {
  const rows = [...page('reference/errors.md').matchAll(/^\| `([A-Z_]+)` \| (\d+) \|/gm)];
  expect(Object.fromEntries(rows.map(([, code, status]) => [code, Number(status)]))).toEqual(PROBLEM_STATUS);
});

test('docs/reference/events.md shows the catalogue as it is (node scripts/event-reference.ts)', () => {
  const text = page('reference/events.md');
  expect(text).toBe(withEvents(text));
  expect([...text.matchAll(/^## `(.+)`$/gm)].map(([, name]) => name)).toEqual(EVENT_TYPES.map(({ name }) => name));
});

test('docs/reference/cli.md has every command and every option', () => {
  const text = page('reference/cli.md');
  const headings = [...text.matchAll(/^## waybill (\S+)$/gm)].map(([, name]) => name);
  expect(headings.sort()).toEqual(program.commands.map((command) => command.name()).sort());
  const all = program.commands.flatMap((command) => [command, ...command.commands]);
  const options = all.flatMap((command) => command.options.map((option) => option.long ?? ''));
  expect(options.filter((option) => !text.includes(option))).toEqual([]);
  const children = program.commands.flatMap((command) =>
    command.commands.map((child) => `waybill ${command.name()} ${child.name()}`),
  );
  expect(children.filter((child) => !text.includes(child))).toEqual([]);
});

test('docs/operate/running.md has every pool and every metric', () => {
  const text = page('operate/running.md');
  expect(POOLS.filter((pool) => !text.includes(`| \`${pool}\` |`))).toEqual([]);
  const sources = globSync('src/**/*.ts', { cwd: root }).map((file) => readFileSync(join(root, file), 'utf8'));
  const metrics = sources.flatMap((source) => [...source.matchAll(/name: '(waybill_\w+)'/g)].map(([, name]) => name));
  expect(metrics.length).toBeGreaterThan(2);
  expect(metrics.filter((metric) => !text.includes(`\`${metric}\``))).toEqual([]);
});

describe('docs/limits.md', () => {
  const files = [...page('limits.md').matchAll(/`([a-z-]+(?:\/[\w*-]+)+\.ts)`/g)].map(([, file]) => file ?? '');

  test.each([...new Set(files)].filter((file) => !file.includes('*')))('%s exists', (file) => {
    expect(existsSync(join(root, 'src', file))).toBe(true);
  });
});
