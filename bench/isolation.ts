/**
 * What bad endpoints cost the good ones: `node bench/isolation.ts [--seconds 20] [--events 4] [--rounds 3] [--json]`.
 *
 * 100 endpoints that answer at once, and beside them one that never answers (its timeout is 30 s) and five that answer
 * 500. All get the same events, `--events` a second. The bad ones are there in every second round; what counts is the 99th
 * percentile of the time from the publication of an event to its arrival at a good endpoint, with them over without them.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { newId } from '../src/domain/ids.ts';
import { describeMachine } from './machine.ts';
import { median, round } from './measure.ts';
import type { Platform } from './platform.ts';
import { openServers, reporter } from './servers.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '20' },
    events: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
  },
});
const perSecond = Number(values.events);
const count = Number(values.seconds) * perSecond;
const rounds = Number(values.rounds);
const GOOD = 100;
const FAILING = 5;
const GOAL = 1.5;
/** The deliveries of a round that do not come within this after its end are lost, in ms. */
const PATIENCE_MS = 60_000;

interface Round {
  p50: number;
  p99: number;
}

/** When deliveries arrived at good endpoints, as ms since the publication of their event. */
let latencies: number[] = [];
const sentAt = new Map<string, number>();

const subscribers = createServer((request, response) => {
  request.resume();
  request.on('end', () => {
    if (request.url?.startsWith('/hanging')) return;
    if (request.url?.startsWith('/failing')) return void response.writeHead(500).end();
    const sent = sentAt.get(String(request.headers['webhook-id']));
    if (sent !== undefined) latencies.push(performance.now() - sent);
    response.writeHead(204).end();
  });
});
await new Promise<void>((resolve) => subscribers.listen(0, '127.0.0.1', resolve));
const base = `http://127.0.0.1:${(subscribers.address() as AddressInfo).port}`;

const report = reporter();
const servers = await openServers(report);
try {
  const platform = await servers.platform(fileURLToPath(new URL('..', import.meta.url)));
  const token = await platform.adminToken();
  const create = async (path: string, more: Record<string, unknown> = {}) => {
    const endpoint = { url: `${base}/${path}`, event_types: ['payment.succeeded'], ...more };
    return (await platform.call<{ id: string }>('POST', '/webhooks/endpoints', endpoint, token)).data.id;
  };
  for (let n = 0; n < GOOD; n += 1) await create(`good/${n}`);
  const bad = [await create('hanging', { timeout_ms: 30_000 })];
  for (let n = 0; n < FAILING; n += 1) bad.push(await create(`failing/${n}`));
  const turn = async (status: 'enabled' | 'disabled') => {
    for (const id of bad) await platform.call('PATCH', `/webhooks/endpoints/${id}`, { status }, token);
  };
  await platform.start(['worker', 'fanout', 'webhooks', 'housekeeping']);
  await turn('disabled');
  await one(platform); // compiles, fills caches
  const without: Round[] = [];
  const withThem: Round[] = [];
  for (let n = 0; n < rounds; n += 1) {
    await turn('disabled');
    without.push(await one(platform));
    await turn('enabled');
    withThem.push(await one(platform));
    report(`round ${n + 1}: p99 ${without.at(-1)?.p99} ms without, ${withThem.at(-1)?.p99} ms with the bad ones`);
  }
  const [p99Without, p99With] = [without, withThem].map((side) => median(side.map(({ p99 }) => p99))) as [
    number,
    number,
  ];
  const ratio = round(p99With / p99Without, 2);
  const outcome = { machine: describeMachine(), without, with: withThem, ratio, goal: GOAL };
  process.stdout.write(
    values.json
      ? `${JSON.stringify(outcome, null, 2)}\n`
      : `p99 of ${GOOD} good endpoints: ${round(p99Without, 1)} ms alone, ${round(p99With, 1)} ms beside ${bad.length} bad ones: ${ratio} (goal ≤ ${GOAL})\n`,
  );
} finally {
  await servers.close();
  subscribers.closeAllConnections();
  subscribers.close();
}

/** Publishes `count` events, evenly, and waits until every good endpoint has all of them. */
async function one(platform: Platform): Promise<Round> {
  latencies = [];
  sentAt.clear();
  const began = performance.now();
  for (let n = 0; n < count; n += 1) {
    await delay(Math.max(0, began + (n * 1000) / perSecond - performance.now()));
    const [id, type] = [newId(), 'payment.succeeded'];
    const data = { payment_id: id, amount: 1, currency: 'EUR' };
    const time = new Date().toISOString();
    const envelope = {
      specversion: '1.0',
      id,
      source: 'client',
      type,
      time,
      data,
      correlationid: id,
      tenant: 'default',
    };
    sentAt.set(id, performance.now());
    const body = Buffer.from(JSON.stringify(envelope));
    await platform.publish([{ exchange: platform.topology.events, routingKey: type, body, messageId: id, type }]);
  }
  const end = performance.now() + PATIENCE_MS;
  while (latencies.length < GOOD * count && performance.now() < end) await delay(50);
  if (latencies.length < GOOD * count) throw new Error(`${latencies.length} of ${GOOD * count} deliveries arrived`);
  const sorted = latencies.toSorted((a, b) => a - b);
  const at = (share: number) => round(sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN, 1);
  return { p50: at(0.5), p99: at(0.99) };
}
