import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { sql } from 'kysely';
import { BROKER_POOLS, type BrokerPool, Topology } from '../../src/queues/topology.ts';
import type { Outcome, Stage } from './lib/stage.ts';
import { eventually } from './lib/wait.ts';
import { onBroker } from './rabbit.ts';

/** What memory may grow by while poison is swallowed: caches and the heap's own ups and downs. */
const GROWTH_MIB = 120;

/**
 * Random and mutated messages on every queue: within `seconds` all of them are in the dead letters with a reason, and
 * nothing else was disturbed. `atOnce` leaves out what is tried again, half a minute long, before it is buried.
 */
export async function poison(
  stage: Stage,
  options: { perQueue: number; seconds: number; atOnce?: boolean },
): Promise<Outcome[]> {
  const { cluster } = stage;
  const load = stage.load();
  const problems: string[] = [];
  const pids = [...cluster.processes.values()].map((it) => it.pid);
  await load.run({ events: 30, registrations: 5 }, 2);
  const before = memory(stage);
  load.start({ events: 20, registrations: 4 });
  const sent = new Map<string, BrokerPool>();
  for (const pool of BROKER_POOLS) {
    stage.report(`${options.perQueue} poisonous messages on the queue of ${pool}`);
    await pour(stage, pool, fc.sample(poisonFor(pool, options.atOnce ?? false), options.perQueue), sent);
  }
  const dead = await eventually(
    'all of it is in the dead letters',
    async () => {
      const letters = await deadLetters(stage);
      return letters.filter(({ message_id }) => sent.has(message_id)).length >= sent.size ? letters : undefined;
    },
    options.seconds * 1000,
    500,
  ).catch(async (error: Error) => {
    const letters = await deadLetters(stage);
    const there = new Set(letters.map(({ message_id }) => message_id));
    const lacking = [...sent].filter(([id]) => !there.has(id)).map(([, pool]) => pool);
    problems.push(`${error.message}; ${lacking.length} are not (${[...new Set(lacking)].join(', ')})`);
    return { value: letters, seconds: 0 };
  });
  await load.stop();
  const mine = dead.value.filter(({ message_id }) => sent.has(message_id));
  if (mine.length > sent.size) problems.push(`${mine.length - sent.size} dead letters too many`);
  const unexplained = mine.filter(({ reason }) => /^(?:no reason|the broker gave up)/.test(reason));
  if (unexplained.length > 0)
    problems.push(`${unexplained.length} dead letters say only "${unexplained[0]?.reason}" (${unexplained[0]?.queue})`);
  if ([...cluster.processes.values()].some((it, i) => it.pid !== pids[i])) problems.push('a process was restarted');
  const growth = Math.max(...memory(stage).map((mib, i) => mib - (before[i] ?? 0)));
  if (growth > GROWTH_MIB) problems.push(`a process grew by ${growth.toFixed(0)} MiB`);
  const what = `${sent.size} poisonous messages, ${mine.length} dead letters, memory ${growth >= 0 ? '+' : ''}${growth.toFixed(0)} MiB`;
  return [{ load, drill: 'poison', what, recovered: null, problems }];
}

const memory = (stage: Stage): number[] => [...stage.cluster.processes.values()].map((it) => it.rss());

async function deadLetters(stage: Stage): Promise<{ message_id: string; queue: string; reason: string }[]> {
  const { rows } = await sql<{ message_id: string; queue: string; reason: string }>`
    select message_id, queue, reason from dead_letters`.execute(stage.database.em.fork().getKysely());
  return rows;
}

interface Drop {
  body: Uint8Array;
  headers: Record<string, string | number | boolean>;
}

/** Straight onto the queue, past everything that would refuse it, a few hundred unconfirmed at a time. */
async function pour(stage: Stage, pool: BrokerPool, drops: Drop[], sent: Map<string, BrokerPool>): Promise<void> {
  const queue = new Topology(stage.cluster.namespace).queue(pool);
  await onBroker(stage.cluster.servers.rabbitmq.url, async (model) => {
    const channel = await model.createConfirmChannel();
    for (const [n, { body, headers }] of drops.entries()) {
      const messageId = `poison-${randomUUID()}`;
      sent.set(messageId, pool);
      channel.sendToQueue(queue, Buffer.from(body), { persistent: true, messageId, headers });
      if (n % 300 === 299) await channel.waitForConfirms();
    }
    await channel.waitForConfirms();
    await channel.close();
  });
}

const text = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value) ?? '');

/** A sound envelope of a type that the pool takes; what makes it poison is put in afterwards. */
const sound = (pool: BrokerPool) => ({
  specversion: '1.0',
  id: randomUUID(),
  source: 'drill',
  type: {
    registration: 'user.register',
    kyc: 'kyc.cancel',
    audit: 'audit.record',
    fanout: 'x.y',
    webhooks: '',
    housekeeping: 'audit.verify',
  }[pool],
  time: new Date().toISOString(),
  data: {},
});
const REQUIRED = ['specversion', 'id', 'source', 'type', 'time'] as const;

/** Numbers and texts where the platform keeps its own headers, too. */
const headers = fc.dictionary(
  fc.oneof(
    fc.constantFrom('x-waybill-attempt', 'x-waybill-reply-to', 'x-waybill-repeat', 'x-waybill-first-error'),
    fc.stringMatching(/^[a-z-]{1,20}$/),
  ),
  fc.oneof(fc.string({ unit: 'binary', maxLength: 50 }), fc.integer({ min: -10, max: 1000 }), fc.boolean()),
  { maxKeys: 4 },
);

/** Messages of which none can be handled, whatever the pool. */
function poisonFor(pool: BrokerPool, atOnce: boolean): fc.Arbitrary<Drop> {
  const required = fc.constantFrom(...REQUIRED);
  const bodies: fc.Arbitrary<Uint8Array>[] = [
    // Bytes: a leading 0xff keeps them from being UTF-8 by accident.
    fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.concat([Buffer.from([0xff]), bytes])),
    fc.string({ unit: 'binary', maxLength: 200 }).map((it) => Buffer.from(`{"${it}`)),
    fc.json({ maxDepth: 4 }).map((it) => Buffer.from(it)),
    // An envelope cut short, without a member, or with a wrong one.
    fc.nat(60).map((n) => text(sound(pool)).subarray(0, n)),
    required.map((name) => text({ ...sound(pool), [name]: undefined })),
    fc
      .tuple(required, fc.oneof(fc.integer(), fc.constant(null), fc.array(fc.anything()), fc.boolean()))
      .map(([name, value]) => text({ ...sound(pool), [name]: value })),
    // Members that are too long, and ids that none of the pools takes.
    fc.constantFrom('id', 'type', 'source').map((name) => text({ ...sound(pool), [name]: 'x'.repeat(5000) })),
  ];
  if (pool !== 'fanout') {
    // Sound outside, rotten inside. Fan-out takes any data.
    bodies.push(
      fc.object({ maxDepth: 3 }).map((data) => text({ ...sound(pool), data })),
      fc.string({ unit: 'binary', maxLength: 100 }).map((type) => text({ ...sound(pool), type: `x${type}` })),
    );
  } else {
    bodies.push(
      fc.string({ unit: 'binary', minLength: 1, maxLength: 60 }).map((id) => text({ ...sound(pool), id: `.${id}` })),
    );
  }
  // What JSON can say and PostgreSQL cannot hold: found out only by the handler.
  if (pool === 'fanout' && !atOnce) {
    bodies.push(
      fc.constantFrom('subject', 'source', 'tenant').map((name) => text({ ...sound(pool), [name]: 'a\u0000b' })),
    );
  }
  if (pool === 'webhooks' && !atOnce) {
    const event = { id: 'e\u0000', tenant: 'default', type: 't', payload: '{}', correlation: 'c\u0000' };
    bodies.push(fc.uuid().map((to) => text({ check: false, events: [{ ...event, to: [[randomUUID(), to]] }] })));
  }
  return fc.record({ body: fc.oneof(...bodies), headers });
}
