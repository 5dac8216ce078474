/**
 * Loaded into a process before anything else (`node --import`): takes the mechanism that DRILL_WITHOUT names out of the
 * platform's source as it is read, so that a drill can be seen to fail without it.
 */
import { registerHooks } from 'node:module';

/** What is taken out: in which file, which text, and what stands there instead. */
const MECHANISMS: Record<string, { file: string; text: string; instead: string }[]> = {
  'channel supervision': [
    { file: '/src/queues/consumer.ts', text: "this.#leave('lost');\n        resolve();", instead: 'resolve();' },
  ],
  "the database's clock": [
    { file: '/src/services/clock.ts', text: 'origin === undefined ? Date.now()', instead: 'true ? Date.now()' },
  ],
};

const cuts = MECHANISMS[process.env.DRILL_WITHOUT ?? ''] ?? [];
registerHooks({
  load(url, context, next) {
    const loaded = next(url, context);
    const cut = cuts.find(({ file }) => url.endsWith(file));
    if (!cut) return loaded;
    const source = String(loaded.source);
    if (!source.includes(cut.text)) throw new Error(`${cut.file} does not say "${cut.text}" any more`);
    return { ...loaded, source: source.replace(cut.text, cut.instead) };
  },
});
