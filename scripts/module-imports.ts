/** What one module names as imported, and on which line (counted from 1). */
export interface ModuleImport {
  specifier: string;
  line: number;
}

type Token = { kind: 'string' | 'word' | 'mark'; text: string; line: number };

const SPACE_OR_COMMENT = /(?:\s+|\/\/[^\n]*|\/\*[\s\S]*?\*\/)+/y;
const STRING = /'(?:\\[\s\S]|[^'\\\n])*'|"(?:\\[\s\S]|[^"\\\n])*"/y;
const WORD = /[\w$]+/y;
const REGEX = /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/[a-z]*/y;
const TEMPLATE_CHUNK = /(?:\\[\s\S]|\$(?!\{)|[^\\`$])*(`|\$\{)/y;
/** After these a slash opens a regular expression although they are words. */
const BEFORE_REGEX = new Set(['return', 'typeof', 'case', 'in', 'of', 'await', 'yield', 'void', 'delete', 'else']);

/**
 * Every module that `source` (TypeScript) imports: static and dynamic imports, `import type`, re-exports,
 * `import('…')` in types, `require` and `import.meta.resolve`. Comments, strings, templates and regular expressions
 * are read as what they are, so a text that speaks of an import is none.
 */
export function moduleImports(source: string): ModuleImport[] {
  const tokens = tokenize(source);
  const found: ModuleImport[] = [];
  tokens.forEach((token, at) => {
    if (token.kind !== 'string') return;
    const before = [1, 2, 3, 4, 5, 6].map((back) => tokens[at - back]?.text ?? '');
    const called = before[0] === '(' ? before.slice(1) : undefined;
    const imported =
      before[0] === 'from' ||
      before[0] === 'import' ||
      (called?.[0] === 'import' && called[1] !== '.') ||
      (called?.[0] === 'require' && called[1] !== '.') ||
      (called?.[0] === 'resolve' && called[1] === '.' && ['require', 'meta'].includes(called[2] ?? ''));
    if (imported) found.push({ specifier: token.text.slice(1, -1), line: token.line });
  });
  return found;
}

function tokenize(source: string): Token[] {
  const tokens: Token[] = [];
  /** For every template that is open around the code being read: how many braces are open in its `${…}`. */
  const templates: number[] = [];
  let at = 0;
  let line = 1;

  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    const text = pattern.exec(source)?.[0];
    if (text === undefined) return undefined;
    at += text.length;
    line += text.split('\n').length - 1;
    return text;
  };
  const readTemplate = () => {
    if (take(TEMPLATE_CHUNK)?.endsWith('${')) templates.push(0);
    else tokens.push({ kind: 'mark', text: ')', line }); // what follows a finished template follows a value
  };
  const regexMayStart = () => {
    const last = tokens.at(-1);
    if (!last) return true;
    if (last.kind === 'word') return BEFORE_REGEX.has(last.text);
    return last.kind === 'mark' && !')]}'.includes(last.text);
  };

  while (at < source.length) {
    if (take(SPACE_OR_COMMENT)) continue;
    const start = line;
    const string = take(STRING);
    if (string) {
      tokens.push({ kind: 'string', text: string, line: start });
      continue;
    }
    const word = take(WORD);
    if (word) {
      tokens.push({ kind: 'word', text: word, line: start });
      continue;
    }
    if (source[at] === '/' && regexMayStart() && take(REGEX)) {
      tokens.push({ kind: 'mark', text: ')', line: start });
      continue;
    }
    const mark = source[at] ?? '';
    at += 1;
    const open = templates.length - 1;
    if (mark === '`') readTemplate();
    else if (mark === '}' && templates[open] === 0) {
      templates.pop();
      readTemplate();
    } else {
      if (open >= 0 && mark === '{') templates[open] = (templates[open] ?? 0) + 1;
      if (open >= 0 && mark === '}') templates[open] = (templates[open] ?? 0) - 1;
      tokens.push({ kind: 'mark', text: mark, line: start });
    }
  }
  return tokens;
}
