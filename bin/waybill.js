#!/usr/bin/env node
// Starts the CLI on a Node that can run it. A checkout pins its Node as the npm package `node`; called with an
// older one (npx, or npm with --ignore-scripts) this hands over to the pinned binary, or says what is missing.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const MINIMUM = 24;
const at = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const source = at('src/main.ts');
const entry = existsSync(source) ? source : at('dist/main.js');

if (Number(process.versions.node.split('.')[0]) >= MINIMUM) {
  await import(entry);
} else {
  const pinned = at('node_modules/node/bin/node');
  if (!existsSync(pinned)) {
    console.error(
      `waybill needs Node ${MINIMUM} or newer and this is ${process.version}. Run "npm ci" without --ignore-scripts (it installs the pinned Node), or install Node ${MINIMUM}.`,
    );
    process.exit(1);
  }
  const child = spawn(pinned, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('exit', (code, signal) => {
    process.exitCode = signal ? 1 : (code ?? 1);
  });
}
