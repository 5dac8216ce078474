/**
 * What the CPU profiles of a run say: `node bench/run.ts --only accept --profile /tmp/profiles`, then
 * `node bench/profile.ts /tmp/profiles --skip 3 --lines 30`. The first seconds of each process (loading, start) are
 * skipped, and idle time is left out.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

interface Frame {
  functionName: string;
  url: string;
  lineNumber: number;
}

interface Profile {
  nodes: { id: number; callFrame: Frame; children?: number[] }[];
  samples: number[];
  timeDeltas: number[];
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { skip: { type: 'string', default: '3' }, lines: { type: 'string', default: '30' } },
});
const lines = Number(values.lines);

function summary(path: string): string {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(path, 'utf8')) as Profile;
  const frames = new Map(nodes.map((node) => [node.id, node.callFrame]));
  const parents = new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node.id] as const)));
  const [self, whole, places] = [new Map<string, number>(), new Map<string, number>(), new Map<string, number>()];
  const add = (map: Map<string, number>, key: string, ms: number) => map.set(key, (map.get(key) ?? 0) + ms);
  let total = 0;
  let elapsed = 0;
  for (const [i, id] of samples.entries()) {
    const ms = (timeDeltas[i] ?? 0) / 1000;
    elapsed += ms;
    const frame = frames.get(id);
    if (!frame || elapsed < Number(values.skip) * 1000 || /^\((idle|program|root)\)$/.test(frame.functionName))
      continue;
    total += ms;
    add(self, nameOf(frame), ms);
    const seen = new Set<string>();
    let place = '';
    for (let at: number | undefined = id; at !== undefined; at = parents.get(at)) {
      const caller = frames.get(at);
      if (!caller) break;
      const from = placeOf(caller.url);
      if (place === '' && from !== '' && from !== 'node') place = from;
      const name = nameOf(caller);
      if (from === '' || seen.has(name)) continue;
      seen.add(name);
      add(whole, name, ms);
    }
    add(places, place || 'node itself', ms);
  }
  const list = (title: string, map: Map<string, number>) => [
    `  ${title}`,
    ...[...map]
      .sort((a, b) => b[1] - a[1])
      .slice(0, lines)
      .map(([key, ms]) => `    ${((ms / total) * 100).toFixed(1).padStart(5)} %  ${key}`),
  ];
  return [
    `${path}: ${total.toFixed(0)} ms of work`,
    ...list('by the nearest package or own file on the stack', places),
    ...list('self', self),
    ...list('with all that is called', whole),
  ].join('\n');
}

const nameOf = ({ functionName, url, lineNumber }: Frame): string =>
  `${functionName || '(anonymous)'}  ${shortUrl(url)}${url ? `:${lineNumber + 1}` : ''}`;

const shortUrl = (url: string): string => url.replace(/^file:\/\/.*?(?:node_modules\/|\/(?=src\/))/, '');

function placeOf(url: string): string {
  const inside = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1];
  if (inside) return inside;
  if (url.startsWith('node:')) return 'node';
  return /\/(src\/.+)$/.exec(url)?.[1] ?? '';
}

const directory = positionals[0] ?? '.';
for (const file of readdirSync(directory).filter((it) => it.endsWith('.cpuprofile')))
  process.stdout.write(`${summary(join(directory, file))}\n\n`);
