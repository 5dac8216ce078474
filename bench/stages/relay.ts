import { newId } from '../../src/domain/ids.ts';
import { EVENT_DATA } from '../load/requests.ts';
import { compare, type Sample, type Side } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Platform, WaybillProcess } from '../platform.ts';
import { type Stage, type Subject, warmSeconds } from '../stage.ts';

const LEFT = 'select case when exists (select from outbox) then 0 else 1 end';

/** Stands for the aggregate of a row: each has its own, as nearly all that are in the outbox at one time. */
const SUBJECT = newId();

/** An envelope as a use case emits it. */
const BODY = JSON.stringify({
  specversion: '1.0',
  id: newId(),
  source: 'waybill',
  type: 'payment.succeeded',
  subject: SUBJECT,
  time: new Date().toISOString(),
  datacontenttype: 'application/json',
  data: EVENT_DATA,
  correlationid: newId(),
  requestid: newId(),
  sequence: 1,
  tenant: 'default',
  actor: `user:${newId()}`,
});

/** Writes `count` rows, while the leader is held if it is given, and resolves with the seconds from there until all are published. */
export async function relayRows(platform: Platform, count: number, leader?: WaybillProcess): Promise<number> {
  const queue = platform.topology.queue('fanout');
  await platform.purge(queue);
  leader?.freeze();
  await platform.db.query(
    `insert into outbox (transport, target, routing_key, message_id, body)
     select 'rabbitmq', 'events', 'payment.succeeded', gen_random_uuid()::text, replace($2, $3, gen_random_uuid()::text)
     from generate_series(1, $1::int)`,
    [count, BODY, SUBJECT],
  );
  const began = performance.now();
  leader?.thaw();
  const seconds = ((await platform.until(LEFT, 1, 60_000, 10)) - began) / 1000;
  if (leader) {
    const { messageCount } = await platform.channel.checkQueue(queue);
    if (messageCount < count) throw new Error(`${count} rows gave ${messageCount} messages`);
  }
  await platform.purge(queue);
  return seconds;
}

/** The housekeeping process, which leads the relay, is held while rows are written, then let go until none is left. */
function relaySide(platform: Platform, housekeeping: WaybillProcess, seconds: number): Side {
  let pace = 8000;
  const drain = async (length: number): Promise<Sample> => {
    const count = Math.round(pace * length);
    const cpu = housekeeping.cpuSeconds();
    const taken = await relayRows(platform, count, housekeeping);
    pace = count / taken;
    const used = (housekeeping.cpuSeconds() - cpu).toFixed(1);
    return { count, seconds: taken, notes: [`CPU of the relay in ${taken.toFixed(1)} s: ${used} s`] };
  };
  return {
    name: 'waybill',
    async measure() {
      await drain(seconds * 0.3);
      return drain(seconds);
    },
  };
}

async function barePublishSide(platform: Platform, publish: Peer, seconds: number): Promise<Side> {
  const queue = await platform.bareQueue('relay');
  return {
    name: 'bare',
    async measure() {
      const sample = await publish.ask<Sample>('run', {
        rabbitmqUrl: platform.urls.rabbitmqUrl,
        queue,
        body: BODY,
        warmSeconds: warmSeconds(seconds),
        seconds,
      });
      await platform.purge(queue);
      return sample;
    },
  };
}

async function subject(platform: Platform, seconds: number): Promise<Subject> {
  const housekeeping = await platform.start(['worker', 'housekeeping']);
  return { ...relaySide(platform, housekeeping, seconds), close: () => platform.stopAll() };
}

export const relay: Stage = {
  name: 'relay',
  unit: 'messages/s',
  subject,
  async run({ platform, seconds, runs, report }) {
    const waybill = await subject(platform, seconds);
    const publish = new Peer('baselines/publish.ts');
    try {
      return await compare([waybill, await barePublishSide(platform, publish, seconds)], runs, report, {
        stage: relay,
        goals: { bare: 0.5 },
        notes: [`messages of ${BODY.length} bytes`],
      });
    } finally {
      await Promise.all([waybill.close(), publish.stop()]);
    }
  },
};
