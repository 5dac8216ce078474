/**
 * Enforces who may import whom (ARCHITECTURE.md, "Floors"): `node scripts/check-imports.ts [folder]`, `src` by default.
 * Prints every violation as `file:line: imports X, which …` and exits 1 when there is one.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative, resolve, sep } from 'node:path';
import { moduleImports } from './module-imports.ts';

/** From the top down; areas on one floor are neighbours. */
const FLOORS = [
  ['main', 'cli'],
  ['api', 'workers'],
  ['queues', 'webhooks'],
  ['domain', 'services', 'config'],
];
/** On these floors neighbours may import each other. */
const OPEN_FLOORS = new Set([0, 3]);
const EMPTY_NAMES = new Set(['utils', 'util', 'helpers', 'helper', 'common', 'misc']);

const BROKERS = /^(amqplib|bullmq)(\/|$)/;
const HTTP = /^((hono|@hono|undici)(\/|$)|(node:)?https?2?$)/;
const TRANSPORTS = /^(amqplib|bullmq|ioredis|nodemailer)(\/|$)/;
/** The parts of `services` that speak to something else than PostgreSQL. */
const TRANSPORT_SERVICES = /^services\/(redis|mailer|inbox|provision\/)/;
const SQL = /^(kysely|pg|@mikro-orm)(\/|$)/;

const areaOf = (path: string): string => (path.split('/')[0] ?? '').replace(/\.ts$/, '');
const floorOf = (area: string): number => FLOORS.findIndex((floor) => floor.includes(area));

/** What is wrong with `specifier` in `file` (both below the root, with forward slashes), said as `which …`. */
function objections(file: string, specifier: string): string[] {
  const area = areaOf(file);
  const found: string[] = [];
  if (specifier.startsWith('.')) {
    if (!specifier.endsWith('.ts')) found.push('which does not end in .ts');
    const target = posix.normalize(posix.join(posix.dirname(file), specifier));
    if (target.startsWith('..')) found.push('which lies outside of the source folder');
    else found.push(...floorObjections(area, target));
    return found;
  }
  if (BROKERS.test(specifier) && area !== 'queues') found.push('which only queues may import');
  if (area === 'domain' && HTTP.test(specifier)) found.push('which is HTTP, and domain knows of none');
  if (area === 'domain' && TRANSPORTS.test(specifier)) found.push('which is a transport, and domain knows of none');
  if (area === 'api' && SQL.test(specifier)) found.push('which is SQL, and api holds none');
  return found;
}

function floorObjections(area: string, target: string): string[] {
  const other = areaOf(target);
  if (other === area) return [];
  const [from, to] = [floorOf(area), floorOf(other)];
  if (to < 0) return [`which stands on no floor: ${other} is not one of ${FLOORS.flat().join(', ')}`];
  if (to < from) return [`which stands above ${area}: imports run only downwards`];
  if (to === from && !OPEN_FLOORS.has(from)) return [`which is a neighbour of ${area}: neither imports the other`];
  if (area === 'domain' && TRANSPORT_SERVICES.test(target)) return ['which is a transport, and domain knows of none'];
  return [];
}

/** Every violation below `root`, as `file:line: imports X, which …`, sorted by file. */
export function checkImports(root: string): string[] {
  const files = readdirSync(root, { recursive: true, encoding: 'utf8', withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort();
  const found: string[] = [];
  for (const file of files) {
    const shown = join(root, file);
    const empty = file
      .replace(/\.ts$/, '')
      .split('/')
      .find((part) => EMPTY_NAMES.has(part));
    if (empty) found.push(`${shown}:1: is named ${empty}, which says nothing of what it holds`);
    if (floorOf(areaOf(file)) < 0) found.push(`${shown}:1: stands on no floor (${FLOORS.flat().join(', ')})`);
    for (const { specifier, line } of moduleImports(readFileSync(join(root, file), 'utf8')))
      for (const objection of objections(file, specifier))
        found.push(`${shown}:${line}: imports ${specifier}, ${objection}`);
  }
  return found;
}

if (import.meta.main) {
  const root = process.argv[2] ?? relative(process.cwd(), resolve(dirname(import.meta.filename), '../src'));
  const violations = checkImports(root);
  for (const violation of violations) console.error(violation);
  if (violations.length > 0) process.exitCode = 1;
}
