import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');
const pages = globSync(['*.md', 'docs/**/*.md', '.github/**/*.md'], { cwd: root }).sort();

/** A page without its code. */
const prose = (text: string) => text.replaceAll(/^```[\s\S]*?^```/gm, '').replaceAll(/`[^`\n]*`/g, '');

/** The targets of the links and images of a page that are no URLs. */
const relativeLinks = (text: string) =>
  [...prose(text).matchAll(/\]\(([^)\s]+)(?:\s+"[^"]*")?\)/g)]
    .map(([, target = '']) => target)
    .filter((target) => !/^[a-z][a-z0-9+.-]*:/i.test(target));

/** The anchors of a page's headings, as GitHub makes them. */
function anchors(text: string): string[] {
  const seen = new Map<string, number>();
  return [...text.replaceAll(/^```[\s\S]*?^```/gm, '').matchAll(/^#{1,6} +(.+)$/gm)].map(([, heading = '']) => {
    const slug = heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replaceAll(/\s/g, '-');
    const before = seen.get(slug) ?? 0;
    seen.set(slug, before + 1);
    return before === 0 ? slug : `${slug}-${before}`;
  });
}

/** The links of `page` that lead nowhere. */
function broken(page: string): string[] {
  return relativeLinks(readFileSync(join(root, page), 'utf8')).filter((target) => {
    const [path = '', anchor] = target.split('#', 2);
    const file = path === '' ? join(root, page) : join(root, dirname(page), decodeURIComponent(path));
    if (relative(root, file).startsWith('..') || !existsSync(file)) return true;
    return anchor !== undefined && file.endsWith('.md') && !anchors(readFileSync(file, 'utf8')).includes(anchor);
  });
}

test('there are pages to look at', () => {
  expect(pages).toEqual(expect.arrayContaining(['ARCHITECTURE.md', 'docs/README.md', 'docs/learn/webhooks.md']));
});

test.each(pages)('every relative link of %s leads somewhere', (page) => {
  expect(broken(page)).toEqual([]);
});

test('every page of the documentation is reached from its index', () => {
  const index = relativeLinks(readFileSync(join(root, 'docs/README.md'), 'utf8')).map((target) => join('docs', target));
  const missing = pages.filter(
    (page) => page.startsWith('docs/') && page !== 'docs/README.md' && !index.includes(page),
  );
  expect(missing).toEqual([]);
});

describe('the look at a page', () => {
  test('finds links and images, and none in code or to the outside', () => {
    const text = '[a](x.md) ![b](y.png "t") [c](https://x.example) `[d](z.md)`\n```\n[e](q.md)\n```\n[f](#g)';
    expect(relativeLinks(text)).toEqual(['x.md', 'y.png', '#g']);
  });

  test('makes anchors as GitHub does', () => {
    expect(anchors('# A `b`, c!\n## A b c\n```\n# no\n```\n### [x](y) – z')).toEqual(['a-b-c', 'a-b-c-1', 'x--z']);
  });
});
