import { newId } from '../../src/domain/ids.ts';
import { EVENT_DATA } from '../load/requests.ts';
import type { Sample, Side } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Message, Platform, WaybillProcess } from '../platform.ts';

/** Ports, each an origin, that the receivers listen on. */
const ORIGINS = 10;

/** Subscribers of one platform: `each` endpoints for every type of event, over a few origins of one process. */
export class Subscribers {
  readonly receiver: Peer;
  readonly urls: string[];
  readonly types: string[];
  readonly each: number;

  private constructor(receiver: Peer, urls: string[], types: string[], each: number) {
    this.receiver = receiver;
    this.urls = urls;
    this.types = types;
    this.each = each;
  }

  /** `types` types of event named `<name>.<n>` with `each` endpoints for each of them, created through the API. */
  static async create(
    platform: Platform,
    { name, types, each }: { name: string; types: number; each: number },
  ): Promise<Subscribers> {
    const receiver = new Peer('load/receiver.ts');
    const ports = await receiver.ask<number[]>('listen', { ports: ORIGINS });
    const names = Array.from({ length: types }, (_, n) => `${name}.${n}`);
    const wanted = names.flatMap((type) => Array.from({ length: each }, () => type));
    const endpoints = wanted.map((type, i) => ({
      url: `http://127.0.0.1:${ports[i % ports.length]}/hooks/${i}`,
      event_types: [type],
    }));
    await platform.db.query(
      `insert into event_types (tenant, name, version, description, schema)
       select 'default', name, 1, 'bench', '{}' from unnest($1::text[]) as name on conflict do nothing`,
      [names],
    );
    await platform.db.query(`update revisions set revision = revision + 1 where name = 'event_types'`);
    const token = await platform.adminToken();
    const left = [...endpoints];
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let next = left.shift(); next; next = left.shift())
          await platform.call('POST', '/webhooks/endpoints', next, token);
      }),
    );
    return new Subscribers(
      receiver,
      endpoints.map(({ url }) => url),
      names,
      each,
    );
  }
}

/** The body that a subscriber receives for one event: what the baselines post too. */
export const payloadOf = (type: string): string =>
  JSON.stringify({ type, timestamp: new Date().toISOString(), data: EVENT_DATA });

function* events(platform: Platform, types: string[], count: number): Iterable<Message> {
  const actor = `user:${newId()}`;
  for (let n = 0; n < count; n += 1) {
    const id = newId();
    const type = types[n % types.length] as string;
    const envelope = {
      specversion: '1.0',
      id,
      source: 'client',
      type,
      time: new Date().toISOString(),
      datacontenttype: 'application/json',
      data: EVENT_DATA,
      correlationid: id,
      requestid: id,
      tenant: 'default',
      actor,
    };
    const body = Buffer.from(JSON.stringify(envelope));
    yield { exchange: platform.topology.events, routingKey: type, body, messageId: id, type };
  }
}

/**
 * One drain: the processes are held (SIGSTOP) while `count` events are put into the broker, then let go; the clock runs
 * until every delivery is recorded in PostgreSQL. What earlier drains left is thrown away unless it is to be kept.
 */
export async function drain(
  platform: Platform,
  subscribers: Subscribers,
  processes: WaybillProcess[],
  count: number,
  options: { keep?: boolean } = {},
): Promise<Sample> {
  if (!options.keep) await platform.db.query('truncate events, webhook_deliveries, webhook_attempts');
  const { rows } = await platform.db.query<{ now: string }>('select clock_timestamp()::text as now');
  const since = `>= '${rows[0]?.now}'`;
  for (const it of processes) it.freeze();
  await platform.publish(events(platform, subscribers.types, count));
  const target = count * subscribers.each;
  const cpu = processes.map((it) => it.cpuSeconds());
  const began = performance.now();
  for (const it of processes) it.thaw();
  await subscribers.receiver.ask('until', { target });
  const ours = `from webhook_deliveries where created_at ${since}`;
  const ended = await platform.until(`select count(*) ${ours} and status = 'delivered'`, target, 60_000, 10);
  const seconds = (ended - began) / 1000;
  const used = processes.map((it, i) => `${it.args[1]} ${(it.cpuSeconds() - (cpu[i] ?? 0)).toFixed(1)} s`);
  const recorded = await platform.count(`select count(*) ${ours}`);
  const attempts = await platform.count(`select count(*) from webhook_attempts where started_at ${since}`);
  if (recorded !== target || attempts < target)
    throw new Error(`${target} deliveries gave ${recorded} rows and ${attempts} attempts`);
  const parked = await platform.count(`select count(*) ${ours} and generation > 0`);
  const note = parked > 0 ? `; ${parked} of ${target} were parked on the way` : '';
  return { count: target, seconds, notes: [`CPU in ${seconds.toFixed(1)} s: ${used.join(', ')}${note}`] };
}

/**
 * Drains sized to take about `seconds` at the pace of the one before, and at least for `atLeast` per second: a small
 * drain is all beginning and end.
 */
export function drainSide(
  name: string,
  platform: Platform,
  subscribers: Subscribers,
  processes: () => WaybillProcess[],
  options: { seconds: number; atLeast: number; delayMs?: number },
): Side {
  let pace = options.atLeast;
  const run = async (seconds: number): Promise<Sample> => {
    const wanted = Math.max(1, Math.round((Math.max(pace, options.atLeast) * seconds) / subscribers.each));
    await subscribers.receiver.ask('reset', { delayMs: options.delayMs ?? 0 });
    const sample = await drain(platform, subscribers, processes(), wanted);
    pace = sample.count / sample.seconds;
    return sample;
  };
  return {
    name,
    async measure() {
      // A short drain says too little of the pace: the warm-up is repeated until it is long enough.
      for (let tries = 0; tries < 3; tries += 1) {
        const { seconds } = await run(0.3 * options.seconds);
        if (seconds >= 0.2 * options.seconds) break;
      }
      return run(options.seconds);
    },
  };
}
