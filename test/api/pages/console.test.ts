import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { moduleImports } from '../../../scripts/module-imports.ts';
import { createApp } from '../../../src/api/app.ts';
import { CONSOLE_MODULES, CONSOLE_PATHS, consolePage, consoleRoutes } from '../../../src/api/pages/console.ts';
import { PERMISSIONS } from '../../../src/api/permissions.ts';
import { listening } from '../shell.ts';

const config = {
  corsOrigins: [],
  trustedProxies: [],
  rateLimits: 'off' as const,
  namespace: 'unused',
  publicUrl: 'http://localhost',
};
const app = createApp({ config, log: listening().log }, { api: [], root: [consoleRoutes({ version: '0.1.0' })] });
const sourceOf = async (path: string) => (await app.request(path)).text();

/** The directives of an answer's policy. */
async function policyOf(path: string): Promise<Map<string, string>> {
  const text = (await app.request(path)).headers.get('content-security-policy') ?? '';
  return new Map(
    text.split(';').map((directive) => {
      const [name = '', ...values] = directive.trim().split(' ');
      return [name, values.join(' ')];
    }),
  );
}

describe.each(CONSOLE_PATHS)('%s', (path) => {
  test('is served, and runs and reaches nothing but what is its own', async () => {
    const answer = await app.request(path);
    expect(answer.status).toBe(200);
    const kind = path.endsWith('.js') ? 'text/javascript' : path.endsWith('.css') ? 'text/css' : 'text/html';
    expect(answer.headers.get('content-type')).toBe(`${kind}; charset=utf-8`);
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
    const policy = await policyOf(path);
    expect(Object.fromEntries(policy)).toMatchObject({
      'default-src': "'none'",
      'script-src': "'self'",
      'style-src': "'self'",
      'connect-src': "'self'",
      'frame-ancestors': "'none'",
      'form-action': "'none'",
      'base-uri': "'none'",
    });
    expect([...policy.values()].join(' ')).not.toMatch(/unsafe|https?:|\*/);
  });

  test('lets no data become markup or code: the browser refuses every sink', async () => {
    const policy = await policyOf(path);
    expect(policy.get('require-trusted-types-for')).toBe("'script'");
    expect(policy.get('trusted-types')).toBe("'none'");
  });

  test('names no other server', async () => {
    // The names of a namespace and of a base to compare with are never fetched.
    const text = (await sourceOf(path))
      .replaceAll('http://www.w3.org/2000/svg', '')
      .replaceAll('http://page.invalid', '');
    expect(text).not.toMatch(/https?:\/\/|["'(]\/\/\w|@import|url\(/);
  });

  test('anybody may have it: it holds no data', () => {
    expect(PERMISSIONS).toContainEqual({ route: `GET ${path}`, who: 'anyone' });
  });
});

test('the page has no inline script, style or handler, and all that it loads is there', async () => {
  const page = await sourceOf('/console');
  expect(page).not.toMatch(/<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:/);
  const loaded = [...page.matchAll(/(?:src|rel="stylesheet" href)="([^"]+)"/g)].map(([, path]) => path ?? '');
  expect(loaded).toEqual(['console/style.css', 'console/app.js']);
  for (const path of loaded) expect((await app.request(`/${path}`)).status).toBe(200);
  expect(consolePage('<b>1')).not.toContain('<b>1');
});

test('a module that does not exist is 404, whatever its name reaches for', async () => {
  for (const path of ['/console/x.js', '/console/../console.ts', '/console/%2e%2e%2fconsole.ts', '/console/'])
    expect((await app.request(path)).status, path).toBe(404);
});

describe('the modules', () => {
  test('are copied by the build', async () => {
    const text = await readFile(new URL('../../../tsconfig.build.json', import.meta.url), 'utf8');
    expect(text).toMatch(/"allowJs": true/);
  });

  test('are all listed', () => {
    const folder = new URL('../../../src/api/pages/console/', import.meta.url);
    expect(
      readdirSync(folder)
        .filter((name) => name.endsWith('.js'))
        .sort(),
    ).toEqual([...CONSOLE_MODULES].sort());
  });

  test('import only each other, and only what is exported', async () => {
    const sources = new Map(
      await Promise.all(
        CONSOLE_MODULES.map(async (name) => [name as string, await sourceOf(`/console/${name}`)] as const),
      ),
    );
    const exported = (source: string) =>
      [...source.matchAll(/^export (?:async )?(?:function|const|class) (\w+)/gm)].map(([, name]) => name);
    let found = 0;
    for (const [name, source] of sources) {
      for (const { specifier } of moduleImports(source))
        expect([...sources.keys()].map((other) => `./${other}`)).toContain(specifier);
      for (const [, names = '', from = ''] of source.matchAll(/^import \{([^}]+)\} from '\.\/([^']+)'/gm)) {
        found += 1;
        const wanted = names
          .split(',')
          .map((one) => one.trim())
          .filter(Boolean);
        expect(exported(sources.get(from) ?? ''), `${name} imports from ${from}`).toEqual(
          expect.arrayContaining(wanted),
        );
      }
    }
    expect(found).toBeGreaterThan(40);
  });

  test('write text, never markup, and keep nothing in the browser', async () => {
    for (const name of CONSOLE_MODULES) {
      const source = await sourceOf(`/console/${name}`);
      expect(source, name).not.toMatch(
        /innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|\beval\(|new Function|localStorage|sessionStorage|indexedDB|document\.cookie|window\.open|postMessage/,
      );
    }
  });

  test('know every role and route that they are for', async () => {
    const source = await sourceOf('/console/app.js');
    const listed = PERMISSIONS.map(({ route }) => route.replace(/^\w+ \/api\/v1/, ''));
    expect(source).toContain("roles: ['admin', 'operator']");
    for (const name of CONSOLE_MODULES) {
      const text = await sourceOf(`/console/${name}`);
      for (const [, path = ''] of text.matchAll(/\bask\('(\/[\w/-]+)'/g))
        expect(listed, `${name} asks for ${path}`).toContain(path);
    }
  });
});

/** A module that touches no page can be run here. */
const load = async (name: string) =>
  (await import(new URL(`../../../src/api/pages/console/${name}`, import.meta.url).href)) as Record<string, never>;

describe('what is shown', () => {
  test('leads nowhere but into this page and this server', async () => {
    const { safeHref } = (await load('dom.js')) as unknown as { safeHref: (href: unknown) => string | undefined };
    for (const href of ['#/trail/x', 'docs', './', '#/users/%3Cimg%3E']) expect(safeHref(href)).toBe(href);
    for (const href of [
      'javascript:alert(1)',
      ' JaVaScRiPt:alert(1)',
      'java\nscript:alert(1)',
      'data:text/html,<script>alert(1)</script>',
      'vbscript:x',
      'blob:http://page.invalid/1',
      'https://evil.example/',
      '//evil.example/',
      '\\\\evil.example/',
    ])
      expect(safeHref(href), href).toBeUndefined();
  });

  test('is in words', async () => {
    const { span, readable, toneOf, relative, isUuid } = (await load('format.js')) as unknown as {
      span: (ms: number) => string;
      readable: (value: unknown) => string;
      toneOf: (status: string) => string;
      relative: (iso: string, now: number) => string;
      isUuid: (text: string) => boolean;
    };
    expect([0, 999, 1500, 42_000, 90_000, 7_200_000, 864_000_000].map(span)).toEqual([
      '0 ms',
      '999 ms',
      '1.5 s',
      '42 s',
      '2 min',
      '2.0 h',
      '10 d',
    ]);
    expect(readable('{"a":1}')).toBe('{\n  "a": 1\n}');
    expect(readable('<img src=x onerror=alert(1)>')).toBe('<img src=x onerror=alert(1)>');
    expect(['succeeded', 'failed', 'pending', '__proto__', 'never heard of'].map(toneOf)).toEqual([
      'good',
      'bad',
      'wait',
      'plain',
      'plain',
    ]);
    expect(relative('2026-11-20T10:00:05Z', Date.parse('2026-11-20T10:00:00Z'))).toBe('in 5.0 s');
    expect([isUuid('019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01'), isUuid('pay_1')]).toEqual([true, false]);
  });
});
